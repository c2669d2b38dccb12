"""Every call flow is found in every store as it was worked out by hand, sealed and open."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.calls.legs import LegRules
from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.query import Query
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import BackendShelf, open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.segment import Segment
from tests.core.reading.stores import by_time, fill, workshop
from tests.flows import FLOWS, Flow
from tests.s3_server import Server
from tests.s3_support import backend_of, sent

ROOT = Path(__file__).parents[3]

BACKENDS = ("text", "pcap", "parquet")


def found(store: Store, flow: Flow, query: Query) -> dict[str, Any]:
    searched = Searched()
    if flow.now_us is not None:
        store.now_us = lambda: flow.now_us or 0  # type: ignore[method-assign]  # the time that the answer is for
    calls = {one.call.call_id: one.summary.as_json() for one in store.find(query, searched)}
    assert searched.problems == []
    return calls


def without(answers: Any, *fields: str) -> dict[str, Any]:
    return {
        call_id: {name: value for name, value in answer.items() if name not in fields}
        for call_id, answer in answers.items()
    }


def opened(folder: Path, flow: Flow) -> Store:
    shelves, problems = open_shelves(folders=[str(folder)])
    assert problems == []
    return Store(shelves, rules=LegRules(flow.headers, heuristic=flow.heuristic))


def check(store: Store, flow: Flow, backend: Backend) -> None:
    """Check what a store of one flow answers."""
    answers: Any = flow.answers
    if "node" not in backend.loses:
        assert found(store, flow, Query()) == answers
    elif flow.of_nodes:  # which node saw what is lost: what was seen twice counts as sent twice
        ((_, call),) = found(store, flow, Query()).items()
        (answer,) = answers.values()
        assert [call[name] for name in ("state", "status", "hops")] == [
            answer[name] for name in ("state", "status", "hops")
        ]
    else:
        assert without(found(store, flow, Query()), "nodes") == without(answers, "nodes")
    for call_id in answers:
        ((other_id, call),) = found(store, flow, Query(call_ids=[call_id])).items()
        assert other_id == call_id
        assert call["legs"] == answers[call_id]["legs"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_flow_in_a_sealed_segment(tmp_path: Path, flow: Flow, name: str) -> None:
    shop = workshop(tmp_path)
    backend = shop.backend(name, shop.site())
    records = by_time(flow.records)
    fill(backend, records, records[0].time_us / 1e6)
    check(opened(tmp_path, flow), flow, backend)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("flow", FLOWS[::5], ids=lambda flow: flow.name)
def test_a_flow_in_an_open_segment(tmp_path: Path, flow: Flow, name: str) -> None:
    shop = workshop(tmp_path)
    backend = shop.backend(name, shop.site())
    records = by_time(flow.records)
    fill(backend, records, records[0].time_us / 1e6, close=False)
    try:
        now = records[-1].time_us if flow.now_us is None else flow.now_us
        check(opened(tmp_path, flow), flow._replace(now_us=now), backend)
    finally:
        backend.close()
        backend.stop()


@pytest.mark.parametrize("flow", FLOWS[::5], ids=lambda flow: flow.name)
def test_a_flow_that_rotations_cut_is_whole(tmp_path: Path, flow: Flow) -> None:
    shop = workshop(tmp_path)
    backends = [shop.backend(name, shop.site()) for name in BACKENDS]
    records = by_time(flow.records)
    parts = [records[at : at + 3] for at in range(0, len(records), 3)]
    for n, part in enumerate(parts):
        for backend in backends[n % 2 :]:  # no backend but the last two has all of it
            fill(backend, part, records[0].time_us / 1e6 + n)
    check(opened(tmp_path, flow), flow, backends[2])


@pytest.mark.parametrize("flow", FLOWS[::5], ids=lambda flow: flow.name)
def test_a_flow_in_a_bucket(tmp_path: Path, flow: Flow, s3_server: Server, s3_bucket: str) -> None:
    records = by_time(flow.records)
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, format="parquet")
    segment = Segment(backend.site.prefix, "2026-11-22--10-32-00", 0, backend.suffix)
    backend.spool.prepare()
    backend.inner.start()
    backend.open(segment)
    backend.write(records)
    backend.close()
    backend.inner.stop()
    assert len(sent(backend)) == 1
    store = Store([BackendShelf(backend)], rules=LegRules(flow.headers, heuristic=flow.heuristic))
    check(store, flow, backend)


@pytest.mark.parametrize("flow", FLOWS[::5], ids=lambda flow: flow.name)
def test_a_flow_in_a_third_partys_store(tmp_path: Path, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "sipdump-jsonl"))
    jsonl = import_module("sipdump_jsonl")
    backend = jsonl.JsonlBackend(jsonl.JsonlOptions(), Site(str(tmp_path), "p-"))
    records = by_time(flow.records)
    fill(backend, records, records[0].time_us / 1e6)
    check(Store([BackendShelf(backend)], rules=LegRules(flow.headers, heuristic=flow.heuristic)), flow, backend)
