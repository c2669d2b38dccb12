"""The redact filter in a SipDump: what its parameters do, and that nothing leaks beside it."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.admin.command import main as admin
from sipdump_core.config.reader import read_config
from sipdump_core.control.commands import Rpc
from sipdump_core.daemon import main as daemon
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.discovery import Driver, discover
from sipdump_core.errors import ConfigError, RecordError, StorageError
from sipdump_core.masking.users import Tokens
from sipdump_core.pipeline.spool import SpoolOptions
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump
from tests import planted
from tests.core.reading.run import found, run
from tests.core.support import A, B, files, read
from tests.s3_server import Server

KEY = b"0123456789abcdef"
ALL: dict[str, Any] = {"credentials": 1, "keys": 1, "bodies": "MESSAGE,INFO", "headers": "X-Secret"}


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o600)
    return f"hmac:{path}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


class Refusing(Backend):
    """Takes everything but what has an even number; away at first, so that its spool fills."""

    name = "refusing"
    options = SpoolOptions
    away = True

    def write(self, batch: Sequence[Record]) -> None:
        if self.away:
            raise StorageError("write", "there", f"away, with {batch[0].buf!r}")
        refused = [at for at, record in enumerate(batch) if len(record.buf) % 2]
        if refused:
            raise RecordError("write", "there", f"bad: {batch[refused[0]].buf!r}", refused)


def everything(folder: Path, options: dict[str, Any], mode: int, **more: Any) -> SipDump:
    params: dict[str, Any] = {"folder": str(folder), "enable": 1, "mode": mode, **more}
    settings = [Setting("sipdump", name, value) for name, value in params.items()]
    settings += [Setting("sipdump_redact", name, value) for name, value in options.items()]
    settings += [Setting("sipdump", "backend", "refusing"), Setting("sipdump_refusing", "spool", str(folder / "spool"))]
    return SipDump(plan=make_plan(settings, [*discover(), Driver("refusing", "sipdump-more", "1", Refusing)]))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "sipdump"):
        yield caplog


def all_bytes(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("route", [0, 1])
def test_no_planted_secret_is_in_any_byte_that_is_kept(
    folder: Path,
    key: str,
    logged: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    route: int,
) -> None:
    Refusing.away = True
    secrets = planted.Secrets()
    seen = []
    with everything(
        folder, {**ALL, "users": key, "redact_route": route}, 1 + 2 + 4 + 8 + 16 + 128, queue=20_000
    ) as dump:
        dump.event_route(lambda record: seen.append(record.buf))
        for place, buf in enumerate(planted.messages(secrets, 1_000)):
            dump.received(buf, A, B, time_us=1_795_386_431_000_000 + place)
        dump.flush(20)
        while_open = all_bytes(folder)  # write-ahead files and the spool, too
        assert b"planted-" in (folder / "spool").rglob("*").__next__().parent.name.encode() + while_open
        Refusing.away = False
        dump.flush(30)
        stats = dump.stats()
        answers = repr(Rpc(dump).call("sipdump.stats")) + repr(stats)
    assert secrets.count > 10_000
    assert stats.filters["redact"].changed > 900
    assert files(folder, ".dead")
    kept = {path.suffix for path in folder.iterdir()}
    assert {".data", ".pcap", ".parquet", ".dead", ".meta"} <= kept
    assert planted.MARK not in while_open
    assert planted.MARK not in all_bytes(folder)
    assert planted.MARK.decode() not in answers
    assert planted.MARK.decode() not in logged.text
    assert (planted.MARK in b"".join(seen)) is not bool(route)
    for backend in ("parquet", "pcap", "text"):  # what is compressed there is read
        out = tmp_path / f"{backend}.jsonl"
        (segment,) = files(folder, {"parquet": ".parquet", "pcap": ".pcap", "text": ".data"}[backend])
        assert run(capsys, "export", "--file", segment, "-o", out)[0] == 0
        assert out.read_bytes().count(b"planted-") > 300
        assert planted.MARK not in out.read_bytes()


def test_nothing_that_was_planted_is_in_a_bucket(
    folder: Path, key: str, tmp_path: Path, s3_server: Server, s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "s3.cfg"
    text = [f'modparam("sipdump", "folder", "{folder}")', 'modparam("sipdump", "mode", 160)']
    values = {"bucket": s3_bucket, "endpoint_url": s3_server.endpoint, "addressing": "path", "region": "us-east-1"}
    text += [f'modparam("sipdump_s3", "{name}", "{value}")' for name, value in values.items()]
    text += [f'modparam("sipdump_redact", "users", "{key}")', 'modparam("sipdump_redact", "credentials", 1)']
    text += ['modparam("sipdump_redact", "keys", 1)', 'modparam("sipdump_redact", "bodies", "*")']
    config.write_text("\n".join([*text, 'modparam("sipdump_redact", "headers", "X-Secret")', ""]))
    with SipDump(read_config(config).settings, enable=1) as dump:
        for place, buf in enumerate(planted.messages(planted.Secrets(), 200)):
            dump.received(buf, A, B, time_us=1_795_386_431_000_000 + place)
        dump.flush(20)
        spooled = all_bytes(folder)
    assert planted.MARK not in spooled + all_bytes(folder)
    assert spooled.count(b"planted-") > 50
    out = tmp_path / "out.jsonl"
    assert run(capsys, "export", "-f", config, "-o", out)[0] == 0
    assert out.read_bytes().count(b"planted-") > 50
    assert planted.MARK not in out.read_bytes()


def test_without_it_they_are_there(folder: Path) -> None:
    secrets = planted.Secrets()
    with SipDump(enable=1, mode=1, folder=str(folder)) as dump:
        for buf in planted.messages(secrets, 10):
            dump.received(buf, A, B)
    assert planted.MARK in all_bytes(folder)


MESSAGE = (
    b"INVITE sip:+4930123456@example.com SIP/2.0\r\nFrom: <sip:alice@example.com>;tag=1\r\n"
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: one\r\nCSeq: 1 INVITE\r\nProxy-Authorization: Basic c2VjcmV0\r\nContent-Length: 0\r\n\r\n"
)


def stored(folder: Path, **options: Any) -> bytes:
    with SipDump(enable=1, mode=129, folder=str(folder), backend_options={"redact": options}) as dump:
        dump.received(MESSAGE, A, B)
        dump.flush()
        (record,) = read(folder)
    return record.buf


def test_by_default_nothing_is_redacted_and_that_is_said(folder: Path, logged: pytest.LogCaptureFixture) -> None:
    assert stored(folder) == MESSAGE
    assert "redact is switched on, and none of its parameters is set: it changes nothing" in logged.text


def test_what_is_set_and_not_switched_on_is_said(folder: Path) -> None:
    settings = [Setting("sipdump", "folder", str(folder)), Setting("sipdump_redact", "credentials", 1, "k.cfg:2:1")]
    (notice,) = make_plan(settings).notices
    what = "redact (128) is set, but neither mode nor backend switches it on: nothing is filtered by it"
    assert str(notice) == f"k.cfg:2:1: {what}"
    assert not make_plan([*settings, Setting("sipdump", "mode", 129)]).notices


def test_two_nodes_with_one_key_give_one_token_and_calls_are_found(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        kept.append(stored(tmp_path / name, users=key))
    assert kept[0] == kept[1]
    assert b"4930123456" not in kept[0]
    assert Tokens(KEY).stand_in(b"4930123456") in kept[0]
    config = tmp_path / "sipdumpd.cfg"
    text = f'modparam("sipdump", "folder", "{tmp_path}/a")\nmodparam("sipdump", "mode", 129)\n'
    config.write_text(text + f'modparam("sipdump_redact", "users", "{key}")\n')
    for user in ("+4930123456", "4930123456", "4930123456@example.com", "alice", "bob"):
        assert found(capsys, "-f", config, "--user", user) == ["one"]
        assert found(capsys, "--folder", tmp_path / "b", "--users-key", tmp_path / "key", "--user", user) == ["one"]
        assert found(capsys, "--folder", tmp_path / "b", "--user", user) == []
    assert found(capsys, "-f", config, "--from", "alice", "--to", "bob") == ["one"]
    assert found(capsys, "-f", config, "--user", "carol") == []
    _, _, err = run(capsys, "find", "-f", config, "--user", "4930*")
    assert "tokens stand for whole users" in err
    (tmp_path / "key").chmod(0o644)
    _, _, err = run(capsys, "find", "-f", config, "--user", "alice")
    assert "users are looked for as they were typed only" in err
    code, _, err = run(capsys, "find", "-f", config, "--users-key", tmp_path / "key", "--user", "alice")
    assert (code, "--users-key: all users of this machine may get at the key" in err) == (2, True)


def test_the_last_digits_go_and_the_call_is_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert b"sip:+493012xxxx@example.com" in stored(folder, users="mask:4")
    config = tmp_path / "sipdumpd.cfg"
    text = f'modparam("sipdump", "folder", "{folder}")\nmodparam("sipdump", "mode", 129)\n'
    config.write_text(text + 'modparam("sipdump_redact", "users", "mask:4")\n')
    assert found(capsys, "-f", config, "--user", "+4930123456") == ["one"]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("users", "hmac:/nosuch", "users: there is no key /nosuch; make one with"),
        ("users", "md5:/x", 'must be "hmac:/path/of/a/key" or "mask:N"'),
        ("credentials", 2, "must be one of: 0, 1"),
        ("unparsed", "keep", "must be one of: mask, drop, store"),
        ("headers", "X Secret", "'X Secret' is no name"),
        ("redact_route", "1", "must be an integer"),
    ],
)
def test_wrong_parameters_refuse_the_start_and_the_check(
    folder: Path, tmp_path: Path, name: str, value: Any, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as found_:
        stored(folder, **{name: value})
    assert error in str(found_.value)
    config = tmp_path / "sipdumpd.cfg"
    shown = f'"{value}"' if isinstance(value, str) else value
    text = f'modparam("sipdump", "folder", "{folder}")\nmodparam("sipdump", "mode", 129)\n'
    config.write_text(text + f'modparam("sipdump_redact", "{name}", {shown})\n')
    assert daemon(["-c", "-f", str(config)]) == 1
    assert f"{config}:3:" in (said := capsys.readouterr().err)
    assert error in said


def test_what_an_import_brings_goes_through_the_filters_of_the_configuration(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SipDump(enable=1, mode=1, folder=str(folder)) as dump:
        dump.received(MESSAGE, A, B)
    (source,) = files(folder, ".data")
    config = tmp_path / "sipdumpd.cfg"
    for mode, to in ((129, []), (1, []), (129, ["--to", "pcap,text"])):
        target = tmp_path / f"to-{mode}-{len(to)}"
        target.mkdir()
        text = f'modparam("sipdump", "folder", "{target}")\nmodparam("sipdump", "mode", {mode})\n'
        config.write_text(text + 'modparam("sipdump_redact", "credentials", 1)\n')
        assert read_config(config).settings
        assert admin(["import", "-f", str(config), *to, str(source)]) == 0
        assert len(files(target, ".pcap")) == bool(to)
        assert (b"c2VjcmV0" in all_bytes(target)) is (mode == 1)
        capsys.readouterr()


def test_what_is_dropped_is_counted_and_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"redact": {"credentials": 1, "unparsed": "drop"}}
    with SipDump(enable=1, mode=129, folder=str(folder), backend_options=options) as dump:
        dump.received(b"garbage", A, B)
        dump.received(MESSAGE, A, B)
        dump.flush()
        stats = dump.stats().filters["redact"]
        assert (stats.taken, stats.changed, stats.dropped, stats.counters) == (
            2,
            1,
            {"by the filter": 1},
            {"unparsed": 1},
        )
        assert len(read(folder)) == 1


def test_every_first_party_driver_is_made_for_this_version() -> None:
    (driver,) = (each for each in discover() if each.name == "redact")
    assert (driver.kind, driver.flag) == ("filter", 128)
