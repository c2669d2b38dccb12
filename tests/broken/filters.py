"""Filters that are wrong in one way each, and a backend that looks behind them."""

import gc
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sipdump_core import Record
from tests.broken.good import Good, GoodFilter, caught_by


@caught_by("nothing_is_kept_of_what_a_filter_took_out")
class LooksBehindFilters(Good):
    """It finds in memory what was there before the filter."""

    def write(self, batch: Any) -> None:
        super().write(batch)
        found = [one for one in gc.get_objects() if type(one) is Record and b"5557319055" in one.buf]
        if found:
            Path(self.site.folder, "behind").write_bytes(found[0].buf)


@caught_by("the_filter_is_declared")
class OfNoVersion(GoodFilter):
    api = 1


@caught_by("the_filter_takes_any_message")
class NoBytes(GoodFilter):
    """It takes messages for text, and returns those that are as they are."""

    def hide(self, record: Record) -> Record:
        if record.buf.startswith(b"\xef\xbb\xbf"):
            record.buf.decode("ascii")
        return super().hide(record)

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        if len(records) > 1:
            return GoodFilter.apply(GoodFilter(None), records)
        return super().apply(records)


@caught_by("what_is_filtered_is_not_changed")
class ChangesRecords(GoodFilter):
    def hide(self, record: Record) -> Record:
        changed = super().hide(record)
        object.__setattr__(record, "buf", changed.buf)
        return record


@caught_by("the_filter_keeps_order_times_and_flows")
class TakesTheTimeAway(GoodFilter):
    def hide(self, record: Record) -> Record:
        changed = super().hide(record)
        return changed if changed is record else attrs.evolve(changed, time_us=changed.time_us // 1000 * 1000 + 1)


@caught_by("the_filter_depends_on_the_records_only")
class MasksAtRandom(GoodFilter):
    def hide(self, record: Record) -> Record:
        changed = super().hide(record)
        if changed is record or b"pin=x pin=x" not in changed.buf:
            return changed
        mark = b"pin=x%b" % bytes([random.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(8)])
        return attrs.evolve(changed, buf=changed.buf.replace(b"pin=x", mark))

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        return super().apply(records)


@caught_by("filtering_again_changes_nothing")
class MarksEachTime(GoodFilter):
    def hide(self, record: Record) -> Record:
        return attrs.evolve(record, buf=record.buf + b".") if b"pin=" in record.buf else record


@caught_by("the_filter_works_in_any_thread")
class KeepsTheBatch(GoodFilter):
    """It has one place for the batch that it is at."""

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        if len(records) == 1:
            return super().apply(records)
        self._found: list[Record] = []
        for at, record in enumerate(records):
            if at % 40 == 0:
                time.sleep(0.0005)
            self._found.extend(super().apply([record]))
        return [*self._found]


@caught_by("what_the_filter_hides_is_gone")
class HidesTheFirstOnly(GoodFilter):
    def hide(self, record: Record) -> Record:
        at = record.buf.find(b"pin=1")
        return record if at < 0 else attrs.evolve(record, buf=record.buf[:at] + b"pin=x" + record.buf[at + 8 :])


@caught_by("what_the_filter_leaves_is_left")
class CopiesAll(GoodFilter):
    def hide(self, record: Record) -> Record:
        return attrs.evolve(super().hide(record))


@caught_by("the_stats_of_a_filter_are_of_their_type")
class CountsInFractions(GoodFilter):
    def stats(self) -> Mapping[str, Any]:
        return {"ratio": 0.5}
