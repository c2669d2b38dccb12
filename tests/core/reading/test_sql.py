"""``sipdump-read sql``: all that is stored is in the views, each record once, and nothing is left behind."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.calls.summary import Summary
from sipdump_core.reading import views
from sipdump_core.reading.command import main
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet.table import TYPES
from tests.core.reading.stores import by_time, fill, workshop
from tests.flows import FLOWS
from tests.s3_server import Server
from tests.s3_support import backend_of, sent

START = 1_795_386_720  # 2026-11-22 22:32:00 UTC


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary files have a folder of their own, which is empty afterwards."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    return store


Ask = Callable[..., Any]


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return a function that asks the folder's store, and returns the rows."""

    def ask(statement: str, *more: str, status: int = 0) -> Any:
        assert main(["sql", statement, "--folder", str(folder), "--json", *more]) == status
        out, err = capsys.readouterr()
        assert status or not err, err
        return json.loads(out)

    return ask


def message(number: int, method: str = "OPTIONS") -> Record:
    """Return a message that has its number in its Call-ID; they are a second apart."""
    buf = (
        f"{method} sip:bob@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{number}\r\n"
        f"From: <sip:alice@192.0.2.1>;tag=a\r\nTo: <sip:bob@192.0.2.2>\r\nCall-ID: {number}@x\r\n"
        f"CSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n"
    )
    return Record.of(
        buf.encode(), time_us=(START + number) * 1_000_000 + 250_000, src_ip="192.0.2.1", src_port=5060,
        dst_ip="192.0.2.2", dst_port=5060, node="fra-1", pid=7, procno=3,
    )  # fmt: skip


def store(folder: Path, name: str, first: int, count: int, at: int | None = None) -> Path:
    """Store some messages in a segment of a backend, and return its path."""
    shop = workshop(folder)
    backend = shop.backend(name, shop.site())
    records = [message(number) for number in range(first, first + count)]
    return folder / fill(backend, records, START + (first if at is None else at)).name


NUMBERS = "SELECT cseq FROM messages ORDER BY ALL"


def numbers(rows: list[dict[str, int]]) -> list[int]:
    return [row["cseq"] for row in rows]


def test_the_columns_of_messages_are_those_of_parquet() -> None:
    kinds = {
        "int64": "BIGINT", "int32": "INTEGER", "string": "VARCHAR", "binary": "BLOB",
        "timestamp[us, tz=UTC]": "TIMESTAMPTZ", "list<item: string>": "VARCHAR[]", "list<element: string>": "VARCHAR[]",
    }  # fmt: skip
    assert {name: kinds[str(kind)] for name, kind in TYPES.items()} == views.MESSAGES


def test_the_columns_of_calls_are_the_fields_of_find() -> None:
    assert list(views.CALLS) == [field.name for field in attrs.fields(Summary)]


def test_sealed_parquet_files_are_read_where_they_are(folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    store(folder, "parquet", 0, 3)
    store(folder, "parquet", 10, 2)
    monkeypatch.setattr(views, "_write", None)  # nothing is converted
    assert numbers(ask(NUMBERS)) == [0, 1, 2, 10, 11]


@pytest.mark.parametrize("name", ["text", "pcap"])
def test_other_segments_are_converted(folder: Path, ask: Ask, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_CHUNK_RECORDS", 2)  # several temporary files
    monkeypatch.setattr(views, "_BATCH", 1)
    store(folder, name, 0, 5)
    store(folder, "parquet", 10, 2)
    assert numbers(ask(NUMBERS)) == [0, 1, 2, 3, 4, 10, 11]
    (row,) = ask("SELECT * FROM messages WHERE cseq = 4")
    assert list(row) == list(views.MESSAGES)
    known = {"call_id": "4@x", "from_user": "alice", "method": "OPTIONS", "pid": 7, "via_branch": "z9hG4bK4"}
    assert {name: row[name] for name in known} == known
    assert row["time"] == "2026-11-22T22:32:04.250000Z"
    assert row["buf"].encode() == message(4).buf


def test_a_record_that_several_backends_have_comes_once(folder: Path, ask: Ask) -> None:
    for name in ("text", "pcap", "parquet"):
        store(folder, name, 0, 4)
    store(folder, "text", 20, 2)
    assert numbers(ask(NUMBERS)) == [0, 1, 2, 3, 20, 21]
    (row,) = ask("SELECT DISTINCT node FROM messages WHERE cseq < 20")
    assert row == {"node": "fra-1"}  # from the backend that loses nothing


def test_an_open_segment_counts(folder: Path, ask: Ask) -> None:
    store(folder, "parquet", 0, 2)
    shop = workshop(folder)
    backend = shop.backend("parquet", shop.site())
    fill(backend, [message(5), message(6)], START + 5, close=False)
    try:
        assert numbers(ask(NUMBERS)) == [0, 1, 5, 6]
    finally:
        backend.close()
        backend.stop()


def test_segments_in_a_bucket(
    folder: Path, tmp_path: Path, s3_server: Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    backend = backend_of(s3_server.endpoint, s3_bucket, folder, format="parquet")
    backend.spool.prepare()
    backend.inner.start()
    backend.open(attrs.evolve(Segment.starting(backend.site.prefix, START), suffix=backend.suffix))
    backend.write([message(1), message(2)])
    backend.close()
    backend.inner.stop()
    assert len(sent(backend)) == 1
    config = tmp_path / "s3.cfg"
    lines = {"endpoint_url": s3_server.endpoint, "bucket": s3_bucket, "node": backend.opts.node}
    config.write_text(
        f'modparam("sipdump", "mode", 32)\nmodparam("sipdump", "folder", "{folder}")\n'
        f'modparam("sipdump", "fprefix", "{backend.site.prefix}")\n'
        + "".join(f'modparam("sipdump_s3", "{name}", "{value}")\n' for name, value in lines.items())
    )
    for more in ([], ["--store", f"s3://{s3_bucket}"]):  # the second time it is named twice, and read once
        assert main(["sql", NUMBERS, "-f", str(config), "--json", *more]) == 0
        assert numbers(json.loads(capsys.readouterr().out)) == [1, 2]


def test_a_column_of_its_own_is_there(folder: Path, ask: Ask) -> None:
    store(folder, "parquet", 0, 1)
    shop = workshop(folder, mode=16)
    from sipdump_parquet import ParquetBackend
    from sipdump_parquet.options import ParquetOptions

    backend = ParquetBackend(ParquetOptions(header=("Max-Forwards",), columns="seq,time,cseq"), shop.site())
    fill(backend, [message(5)], START + 5)
    assert ask("SELECT cseq, max_forwards, method FROM messages ORDER BY cseq") == [
        {"cseq": 0, "max_forwards": None, "method": "OPTIONS"},
        {"cseq": 5, "max_forwards": None, "method": None},
    ]


def test_the_span_holds_for_both_views(folder: Path, ask: Ask) -> None:
    store(folder, "parquet", 0, 30)
    store(folder, "text", 30, 30)
    span = ["--since", "2026-11-22T22:32:25Z", "--until", "2026-11-22T22:32:35Z"]
    assert numbers(ask(NUMBERS, *span)) == list(range(25, 35))
    assert ask("SELECT count(*) AS n FROM calls", *span) == [{"n": 10}]


def test_only_what_a_statement_names_is_read(folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    store(folder, "text", 0, 2)
    monkeypatch.setattr(views.Views, "make_calls", None)
    monkeypatch.setattr(views.Views, "make_messages", None)
    assert ask("SELECT 1.5 AS x, 2 AS x, NULL AS y") == [{"x": 1.5, "x_1": 2, "y": None}]


def test_calls_have_what_find_says(folder: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    flow = next(flow for flow in FLOWS if any(answer["legs"] for answer in flow.answers.values()))
    shop = workshop(folder)
    records = by_time(flow.records)
    fill(shop.backend("parquet", shop.site()), records, records[0].time_us / 1e6)
    assert main(["find", "--folder", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ask("SELECT * FROM calls ORDER BY began, call_id") == found
    (row,) = ask("SELECT count(DISTINCT call_id) AS n FROM messages JOIN calls USING (call_id)")
    assert row["n"] == len(found)


def test_hostile_values_reach_no_terminal(folder: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    shop = workshop(folder)
    buf = (
        message(1)
        .buf.replace(b"sip:alice@", b"sip:\x1b[31m\xe2\x80\xae\xff\x00%00@")
        .replace(b": 1@x", b": 1\x1b]0;@x")
    )
    fill(shop.backend("text", shop.site()), [attrs.evolve(message(1), buf=buf)], START)
    for statement in ("SELECT * FROM messages", "SELECT * FROM calls", 'SELECT hops AS "\x1b[2J" FROM calls'):
        for form in ([], ["--json"], ["--csv"]):
            assert main(["sql", statement, "--folder", str(folder), *form]) == 0
            assert all(line.isprintable() for line in re.split(r"\r?\n", capsys.readouterr().out)), form
    assert ask("SELECT buf FROM messages")[0]["buf"] == buf.decode("utf-8", "backslashreplace")
    assert len(ask("SELECT from_user FROM calls")) == 1


def test_a_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    store(folder, "parquet", 0, 2)
    statement = "SELECT cseq, time, method, status, buf FROM messages ORDER BY cseq"
    assert main(["sql", statement, "--folder", str(folder)]) == 0
    assert capsys.readouterr().out == (
        "cseq  time (UTC)                  method   status  buf\n"
        "   0  2026-11-22 22:32:00.250000  OPTIONS       -  OPTIONS sip:bob@192.0.2.2 SIP/2.0 …\n"
        "   1  2026-11-22 22:32:01.250000  OPTIONS       -  OPTIONS sip:bob@192.0.2.2 SIP/2.0 …\n"
    )


def test_a_statement_counts_in_utc(folder: Path, ask: Ask) -> None:
    store(folder, "parquet", 0, 1)
    statement = "SELECT hour(time) AS hour, minute(time) AS minute, CAST(time AS VARCHAR) AS text FROM messages"
    assert ask(statement) == [{"hour": 22, "minute": 32, "text": "2026-11-22 22:32:00.25+00"}]


def test_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, "parquet", 0, 1)
    statement = "SELECT time, NULL AS nothing, [1, 2] AS list, true AS yes, method FROM messages"
    assert main(["sql", statement, "--folder", str(folder), "--csv"]) == 0
    out = capsys.readouterr().out
    assert out == 'time,nothing,list,yes,method\n2026-11-22T22:32:00.250000Z,,"[1, 2]",true,OPTIONS\n'


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_nothing_found(folder: Path, form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, "parquet", 0, 1)
    assert main(["sql", "SELECT method FROM messages WHERE cseq > 5", "--folder", str(folder), *form]) == 1
    out, err = capsys.readouterr()
    assert out == {"": "", "--json": "[]\n", "--csv": "method\n"}["".join(form)]
    assert "nothing was found in 1 segment of parquet" in err


def test_an_empty_store_has_both_views(ask: Ask) -> None:
    assert ask("SELECT count(*) AS n FROM messages UNION ALL SELECT count(*) FROM calls") == [{"n": 0}, {"n": 0}]


@pytest.mark.parametrize(
    "statement", ["SELEC 1", "SELECT * FROM nosuch", "SELECT nosuch FROM messages", "SELECT 'a'::INT"]
)
def test_wrong_sql(folder: Path, statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, "text", 0, 1)
    assert main(["sql", statement, "--folder", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("sipdump-read: ")
    assert "Error" in err


@pytest.mark.parametrize("statement", ["", " ; ", "-- nothing"])
def test_no_statement(folder: Path, statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", statement, "--folder", str(folder)]) == 2
    assert capsys.readouterr().err == "sipdump-read: the statement is empty\n"


def test_no_extension_is_fetched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT * FROM 'https://192.0.2.1/x.parquet'", "--folder", str(folder)]) == 2
    assert "httpfs" in capsys.readouterr().err


def test_the_bound_of_what_is_converted(folder: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, "text", 0, 20)
    assert main(["sql", NUMBERS, "--folder", str(folder), "--convert", "1k"]) == 2
    assert "narrow the span with --since and --until, or raise --convert" in capsys.readouterr().err
    assert numbers(ask(NUMBERS, "--convert", "1k", "--since", "@1795386735", "--until", "@1795386738")) == [15, 16, 17]
    assert len(ask(NUMBERS, "--convert", "0")) == 20


def test_a_wrong_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sql", NUMBERS, "--folder", str(folder), "--convert", "lots"])
    assert ended.value.code == 2
    assert "'lots' is no size: write it as 500m or 2g" in capsys.readouterr().err


def test_a_damaged_file_is_named_and_another_backend_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, "text", 0, 2)
    damaged = store(folder, "parquet", 0, 2)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    alone = store(folder, "parquet", 10, 2)
    alone.write_bytes(b"PAR1 no PAR1")
    store(folder, "parquet", 20, 2)
    assert main(["sql", NUMBERS, "--folder", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert numbers(json.loads(out)) == [0, 1, 20, 21]
    assert f"{damaged}" in err
    assert "read from text instead" in err
    assert f"{alone}" in err


def test_a_path_is_no_pattern_of_duckdbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a'[b]*?"
    folder.mkdir()
    store(folder, "parquet", 0, 2)
    assert main(["sql", NUMBERS, "--folder", str(folder), "--json"]) == 0
    assert numbers(json.loads(capsys.readouterr().out)) == [0, 1]


def test_times_outside_of_the_calendar(folder: Path, ask: Ask) -> None:
    shop = workshop(folder)
    year_9999 = int(datetime(9999, 12, 31, 23, 59, tzinfo=UTC).timestamp()) * 1_000_000
    records = [attrs.evolve(message(1), time_us=0), attrs.evolve(message(2), time_us=year_9999 + 3_600_000_000)]
    fill(shop.backend("text", shop.site()), records, START)
    times = [row["time"] for row in ask("SELECT time FROM messages ORDER BY time")]
    assert times[0] == "1970-01-01T00:00:00.000000Z"
    assert times[1].startswith("10000-01-01 00:59:00")


def test_without_duckdb_it_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("database", "views"):
        monkeypatch.delitem(sys.modules, f"sipdump_core.reading.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert main(["sql", NUMBERS, "--folder", str(folder)]) == 2
    assert "pip install 'sipdump[query]'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_query_and_leaves_nothing(folder: Path, temporary: Path, number: int, status: int) -> None:
    store(folder, "text", 0, 2)
    statement = "SELECT sum(a.range * b.range) FROM messages, range(10000000) a, range(10000000) b"
    command = [sys.executable, "-m", "sipdump_core.reading", "sql", statement, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        until(lambda: any(path.name.endswith(".parquet") for path in temporary.rglob("messages-*")))
        process.send_signal(number)
        out, err = process.communicate()
        watchdog.cancel()
    assert process.returncode == status, err
    assert not out


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(600):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError("it did not come true")
