"""Filters and spans, as they are typed."""

import json
import time
from pathlib import Path

import pytest

from tests.core.reading.run import found, run
from tests.core.reading.traffic import at, call, register, store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six calls and a registration, an hour of a day long past."""
    return store(
        tmp_path_factory.mktemp("store"),
        call("answered@a", at("10:00:10"), headers="User-Agent: Snom/10\r\n"),
        call("busy@a", at("10:10:00"), status=486, caller="carol", callee="+4930123", dst="203.0.113.2", node="ams-1"),
        call("failed@a", at("10:20:00"), status=503, caller="carol", proto="tls", src="2001:db8::1", dst="2001:db8::2"),
        call("gone@a", at("10:30:00"), status=404, callee="dave", headers="User-Agent: PolyVVX\r\nX-Tenant: acme\r\n"),
        call("open@a", at("10:40:00"), bye=False),
        register("reg@a", at("10:50:00")),
    )


ALL = ["answered@a", "busy@a", "failed@a", "gone@a", "open@a", "reg@a"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("", ALL),
        ("--call-id busy@a", ["busy@a"]),
        ("--call-id busy@a --call-id gone@a", ["busy@a", "gone@a"]),
        ("--call-id nosuch", []),
        ("--user carol", ["busy@a", "failed@a"]),
        ("--user sip:carol@example.com", ["busy@a", "failed@a"]),
        ("--user <sip:carol@example.com>", ["busy@a", "failed@a"]),
        ("--user carol@example.org", []),
        ("--user +49*", ["busy@a"]),
        ("--user tel:+4930123", ["busy@a"]),
        ("--user Carol", []),
        ("--from alice", ["answered@a", "gone@a", "open@a", "reg@a"]),
        ("--to alice", ["reg@a"]),
        ("--to dave --to +4930123", ["busy@a", "gone@a"]),
        ("--ip 203.0.113.2", ["busy@a"]),
        ("--ip 203.0.113.0/24:5060 --method INVITE", ["answered@a", "busy@a", "gone@a", "open@a"]),
        ("--ip 203.0.113.2:5061", []),
        ("--ip 2001:db8::/32", ["failed@a"]),
        ("--ip [2001:db8::2]:5060", ["failed@a"]),
        ("--method register", ["reg@a"]),
        ("--method BYE", ["answered@a"]),
        ("--status 503", ["failed@a"]),
        ("--status 4xx", ["busy@a", "gone@a"]),
        ("--status 400-499,503", ["busy@a", "failed@a", "gone@a"]),
        ("--status 401", []),  # it was tried again, and 200 decided
        ("--state refused", ["busy@a", "gone@a"]),
        ("--state REFUSED --state answered", ["busy@a", "gone@a", "open@a"]),
        ("--ua snom", ["answered@a"]),
        ("--node ams-1", ["busy@a"]),
        ("--tag snd --node ams-1", ["busy@a"]),
        ("--tag nosuch", []),
        ("--proto TLS", ["failed@a"]),
        ("--grep acme", ["gone@a"]),
        ("--grep /x-tenant:.a.me/i", ["gone@a"]),
        ("--grep /x-tenant/", []),
        ("--from carol --status 5xx --proto tls", ["failed@a"]),
        ("--from carol --status 4xx --proto tls", []),
        ("--method BYE --method REGISTER", ["answered@a", "reg@a"]),
        ("--since 2026-11-22T10:20Z --until 2026-11-22T10:40Z", ["failed@a", "gone@a"]),
        ("--since 2026-11-22T10:40:00Z", ["open@a", "reg@a"]),
        ("--until 2026-11-22T10:00:10Z", []),
        ("--since @1795343400", ["gone@a", "open@a", "reg@a"]),
        ("--last 10m", []),
        ("--since -15m", []),
        ("--since yesterday", []),
        ("--until -15m --from carol", ["busy@a", "failed@a"]),
    ],
)
def test_filters(folder: Path, capsys: pytest.CaptureFixture[str], filters: str, expected: list[str]) -> None:
    assert found(capsys, "--folder", folder, *filters.split()) == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("--status 9xx", "'9xx' is not a status"),
        ("--status 20", "is not a status"),
        ("--state busy", "'busy' is not a state; choose from ended, answered"),
        ("--proto x", "'x' is not a transport; choose from udp"),
        ("--ip 10.0.0.300", "is not an address"),
        ("--ip 10.0.0.1:99999", "is not an address"),
        ("--grep /(/", "missing )"),
        ("--user sip:", "an empty user"),
        ("--since noon", 'is not a time: write it as "10:32"'),
        ("--since -15x", "is not a span of time"),
        ("--until 25:00", "is not a time"),
        ("--last soon", "must be numbers with the units"),
        ("--last 1h --since 10:00", "--last and --since exclude each other"),
        ("--since now --until -1h", "the span is empty"),
        ("--since 2026-11-22T10:00Z --until 2026-11-22T10:00Z", "the span is empty"),
        ("--around x", "must be numbers"),
        ("--limit -1", "is not a whole number"),
        ("--limit x", "'x' is not a whole number"),
        ("--sort nosuch", "is not a field to sort by; choose from began"),
        ("--json --csv", "not allowed with"),
        ("--nosuch", "unrecognized arguments"),
        ("--leg-regex (", "not a regular expression"),
        ("--leg-regex x", "has no group"),
        ("--folder /nosuch", "--folder /nosuch: there is no such folder"),
        ("--file /nosuch", "--file /nosuch: there is no such file"),
        ("--store http://x", 'must be "s3://BUCKET/PREFIX"'),
        ("-f /nosuch", "/nosuch"),
    ],
)
def test_wrong_values(folder: Path, capsys: pytest.CaptureFixture[str], filters: str, message: str) -> None:
    code, out, err = run(capsys, "find", "--folder", folder, *filters.split())
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) <= 3


def test_without_a_store(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.reading.shelves.DEFAULT_CONFIG", "/nosuch/sipdumpd.cfg")
    code, _, err = run(capsys, "find")
    assert code == 2
    assert "say what to read: -f CONFIG, --folder, --file or --store; there is no /nosuch/sipdumpd.cfg" in err


def test_the_default_store(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(
        f'loadmodule "sipdump.so"\nmodparam("sipdump", "folder", "{folder}")\nmodparam("sipdump", "mode", 16)\n'
    )
    monkeypatch.setattr("sipdump_core.reading.shelves.DEFAULT_CONFIG", str(config))
    assert found(capsys) == ALL
    assert found(capsys, "-f", config) == ALL


def test_definitions_of_a_configuration(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.cfg"
    config.write_text(
        f'#!ifdef HERE\nmodparam("sipdump", "folder", "{folder}")\n#!else\n'
        f'modparam("sipdump", "folder", "{tmp_path}")\n#!endif\nmodparam("sipdump", "mode", 16)\n'
    )
    assert found(capsys, "-f", config, "-A", "HERE") == ALL
    assert found(capsys, "-f", config) == []


def test_stores_add_up(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = store(tmp_path, call("other@a", at("10:05:00")), backends=["text"])
    (file,) = other.glob("*.data")
    assert found(capsys, "--folder", folder, "--folder", other) == ["answered@a", "other@a", *ALL[1:]]
    assert found(capsys, "--folder", folder, "--file", file) == ["answered@a", "other@a", *ALL[1:]]
    assert found(capsys, "--folder", other, "--fprefix", "nosuch-") == []


def test_a_file_by_itself_is_never_excluded_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path / "", call("one@a", at("10:05:00")), backends=["text"])
    (file,) = tmp_path.glob("*.data")
    renamed = tmp_path / "kamailio-sipdump-2031-01-01--00-00-00.data"
    file.rename(renamed)
    assert found(capsys, "--file", renamed, "--since", "2026-11-22T10:00Z", "--until", "2026-11-22T11:00Z") == ["one@a"]
    plain = tmp_path / "ticket 4711.data"
    renamed.rename(plain)
    assert found(capsys, "--file", plain) == ["one@a"]


def test_times_are_of_the_zone_of_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for zone, head, span in (
        ("Asia/Tokyo", "began (JST)", ("2026-11-22 19:30", "2026-11-22 19:31")),
        ("America/New_York", "began (EST)", ("2026-11-22 05:30", "2026-11-22 05:31")),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert found(capsys, "--folder", folder, "--since", span[0], "--until", span[1]) == ["gone@a"]
        _, out, _ = run(capsys, "find", "--folder", folder, "--call-id", "gone@a")
        assert out.splitlines()[0].startswith(head)
        assert out.splitlines()[1].startswith(f"{span[0]}:00.000")
        code, _, err = run(capsys, "find", "--folder", folder, "--call-id", "nosuch")
        assert code == 1
        assert ("(+09:00)" if zone == "Asia/Tokyo" else "(-05:00)") in err


def test_every_command_takes_the_filters(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    filters = ("--folder", folder, "--from", "carol", "--status", "503")
    code, out, _ = run(capsys, "stats", *filters, "--json")
    assert code == 0
    assert json.loads(out)["sessions"]["attempts"] == 1
    code, out, _ = run(capsys, "tail", *filters, "--once")
    assert code == 0
    assert [line.split("  ")[4] for line in out.splitlines()] == ["503 Because (INVITE)"]
    code, _, err = run(capsys, "export", *filters, "-o", tmp_path / "x.jsonl")
    assert code == 0
    assert "has 1 call\n" in err
