"""Spark reads what two collectors stored, and opens only the files that it must."""

import importlib.util
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from tests import calls
from tests.e2e.peers import lacking, need
from tests.engines.document import example


@pytest.fixture(scope="module")
def spark(dataset: Path) -> Iterator[Any]:
    if importlib.util.find_spec("pyspark") is None:
        lacking("not installed: pyspark")
    need("java")
    from pyspark.sql import SparkSession

    with chdir(dataset.parent):  # Java looks paths up where it was started
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.sql.adaptive.enabled", "false")  # else the plan that was run hides its scan
            .getOrCreate()
        )
    yield session
    session.stop()


@pytest.fixture(scope="module")
def found(spark: Any) -> dict[str, Any]:
    """The names that the document's example defines."""
    return example("Spark", spark=spark)


def test_all_records_of_both_collectors_are_there(found: dict[str, Any]) -> None:
    counted = {row["node"]: row["count"] for row in found["sip"].groupBy("node").count().collect()}
    assert counted == {
        collector: sum(len(s.records) for s in calls.segments() if s.collector == collector)
        for collector in calls.COLLECTED
    }


def test_times_are_to_the_microsecond_and_messages_to_the_byte(found: dict[str, Any]) -> None:
    types = dict(found["sip"].dtypes)
    assert (types["time"], types["date"], types["hour"], types["buf"]) == ("timestamp", "date", "int", "binary")
    rows = found["sip"].selectExpr("unix_micros(time) AS time", "tag", "buf").collect()
    kept = sorted((r.time_us, r.tag, r.buf) for s in calls.segments() for r in s.records)
    assert sorted((row["time"], row["tag"], bytes(row["buf"])) for row in rows) == kept


def test_one_call_is_found(found: dict[str, Any]) -> None:
    late = [(r.tag, r.buf) for s in calls.segments() for r in s.records if r.call_id == calls.LATE]
    assert [(row["tag"], bytes(row["buf"])) for row in found["calls"].collect()] == late


def test_other_files_are_not_opened(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found["calls"].explain("formatted")
    (filters,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("PartitionFilters:"))
    assert all(condition in filters for condition in ("= 2026-11-22)", ">= 6)", "<= 8)"))
    assert files_read(found["sip"]) == sum(calls.COLLECTED.values())
    assert files_read(found["calls"]) == 4  # all of that day's
    assert files_read(found["sip"].where(f"node = '{calls.AMS}'")) == calls.COLLECTED[calls.AMS]
    assert files_read(found["sip"].where(f"node = '{calls.FRA}' AND hour = 7")) == 1


def test_files_of_both_schema_versions_are_read(found: dict[str, Any]) -> None:
    counted = found["sip"].groupBy("node").agg({"via_branch": "count"}).collect()
    fra = sum(len(s.records) for s in calls.segments() if s.collector == calls.FRA)
    assert {row[0]: row[1] for row in counted} == {calls.FRA: fra, calls.AMS: 0}


def files_read(frame: Any) -> int:
    """Run a query, and give how many files its scan has opened, from the metrics of the plan that was run."""
    fresh = frame.select("*")  # a plan that is run again counts no files again
    fresh.collect()
    leaf = fresh._jdf.queryExecution().executedPlan().collectLeaves().head()
    return int(leaf.metrics().apply("numFiles").value())
