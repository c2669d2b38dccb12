"""Which of the stored segments are read, so that each record comes once."""

from collections.abc import Sequence

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.reading.units import Holding, Unit, units
from sipdump_core.segment import Segment, StoredSegment

HOUR = "2026-11-27--10-"


class Store(Backend):
    def __init__(self, name: str, *, loses: Sequence[str] = (), forgeable: bool = False, remote: bool = False) -> None:
        super().__init__(NoOptions(), Site("/nowhere", "p-"))
        self.name = name  # type: ignore[misc]  # several of one class stand for several backends
        self.loses = loses  # type: ignore[misc]  # as above
        self.forgeable = forgeable  # type: ignore[misc]  # as above
        self.remote = remote  # type: ignore[misc]  # as above

    def holding(
        self, stamp: str, sequence: int = 0, records: int | None = 9, sources: Sequence[str] = (), node: str = ""
    ) -> Holding:
        stored = StoredSegment(Segment("p-", HOUR + stamp, sequence, f".{self.name}"), 1, 1.0, True, records)
        return Holding(
            self,
            stored,
            node,
            frozenset(f"p-{HOUR}{source}" for source in sources),
            frozenset(("p-", HOUR + source[:5]) for source in sources),
        )


TEXT = Store("text", loses=("node",), forgeable=True)
PCAP = Store("pcap", loses=("node", "tag"))
PARQUET = Store("parquet")
S3 = Store("s3", remote=True)


def read(found: list[Unit[Holding]]) -> list[str]:
    return [
        f"{holding.backend.name}:{holding.stored.segment.stem.removeprefix('p-' + HOUR)}"
        for unit in found
        for holding in unit.holdings
    ]


def test_one_backend_is_read_the_best_there_is() -> None:
    everything = [backend.holding("00-00") for backend in (TEXT, S3, PCAP, PARQUET)]
    assert read(units(everything)) == ["parquet:00-00"]
    assert read(units(everything[:3])) == ["pcap:00-00"]  # not text, which a message can forge, and not the network
    assert read(units(everything[:2])) == ["s3:00-00"]
    assert read(units(everything[:1])) == ["text:00-00"]
    (unit,) = units(everything)
    assert {holding.backend.name for holding in unit.spare} == {"text", "pcap", "s3"}


def test_one_that_loses_what_is_asked_for_is_read_last() -> None:
    everything = [TEXT.holding("00-00"), PCAP.holding("00-00"), S3.holding("00-00")]
    assert read(units(everything)) == ["pcap:00-00"]
    assert read(units(everything, {"node"})) == ["s3:00-00"]
    assert read(units(everything[:2], {"tag"})) == ["text:00-00"]


def test_what_one_has_pruned_another_still_has() -> None:
    assert read(units([PARQUET.holding("02-00"), S3.holding("00-00"), S3.holding("01-00"), S3.holding("02-00")])) == [
        "s3:00-00", "s3:01-00", "parquet:02-00",
    ]  # fmt: skip


def test_one_that_lost_records_is_not_preferred() -> None:
    assert read(units([PARQUET.holding("00-00", records=5), TEXT.holding("00-00", records=9)])) == ["text:00-00"]
    assert read(units([PARQUET.holding("00-00", records=None), TEXT.holding("00-00", records=9)])) == ["parquet:00-00"]


def test_a_file_that_a_failure_began_belongs_to_the_same_records() -> None:
    assert read(units([TEXT.holding("00-00", 0, 4), TEXT.holding("00-00", 1, 5), PCAP.holding("00-00")])) == [
        "pcap:00-00"
    ]
    assert read(units([TEXT.holding("00-00", 0, 4), TEXT.holding("00-00", 1, 5), PCAP.holding("00-00", 0, 8)])) == [
        "text:00-00", "text:00-00-1",
    ]  # fmt: skip


def test_two_segments_of_one_second_are_both_read() -> None:
    assert read(units([PCAP.holding("00-00", 0), PCAP.holding("00-00", 1), TEXT.holding("00-00"),
                       TEXT.holding("00-00", 1)])) == ["pcap:00-00", "pcap:00-00-1"]  # fmt: skip


def test_a_merged_segment_stands_for_its_sources() -> None:
    merged = PARQUET.holding("02-00", 1, 27, ("00-00", "01-00", "02-00"))
    texts = [TEXT.holding(stamp) for stamp in ("00-00", "01-00", "02-00")]
    assert read(units([merged, *texts])) == ["parquet:02-00-1"]
    sources = [PARQUET.holding(stamp) for stamp in ("00-00", "01-00", "02-00")]  # the compaction was cut off
    assert read(units([*sources[1:], merged, *texts])) == ["parquet:02-00-1"]
    assert read(units([merged, TEXT.holding("03-00")])) == ["parquet:02-00-1", "text:03-00"]


def test_a_merged_segment_far_away_is_read_where_only_a_part_of_it_is_here() -> None:
    merged = S3.holding("02-00", 1, 27, ("00-00", "01-00", "02-00"))
    assert read(units([merged, PARQUET.holding("02-00")])) == ["s3:02-00-1"]


def test_two_compactions_that_disagree_are_both_read_and_told_apart_by_content() -> None:
    found = units([PARQUET.holding("01-00", 1, 18, ("00-00", "01-00")), S3.holding("02-00", 1, 18, ("01-00", "02-00"))])
    assert read(found) == ["parquet:01-00-1", "s3:02-00-1"]
    assert [unit.overlapping for unit in found] == [True]


def test_nodes_that_open_segments_in_one_second_stay_apart() -> None:
    assert read(units([S3.holding("00-00", node="a"), S3.holding("00-00", node="b")])) == ["s3:00-00", "s3:00-00"]
