"""The commands of docs/find.md and of README.md print what is printed there."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.calls.summary import CALL_STATES
from sipdump_core.reading import shelves
from sipdump_core.reading.command import COMMANDS, main
from sipdump_core.record import Record
from tests.core.reading.stores import by_time, fill, workshop
from tests.flows.scene import Host, Scene, sdp

ROOT = Path(__file__).parents[3]
FIND = ROOT / "docs" / "find.md"
OWN_PAGES = {"tui": "terminal.md", "web": "web.md"}
"""Commands whose options have a page of their own."""
ALICE, PROXY, SBC = Host("192.0.2.10"), Host("203.0.113.1"), Host("203.0.113.7")
CARRIER, BOB = Host("198.51.100.30"), Host("198.51.100.20")
WATCHED = {PROXY: "edge-1", SBC: "sbc-1"}
FAILED, TO_CARRIER = "a84b4c76e66710@192.0.2.10", "7f3a9c2e@203.0.113.7"


def records() -> list[Record]:
    """Return the traffic of the documentation: a call that went well, and one that a carrier refused."""
    good = Scene(WATCHED, "3848276298@192.0.2.10")
    invite = good.at(-600_000).request("INVITE", ALICE, PROXY, BOB, body=sdp("192.0.2.10", 4000, "PCMA"))
    good.at(-599_600).reply(invite, "180 Ringing")
    good.at(-595_000).reply(invite, "200 OK", body=sdp("198.51.100.20", 5000, "PCMA"))
    good.at(-594_900).request("ACK", ALICE, PROXY, BOB, to_tag="b1")
    bye = good.at(-480_000).request("BYE", ALICE, PROXY, BOB, cseq=2, to_tag="b1")
    good.at(-479_980).reply(bye, "200 OK")

    refused = ('Reason: Q.850;cause=34;text="no circuit available"',)
    first, second = Scene(WATCHED, FAILED), Scene(WATCHED, TO_CARRIER)
    invite = first.at(7_000).request("INVITE", ALICE, PROXY, SBC, body=sdp("192.0.2.10", 4002, "PCMA"))
    first.at(7_003).reply(invite, "100 Trying", at=1, to_tag=None)
    onward = second.at(7_010).request(
        "INVITE", SBC, CARRIER, body=sdp("203.0.113.7", 6000, "PCMA"), headers=[f"X-CID: {FAILED}"]
    )
    second.at(7_510).again(onward)
    second.at(7_600).reply(onward, "100 Trying", to_tag=None)
    second.at(9_200).reply(onward, "503 Service Unavailable", headers=refused)
    second.at(9_202).hop("ACK", onward, to_tag="b1")
    first.at(9_205).reply(invite, "503 Service Unavailable", headers=refused)
    first.at(9_208).hop("ACK", invite, 1, to_tag="b1")
    first.at(9_210).hop("ACK", invite, 0, to_tag="b1")
    return by_time([*good.done(), *first.done(), *second.done()])


def make_store(folder: Path) -> None:
    """Store the traffic below a folder, and write ``sipdumpd.cfg`` for it."""
    stored = folder / "sipdump"
    stored.mkdir()
    shop = workshop(stored)
    traffic = records()
    for name in ("text", "parquet"):
        fill(shop.backend(name, shop.site()), traffic, traffic[0].time_us / 1e6)
    config = f'modparam("sipdump", "mode", 17)\nmodparam("sipdump", "folder", "{stored}")\n'
    (folder / "sipdumpd.cfg").write_text(config)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the traffic where the commands look when nothing else is said, in UTC."""
    make_store(tmp_path)
    monkeypatch.setattr(shelves, "DEFAULT_CONFIG", str(tmp_path / "sipdumpd.cfg"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.undo()
    time.tzset()


def sessions(page: Path) -> list[tuple[str, str]]:
    """Return the commands of a page, each with its output."""
    found = []
    for block in re.findall(r"(?m)(?:^    .*\n|^\n)+", page.read_text()):
        text = re.sub(r"(?m)^    ", "", block)
        for part in re.split(r"(?m)^\$ ", text)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command = command[:-1] + more.strip()
            if command.startswith("sipdump-read "):
                found.append((command, output.strip()))
    return found


def printed_as(expected: str) -> str:
    """Return an expression for an output, in which ``[...]`` stands for any lines."""
    return re.escape(expected).replace(re.escape("[...]"), "(?s:.*)")


@pytest.mark.parametrize("page", [FIND, ROOT / "README.md"], ids=lambda page: page.name)
@pytest.mark.usefixtures("store")
def test_each_command_prints_what_the_page_says(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = sessions(page)
    assert commands
    for command, expected in commands:
        main(shlex.split(command)[1:])
        out, err = capsys.readouterr()
        printed = "\n".join(line.rstrip() for line in (out + err).strip().splitlines())
        assert re.fullmatch(printed_as(expected), printed), f"{command}\n{printed}"


def test_every_command_option_and_state_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = FIND.read_text()
    missing = {state for state in CALL_STATES if f"`{state}`" not in page}
    for command in COMMANDS:
        assert f"`sipdump-read {command}" in page
        with pytest.raises(SystemExit):
            main([command, "--help"])
        options = set(re.findall(r"(?m)^  (--?[\w-]+)", capsys.readouterr().out)) - {"-h"}
        pages = page + (FIND.parent / OWN_PAGES[command]).read_text() if command in OWN_PAGES else page
        missing |= {option for option in options if not re.search(rf"`[^`]*(?<![\w-]){option}(?![\w-])", pages)}
    assert missing == set()
