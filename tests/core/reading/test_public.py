"""A store that a program opens, as docs/python.md says."""

import re
from pathlib import Path

import attrs
import pytest

from sipdump_core import ConfigError, Query, Store
from sipdump_core.drivers.query import parse_endpoint, parse_grep
from tests.core.reading.stores import by_time, fill, workshop
from tests.flows import FLOWS

DOCS = Path(__file__).parents[3] / "docs"
FLOW = next(
    flow
    for flow in FLOWS
    if len(flow.answers) == 2 and not (flow.headers or flow.heuristic) and all(a["legs"] for a in flow.answers.values())
)
"""A call of two legs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shop = workshop(tmp_path)
    records = by_time(FLOW.records)
    fill(shop.backend("parquet", shop.site()), records, records[0].time_us / 1e6)
    return tmp_path


def test_the_example_of_the_documentation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = (DOCS / "python.md").read_text().partition("\n## Find\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    first, second = FLOW.answers
    code = found[1].replace("/var/lib/sipdump", str(folder)).replace("a84b4c76e66710@192.0.2.10", first)
    code = code.replace('Query(users="alice", statuses="5xx")', "Query()")  # no call of the flow failed
    exec(code, {})
    out = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in out[:2]} == {first, second}
    assert [line[: line.index(", 'kind'")] for line in out if "'kind'" in line] == [
        f"{{'call_id': '{call_id}'" for call_id in (first, second)
    ]
    asked = {"INVITE", "BYE"}
    records = [
        record
        for record in FLOW.records
        if record.buf.partition(b" ")[0].decode() in asked and "192.0.2." in f"{record.src_ip} {record.dst_ip}"
    ]
    assert len(out) == 2 + 2 + len(records) + 1
    assert out[-1] == "1 []"


def test_what_is_named_may_be_one_or_several(folder: Path) -> None:
    (path,) = folder.glob("*.parquet")
    for store in (
        Store.open(folders=folder),
        Store.open(folders=[str(folder)], fprefix="kamailio-sipdump-"),
        Store.open(files=path),
        Store.open(files=[path]),
    ):
        assert {found.summary.call_id for found in store.find(Query())} == set(FLOW.answers)
    assert list(Store.open(folders=folder, fprefix="other-").find(Query())) == []


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Store.open(folders=tmp_path / "nosuch")
    with pytest.raises(ConfigError, match="no such file"):
        Store.open(files=tmp_path / "nosuch.data")
    with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
        Store.open(urls="http://x")


def test_what_was_searched_is_that_of_the_last_question(folder: Path) -> None:
    (folder / "kamailio-sipdump-2026-11-22--12-00-00.parquet").write_bytes(b"no Parquet")
    store = Store.open(folders=folder)
    assert store.searched.segments == 0
    for _ in range(2):  # the numbers do not add up
        assert store.call(next(iter(FLOW.answers)), legs=False)
        assert (store.searched.segments, store.searched.backends) == (1, {"parquet"})
        assert "12-00-00.parquet" in store.searched.problems[0]
    assert sum(1 for _ in store.records(Query())) == len(FLOW.records)
    assert store.searched.segments == 1


def test_a_text_alone_is_one_value() -> None:
    one = Query(
        call_ids="a@x", users="alice", methods="invite", statuses="4xx", endpoints="192.0.2.1:5060", greps="/b+/i",
        protos="UDP", states="Ended",
    )  # fmt: skip
    assert one.call_ids == {"a@x"}
    assert [*one.users, *one.methods, *one.protos, *one.states] == ["alice", "INVITE", "udp", "ended"]
    assert one.statuses == frozenset(range(400, 500))
    assert one.endpoints == {parse_endpoint("192.0.2.1:5060")}
    assert one.greps == {parse_grep("/b+/i")}


def test_texts_among_other_values() -> None:
    query = Query(statuses=[503, "600-603"], endpoints=[parse_endpoint("192.0.2.1"), "2001:db8::/32"])
    assert query.statuses == {503, 600, 601, 602, 603}
    assert query.endpoints == {parse_endpoint("192.0.2.1"), parse_endpoint("2001:db8::/32")}
    assert attrs.evolve(query, statuses=404).statuses == {404}
    with pytest.raises(ValueError, match="not an address"):
        Query(endpoints="nowhere")
