"""What commands print."""

import json
from contextlib import redirect_stdout
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.admin.output import Output

ROWS = [{"name": "a", "size": 7, "records": None}, {"name": "longer", "size": 100, "records": 3}]


def test_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("a line")
    output.table(ROWS, ("name", "size", "records"))
    output.value({"outer": {"inner": 1}})
    assert output.result(ROWS) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a line",
        "name    size  records",
        "a       7     -",
        "longer  100   3",
        "{",
        "\touter: {",
        "\t\tinner: 1",
        "\t}",
        "}",
    ]


def test_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("a line")
    output.table(ROWS, ("name",))
    assert output.result(ROWS) == 0
    assert json.loads(capsys.readouterr().out) == ROWS


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_printed_and_ends_with_1(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json)
    output.error("no such folder")
    assert output.result([]) == 1
    assert capsys.readouterr().err == "sipdump-admin: no such folder\n"


def test_lines_go_through_the_bar_and_past_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    with output.progress("prune", "segments", 2) as progress:
        progress.step()
        output.say("one")
    output.say("two")
    out, err = capsys.readouterr()
    assert (out, err) == ("one\ntwo\n", "")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DOCUMENTS = st.recursive(LEAVES, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=20)


@given(DOCUMENTS)
def test_json_is_indented_as_pythons(document: object) -> None:
    with redirect_stdout(StringIO()) as out:
        Output(as_json=True).result(document)
    assert out.getvalue() == json.dumps(document, indent=2) + "\n"


def test_a_cell_may_hold_anything(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([{"name": "100%s", "x": ""}, {"name": "\u202e\n", "x": True}], ("name", "x"))
    assert capsys.readouterr().out == "name   x\n100%s\n\\u202e\n     True\n"
