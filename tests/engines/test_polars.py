"""Polars reads what two collectors stored, and opens only the files that it must."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tests import calls
from tests.e2e.peers import lacking
from tests.engines.document import example


@pytest.fixture
def polars() -> Any:
    if importlib.util.find_spec("polars") is None:
        lacking("not installed: polars")
    import polars

    return polars


@pytest.fixture
def found(polars: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the document's example defines."""
    monkeypatch.chdir(dataset.parent)
    return example("Polars", polars=polars)


def test_all_records_of_both_collectors_are_there(polars: Any, found: dict[str, Any]) -> None:
    counted = found["sip"].group_by("node").len().collect().rows()
    assert dict(counted) == {
        collector: sum(len(s.records) for s in calls.segments() if s.collector == collector)
        for collector in calls.COLLECTED
    }


def test_times_are_to_the_microsecond_and_messages_to_the_byte(polars: Any, found: dict[str, Any]) -> None:
    schema = found["sip"].collect_schema()
    assert schema["time"] == polars.Datetime("us", "UTC")
    assert (schema["date"], schema["hour"]) == (polars.Date, polars.Int64)
    columns = [polars.col("time").cast(polars.Int64), polars.col("tag").cast(polars.String), "buf"]
    kept = sorted((r.time_us, r.tag, r.buf) for s in calls.segments() for r in s.records)
    assert sorted(found["sip"].select(columns).collect().rows()) == kept


def test_one_call_is_found_and_other_files_are_not_opened(found: dict[str, Any]) -> None:
    late = [r.buf for s in calls.segments() for r in s.records if r.call_id == calls.LATE]
    rows = found["calls"].collect()
    assert sorted(rows["buf"]) == sorted(late)
    assert rows["time"].is_sorted()
    assert len(set(re.findall(r"node=[\w-]+/date=[\d-]+/hour=\d+", found["calls"].explain()))) <= 4
    plan = found["sip"].filter(node=calls.FRA, hour=7).explain()
    assert "hour=07" in plan
    assert "hour=08" not in plan
    assert calls.AMS not in plan


def test_files_of_both_schema_versions_are_read(polars: Any, found: dict[str, Any]) -> None:
    counted = found["sip"].group_by("node").agg(polars.col("via_branch").count()).collect().rows()
    fra = sum(len(s.records) for s in calls.segments() if s.collector == calls.FRA)
    assert dict(counted) == {calls.FRA: fra, calls.AMS: 0}
