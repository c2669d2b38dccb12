"""The questions of docs/query.md, asked in DuckDB over what two collectors stored, with their answers."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset
import pyarrow.parquet
import pytest

from tests import calls
from tests.s3_server import Server

DOC = Path(__file__).parents[3] / "docs" / "query.md"


def statements(heading: str) -> list[str]:
    """Return the SQL blocks under a heading of the document."""
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", DOC.read_text(), re.MULTILINE | re.DOTALL)
    assert section, heading
    return re.findall(r"^```sql\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> Path:
    return calls.store(tmp_path_factory.mktemp("dataset"), s3_server)


@pytest.fixture
def db(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A DuckDB with the view and the macros of the document, in the folder where the dataset stands."""
    monkeypatch.chdir(dataset.parent)
    with duckdb.connect() as connection:
        zone, view, _, macro = statements("DuckDB")
        for statement in (zone, view, macro, statements("Slow answers")[0]):
            connection.sql(statement)
        yield connection


def rows(db: Any, sql: str) -> list[tuple[Any, ...]]:
    # by way of Arrow: DuckDB itself makes Python's aware times with a library that is not there
    return [tuple(row.values()) for row in db.sql(sql).to_arrow_table().to_pylist()]


def files_read(db: Any, sql: str) -> int:
    plan = db.sql(f"EXPLAIN ANALYZE {sql}").fetchall()[0][1]
    found = re.search(r"Total Files Read: (\d+)", plan)
    assert found, plan
    return int(found[1])


def test_all_records_of_both_collectors_are_there(db: Any) -> None:
    hours = [(s.collector, datetime.fromtimestamp(s.start, UTC).replace(minute=0)) for s in calls.segments()]
    stored = {hour: len(s.records) for hour, s in zip(hours, calls.segments(), strict=True)}
    found = rows(db, "SELECT node, started AT TIME ZONE 'UTC', count(*) FROM sip GROUP BY ALL")
    assert {(node, started): count for node, started, count in found} == stored


def test_times_are_to_the_microsecond_and_messages_to_the_byte(db: Any) -> None:
    kept = {(r.time_us, r.tag, r.src_ip, r.buf) for s in calls.segments() for r in s.records}
    assert set(rows(db, "SELECT epoch_us(time), tag, src_ip, buf FROM sip")) == kept


def test_files_that_cannot_hold_the_answer_are_not_opened(db: Any) -> None:
    everything = sum(calls.COLLECTED.values())
    assert files_read(db, "SELECT count(*) FROM sip") == everything
    assert files_read(db, "SELECT count(*) FROM sip WHERE node = 'ams-1'") == calls.COLLECTED[calls.AMS]
    assert files_read(db, "SELECT count(*) FROM sip WHERE date = DATE '2026-11-23'") == 1
    assert files_read(db, "SELECT count(*) FROM sip WHERE node = 'fra-1' AND hour = 7") == 1
    plan = db.sql("EXPLAIN ANALYZE SELECT count(*) FROM sip WHERE node = 'ams-1'").fetchall()[0][1]
    assert f"Scanning Files: {calls.COLLECTED[calls.AMS]}/{everything}" in plan


def test_a_range_of_time_reads_the_segments_that_began_before_it(db: Any) -> None:
    asked = "FROM sip_between('2026-11-22 08:05', '2026-11-22 08:15') WHERE call_id = 'late@198.51.100.10'"
    assert rows(db, f"SELECT DISTINCT hour {asked}") == [(7,)]
    assert files_read(db, f"SELECT count(*) {asked}") == 4  # all of that day's
    assert files_read(db, "SELECT count(*) FROM sip_between('2026-11-22 23:50', '2026-11-23 01:00')") == 1


def test_the_capture_node_is_behind_the_folder_of_its_name(db: Any) -> None:
    found = "SELECT DISTINCT node FROM read_parquet('sip/*/*/*/*.parquet', hive_partitioning = false) ORDER BY node"
    assert rows(db, found) == [("proxy-ams",), ("proxy-fra",)]
    assert rows(db, "SELECT DISTINCT node FROM sip ORDER BY node") == [(calls.AMS,), (calls.FRA,)]


def test_left_alone_an_hour_is_text(db: Any) -> None:
    hours = "SELECT DISTINCT typeof(hour), hour FROM read_parquet('sip/*/*/*/*.parquet') ORDER BY hour"
    assert rows(db, hours) == [("VARCHAR", "00"), ("VARCHAR", "07"), ("VARCHAR", "08")]


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    """The same files in one folder, as the Parquet backend leaves them."""
    for path in dataset.rglob("*.parquet"):
        node = path.relative_to(dataset).parts[0]
        (tmp_path / f"{node}-{path.name}").write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "heading",
    [
        "Find a call", "A call's messages, both directions, in order", "Read its messages", "Slow answers",
        "Calls an hour, and how many were answered", "Failed registrations by user agent", "Top talkers",
        "Errors by destination",
    ],
)  # fmt: skip
def test_a_plain_folder_answers_as_the_bucket(heading: str, db: Any, folder: Path) -> None:
    """``node`` is the capture node there."""
    captured = {calls.FRA: "proxy-fra", calls.AMS: "proxy-ams"}

    def renamed(value: Any) -> Any:
        return [renamed(each) for each in value] if isinstance(value, list) else captured.get(str(value), value)

    asked = [sql.partition(";\n\n")[2] or sql for sql in statements(heading)]
    expected = [sorted(tuple(map(renamed, row)) for row in rows(db, sql)) for sql in asked]
    with duckdb.connect() as local:
        zone, _, view, macro = statements("DuckDB")
        for sql in (zone, view.replace("/var/spool/sipdump", str(folder)), macro, statements("Slow answers")[0]):
            local.sql(sql)
        assert [sorted(rows(local, sql)) for sql in asked] == expected
        (costs,) = statements("What a partition costs")
        (whole,) = rows(local, costs.replace("sip/**", str(folder)))
        assert whole[:2] == ("", sum(calls.COLLECTED.values()))


@pytest.mark.parametrize("bucket", [True, False], ids=["layout", "folder"])
def test_files_of_version_1_alone_answer_too(bucket: bool, dataset: Path, folder: Path) -> None:
    """One of the two collectors writes them; what they lack is null."""
    for path in folder.glob("*.parquet"):
        if not path.name.startswith(f"node={calls.AMS}"):
            path.unlink()
    zone, layout, plain, macro = statements("DuckDB")
    view = layout.replace("sip/*/", f"{dataset}/node={calls.AMS}/") if bucket else plain
    found = re.search(r"If all are of version 1, .* write\n`(SELECT .*,)` instead of `(SELECT .*)`", DOC.read_text())
    assert found
    view = view.replace(found[2], found[1])
    with duckdb.connect() as local:
        for sql in (zone, view.replace("/var/spool/sipdump", str(folder)), macro, statements("Slow answers")[0]):
            local.sql(sql)
        assert rows(local, "SELECT count(*) > 0, count(from_tag), count(via_branch) FROM sip") == [(True, 0, 0)]
        for heading in ("Calls an hour, and how many were answered", "Errors by destination"):
            (sql,) = statements(heading)
            assert rows(local, sql)


def test_find_a_call(db: Any) -> None:
    (sql,) = statements("Find a call")
    began = datetime(2026, 11, 22, 7, 30, 0, 500, UTC)
    assert rows(db, sql) == [(calls.FIND_ME, began, "alice", "bob", 200, [calls.AMS, calls.FRA])]


def test_a_forked_call_whose_change_was_refused_is_an_answered_call(db: Any) -> None:
    (sql,) = statements("Find a call")
    found = rows(db, sql.replace("07:30", "07:26").replace("07:40", "07:27"))
    assert [(row[0], row[4]) for row in found] == [(calls.FORKED, 200)]
    asked = "SELECT cseq, final, delay_ms FROM invites_between('2026-11-22 07:26', '2026-11-22 07:27')"
    assert rows(db, asked) == [(1, 200, 80)]


def test_a_changed_call_is_one_call_and_its_refused_change_no_error(db: Any) -> None:
    asked = "SELECT call_id, final, delay_ms FROM invites_between('2026-11-22 07:27', '2026-11-22 07:28')"
    assert rows(db, asked) == [(calls.CHANGED, 200, 40)]
    (errors,) = statements("Errors by destination")
    span = errors.replace("07:00'", "07:27'").replace("08:00'", "07:28'")
    assert rows(db, span) == [(calls.GATEWAY, 1, 0, 0.0, None)]


def test_a_call_that_was_answered_at_the_second_try_is_answered(db: Any) -> None:
    asked = "SELECT call_id, final, delay_ms FROM invites_between('2026-11-22 07:28', '2026-11-22 07:29')"
    assert rows(db, asked) == [(calls.NEGOTIATED, 200, 70)]
    (find,) = statements("Find a call")
    found = rows(db, find.replace("07:30", "07:28").replace("07:40", "07:29"))
    assert [(row[0], row[4]) for row in found] == [(calls.NEGOTIATED, 200)]
    (errors,) = statements("Errors by destination")
    span = errors.replace("07:00'", "07:28'").replace("08:00'", "07:29'")
    assert rows(db, span) == [(calls.GATEWAY, 1, 0, 0.0, None)]


def test_the_messages_of_a_call_are_in_order(db: Any) -> None:
    (sql,) = statements("A call's messages, both directions, in order")
    found = rows(db, sql)
    there, back = (("fra-1", "rcv"), ("fra-1", "snd"), ("ams-1", "rcv"), ("ams-1", "snd")), [
        ("ams-1", "rcv"), ("ams-1", "snd"), ("fra-1", "rcv"), ("fra-1", "snd"),
    ]  # fmt: skip
    flow = [
        ("INVITE", there),
        ("180 INVITE", back),
        ("200 INVITE", back),
        ("ACK", there),
        ("BYE", there),
        ("200 BYE", back),
    ]
    assert [(row[5], row[1], row[2]) for row in found] == [(message, *hop) for message, path in flow for hop in path]
    assert found[0] == (
        "07:30:00.000500", "fra-1", "rcv", "198.51.100.10:5060", "192.0.2.1:5060", "INVITE",
    )  # fmt: skip


def test_read_a_message(db: Any) -> None:
    (sql,) = statements("Read its messages")
    assert rows(db, sql) == [(calls.Dialog(calls.FIND_ME).request("INVITE").decode(),)]


def test_slow_answers(db: Any) -> None:
    first, percentiles = statements("Slow answers")
    slowest = [(f"pdd-{n}@x", "bob", 200, calls.RINGING_MS[n], calls.RINGING_MS[n] + 3000) for n in range(19, 14, -1)]
    assert rows(db, first.partition(";\n\n")[2]) == slowest
    # of 100, 200 ... 2000 ms: halfway between the 10th and the 11th; 19.05 steps of 100 ms
    assert rows(db, percentiles) == [(calls.FRA, 20, 1050.0, 1905.0)]


def test_calls_an_hour(db: Any) -> None:
    (sql,) = statements("Calls an hour, and how many were answered")
    hours = [datetime(2026, 11, 22, hour, tzinfo=UTC) for hour in (7, 8)]
    # at 7: one to find, 20 of the delays, 11 of which 5 are answered, one that the second gateway takes, one forked,
    # one changed, one tried again
    found = [
        (calls.AMS, hours[0], 1, 1, 100.0),
        (calls.FRA, hours[0], 36, 30, 83.3),
        (calls.FRA, hours[1], 1, 1, 100.0),
    ]
    assert rows(db, sql) == found


def test_failed_registrations_by_user_agent(db: Any) -> None:
    (sql,) = statements("Failed registrations by user agent")
    assert rows(db, sql) == [
        ("friendly-scanner", 12, 12, 401, [calls.SCANNER]),
        ("OldPhone/1", 2, 2, 403, [calls.OLD_PHONE]),
    ]


def test_top_talkers(db: Any) -> None:
    (sql,) = statements("Top talkers")
    requests = Counter(
        (r.src_ip, r.call_id)
        for s in calls.segments()
        for r in s.records
        if r.tag == "rcv" and not r.buf.startswith(b"SIP/2.0") and r.time_us < calls.at("08:00:00")
    )
    talkers = {r for r, _ in requests} - set(calls.PROXIES)  # the first three are no proxies
    expected = [
        (
            ip,
            sum(count for (src, _), count in requests.items() if src == ip),
            len({c for src, c in requests if src == ip}),
        )
        for ip in talkers
    ]
    assert rows(db, sql) == sorted(expected, key=lambda row: -row[1])[:3]
    assert rows(db, sql)[1] == (calls.SCANNER, 24, 12)


def test_errors_by_destination(db: Any) -> None:
    (sql,) = statements("Errors by destination")
    # the refusals are four 503, a 404, and the 500 after which the call went elsewhere; the 487 is the caller's own
    assert rows(db, sql) == [
        (calls.BAD_GATEWAY, 13, 6, 46.2, 503),
        (calls.AMS_PROXY, 1, 0, 0.0, None),
        (calls.GATEWAY, 25, 0, 0.0, None),
    ]


def test_what_a_partition_costs(db: Any, dataset: Path) -> None:
    (sql,) = statements("What a partition costs")
    expected = []
    for path in sorted(dataset.rglob("*.parquet")):
        footer = pyarrow.parquet.read_metadata(path)
        chunks = [
            footer.row_group(g).column(c) for g in range(footer.num_row_groups) for c in range(footer.num_columns)
        ]
        sizes = [(chunk.path_in_schema, chunk.total_compressed_size) for chunk in chunks]
        without = sum(size for name, size in sizes if name != "buf")
        expected.append((str(path.parent.relative_to(dataset)), 1, sum(size for _, size in sizes), without))
    assert len(expected) == sum(calls.COLLECTED.values())
    assert rows(db, sql) == expected


def test_pyarrow_reads_the_layout_as_it_does_by_default(dataset: Path) -> None:
    found = pyarrow.parquet.read_table(dataset, filters=[("node", "=", "fra-1"), ("hour", "=", 7)])
    (stored,) = (
        s for s in calls.segments() if (s.collector, s.start) == (calls.FRA, calls.at("07:00:00") // 1_000_000)
    )
    assert sorted(found["buf"].to_pylist()) == sorted(r.buf for r in stored.records)
    assert found["time"].type == pyarrow.timestamp("us", "UTC")


def test_the_bucket_is_read_where_it_is(dataset: Path, s3_server: Server, s3_bucket: str) -> None:
    with s3_server.client() as client:
        for path in dataset.rglob("*.parquet"):
            key = f"prefix/{path.relative_to(dataset)}"
            client.put_object(Bucket=s3_bucket, Key=key, Body=path.read_bytes())
    example = re.search(r"^```python\n(import duckdb.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    assert example
    server = f'S3FileSystem(endpoint_override="{s3_server.endpoint}")'
    names: dict[str, Any] = {}
    exec(example[1].replace("bucket/prefix", f"{s3_bucket}/prefix").replace("S3FileSystem()", server), names)
    late = [r.buf for s in calls.segments() for r in s.records if r.call_id == calls.LATE]
    assert sorted(names["found"].to_arrow_table()["buf"].to_pylist()) == sorted(late)


ATHENA = {
    "int64": "bigint", "int32": "int", "string": "string", "binary": "binary", "timestamp[us, tz=UTC]": "timestamp",
    "list<element: string>": "array<string>",
}  # fmt: skip
TRINO = {
    **ATHENA,
    "int32": "integer",
    "string": "varchar",
    "binary": "varbinary",
    "timestamp[us, tz=UTC]": "timestamp(6)",
    "list<element: string>": "array(varchar)",
}


@pytest.mark.parametrize(("heading", "types"), [("Athena", ATHENA), ("Trino", TRINO)])
def test_the_tables_have_the_columns_of_the_files(heading: str, types: dict[str, str], dataset: Path) -> None:
    body = statements(heading)[0].partition("(")[2]
    columns = re.findall(
        r"[`\"]?(\w+)[`\"]? ([a-z]+(?:\(6\)|<string>|\(varchar\))?)[,)](?=\s)", body.partition("collector")[0] + "\n"
    )
    schema = pyarrow.parquet.read_schema(next(dataset.rglob(f"node={calls.FRA}/**/*.parquet")))
    plain = {
        field.name: field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type for field in schema
    }
    assert columns == [(name, types[str(kind)]) for name, kind in plain.items()]


def test_every_statement_of_the_document_is_run_by_a_test() -> None:
    headings = re.findall(r"^##+ (.*)$", DOC.read_text(), re.MULTILINE)
    tested = set(re.findall(r'statements\("(.*?)"\)', Path(__file__).read_text())) | {"Athena", "Trino"}
    assert {heading for heading in headings if statements(heading)} == tested
