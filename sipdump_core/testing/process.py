"""What a backend promises about its surroundings: crashes, full disks, forks, time zones, nothing left behind."""

import contextlib
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import attrs

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard
from sipdump_core.segment import Segment
from sipdump_core.testing.child import BATCH, Child, crash, fork, full, full_disk, live, race
from sipdump_core.testing.kit import CLOCKS_APART, Kit, names, zone
from sipdump_core.testing.promise import not_checked, promise
from sipdump_core.testing.samples import noise, numbered, record
from sipdump_core.testing.surroundings import changes, surroundings
from sipdump_core.testing.watch import at_step, left_after, possessions, steps

__all__ = ["ProcessChecks"]

# POSIX rules, which need no time zone database: an hour back on the last Sunday of October, and other offsets.
BERLIN, ST_JOHNS, KATHMANDU = "CET-1CEST,M3.5.0,M10.5.0/3", "NST3:30NDT,M3.2.0,M11.1.0", "<+0545>-5:45"
_HOUR_BACK = 1_792_890_000
"""2026-10-25 01:00 UTC, when 03:00 in Berlin becomes 02:00 again."""
_HOUR_FORWARD = 1_774_746_000
"""2026-03-29 01:00 UTC, when 02:00 in Berlin becomes 03:00."""

_LATE = 8
"""How often another process that waits for this one is waited for longer."""


class ProcessChecks(Kit):
    """The checks of crashes, failures and surroundings."""

    @promise
    def test_a_crash_loses_nothing_that_was_flushed(self, site: Site) -> None:
        """After kill -9 the next start has all records that were flushed, each once, and its segment is sealed."""
        maker = self.make_backend(site)
        segment = self.segment(maker)
        with Child(crash, maker, segment) as child:
            child.line()
            child.kill()
        if maker.has_lifecycle():
            self.segments(self.reader(maker))  # may list anything, but must not fail
        written = numbered(4 * BATCH)
        for _ in range(2):  # a second start changes nothing
            with self.started(site) as backend:
                self.settle(backend)
                found = self.received(backend)
                assert len(found) >= 3 * BATCH, f"{3 * BATCH} records were flushed, {len(found)} are read"
                self.same(backend, written[: len(found)], found)
                unsealed = [s for s in self.segments(backend) if not s.sealed] if backend.has_lifecycle() else []
                assert not unsealed, f"nothing writes any more, but these are still listed as open: {names(unsealed)}"
        with self.started(site) as backend:
            self.write(backend, [record(b"after")], second=5)
            self.settle(backend)
            self.holds(backend, [*written[: len(found)], record(b"after")])

    @promise
    def test_a_failed_write_stores_nothing_of_its_batch(self, site: Site) -> None:
        """A write that fails for lack of space raises StorageError and stores nothing of its batch."""
        maker = self.make_backend(site)
        with Child(full, maker, self.segment(maker)) as child:
            told = json.loads(child.line())
        for error, is_storage_error in told["errors"]:
            assert is_storage_error, f"the error is not a StorageError: {error}"
        with self.started(site) as backend:
            self.settle(backend)
            self.holds(backend, noise(told["stored"]))
        if not told["errors"]:
            self.is_not_full(maker, "no write failed with a file size limit of 512 KiB")

    @promise
    def test_a_full_disk_is_survived(self, site: Site, tmp_path: Path) -> None:
        """On a full disk write() raises StorageFullError; with room the same batch goes into the same segment."""
        maker = self.make_backend(site)
        kept = tmp_path / "kept"
        with Child(full_disk, maker, self.segment(maker), str(kept)) as child:
            told = json.loads(child.line())
        if "cannot" in told:
            not_checked(f"no small disk can be mounted here: {told['cannot']}")
        for error, is_full in told["errors"]:
            assert is_full, f"the error is no StorageFullError: {error}"
        if not os.listdir(kept):
            self.is_not_full(maker, "a full disk was not noticed")
        shutil.copytree(kept, site.folder, symlinks=True, dirs_exist_ok=True)
        self.holds(maker, noise(told["stored"]))
        if not told["errors"]:
            self.is_not_full(maker, "no write failed on a full disk")

    @promise
    def test_two_processes_take_no_name_twice(self, site: Site) -> None:
        """When two processes open one name at the same moment, one has it, and the other SegmentExistsError."""
        with self.started(site) as backend:
            self.needs_segments(backend)
            segment, wrote = self.segment(backend), list[bytes]()
            with Child(race, self.make_backend(site), segment) as child:
                child.line()
                count = steps(partial(backend.open, attrs.evolve(segment, sequence=999)))
                backend.close()
                late = 0
                for number in sorted({*range(1, min(count, 20) + 1), *range(1, count + 1, max(1, count // 10))}):
                    wait = 0.5 if late < _LATE else 0.02
                    stored, in_time = self._race(backend, child, attrs.evolve(segment, sequence=number), wait)
                    wrote += stored
                    late += not in_time
        with self.started(site) as backend:
            self.settle(backend)
            found = sorted(one.buf for one in self.received(backend))
            assert found == sorted(wrote), f"of {len(wrote)} records that were stored {len(found)} are read"

    def _race(self, backend: Backend, child: Child, segment: Segment, patience: float) -> tuple[list[bytes], bool]:
        """Have the child open a segment in the midst of this process's open().

        Args:
            backend: it is started.
            child: runs ``race``.
            segment: its sequence number is also after how many steps of this process's open() the child begins.
            patience: seconds to wait for the child, which may itself have to wait for this process.

        Returns:
            The messages that were stored, and whether the child had not to be waited for any longer.
        """
        number = segment.sequence
        answers: list[str] = []

        def rival() -> None:
            child.say(str(number))
            if not child.waits(patience):
                answers.append(child.line())

        with Guard() as guard:
            at_step(number, partial(backend.open, segment), rival)
            backend.write(Batch([record(b"parent %d" % number)]))
            backend.flush()
        if guard.error:
            self.raises_storage_error(partial(_raise, guard.error))
        assert guard.error or "opened" not in answers, f"two processes have {segment.name} open"
        backend.close()
        in_time = bool(answers)
        if not in_time:
            answers.append(child.line())
        child.say("close")
        closed = child.line()
        assert answers[0] != "opened" or closed == "closed", f"close() raises {closed}"
        stored = [] if guard.error else [b"parent %d" % number]
        return ([*stored, b"child %d" % number] if answers[0] == "opened" else stored), in_time

    @promise
    def test_a_forked_child_leaves_the_segment_alone(self, site: Site) -> None:
        """forget() makes a forked child drop the open segment, and the process that has it goes on."""
        maker = self.make_backend(site)
        with Child(fork, maker, self.segment(maker)) as child:
            status = child.line()
            assert status == "0", f"forget() fails in the child, wait status {status}"
        with self.started(site) as backend:
            self.settle(backend)
            self.holds(backend, numbered(2 * BATCH))

    @promise
    def test_nothing_is_left_open(self, site: Site) -> None:
        """After stop() no thread, file descriptor or child process is left, whatever was refused before."""

        def live(second: int) -> None:
            backend = self.make_backend(site)
            backend.start()
            try:
                segment = self.write(backend, numbered(10), second=second)
                self.settle(backend)
                if backend.has_lifecycle():
                    with contextlib.suppress(Exception):  # another check tests whether the name is refused
                        backend.open(segment)
                    backend.close()
                    for stored in self.segments(backend):
                        if self.can_read(backend):
                            next(iter(backend.read(stored)))  # the rest is not read
                        backend.delete(stored)
            finally:
                backend.stop()

        live(0)  # what a library opens once and keeps is no leak
        before = possessions()
        for second in range(1, 4):
            live(second)
        more = left_after(before, self.patience)
        assert not more, f"three instances later there are more: {more}"

    @promise
    def test_the_process_is_left_as_it_is(self, site: Site) -> None:
        """A driver leaves what the process shares as it was: signals, umask, environment, logging, ssl, warnings."""
        before = surroundings()
        with self.started(site) as backend:
            self.write(backend, [record()])
            self.settle(backend)
            if self.can_read(backend):
                self.holds(backend, [record()])
            changed = changes(before)
            assert not changed, f"while it is started changed are {'; '.join(changed)}"
        changed = changes(before)
        assert not changed, f"changed are {'; '.join(changed)}"
        maker = self.make_backend(site)
        with Child(live, maker, self.segment(maker, 1)) as child:  # here an earlier check may already have changed it
            changed = json.loads(child.line())
        assert not changed, f"since before the import of its module changed are {'; '.join(changed)}"

    @promise
    def test_times_are_kept_in_every_zone(self, site: Site) -> None:
        """A record's time is a moment, the same in every time zone, even while clocks change."""
        moments = [
            change + s for change in (_HOUR_BACK, _HOUR_FORWARD) for s in (-3601, -3600, -1800, -1, 0, 1800, 3600)
        ]
        batch = [record(b"%d" % n, time_us=moment * 1_000_000 + 250_007) for n, moment in enumerate(moments)]
        wrote = []
        for second, rules in enumerate((BERLIN, ST_JOHNS, KATHMANDU, "UTC0")):
            own = attrs.evolve(site, prefix=f"{site.prefix}{second}-")
            with zone(rules), self.started(own) as backend:
                self.write(backend, batch)
                self.settle(backend)
                self.holds(backend, batch)
                late = (
                    [abs(s.modified - time.time()) for s in self.segments(backend)] if backend.has_lifecycle() else []
                )
                assert max(late, default=0) < CLOCKS_APART, f"with TZ={rules} modified is {late[0]:.0f} s off"
            wrote.append(own)
        for own in wrote:
            with zone(KATHMANDU):
                self.holds(self.make_backend(own), batch)
            with contextlib.suppress(Exception):  # as in site
                self.clean(self.make_backend(own))

    @promise
    def test_no_segment_is_lost_when_clocks_change(self, site: Site) -> None:
        """Segments named in an hour that comes twice, or by a clock that stepped back, are all kept and listed."""
        with zone(BERLIN), self.started(site) as backend:
            self.needs_segments(backend)
            moments = [_HOUR_BACK - 1800, _HOUR_BACK + 1800, _HOUR_BACK - 7200, _HOUR_FORWARD, _HOUR_FORWARD - 1, 0]
            records, wanted = [], []
            for number, moment in enumerate(moments):
                segment = attrs.evolve(Segment.starting(site.prefix, moment), suffix=backend.suffix)
                while segment in wanted:
                    segment = segment.next()
                wanted.append(segment)
                records.append(record(b"%d" % number, time_us=moment * 1_000_000))
                backend.open(segment)
                backend.write(Batch(records[-1:]))
                backend.close()
            self.settle(backend)
            listed = self.segments(backend)
            assert len(listed) == len(wanted), f"{len(wanted)} segments were written, listed are {names(listed)}"
            assert all(stored.sealed for stored in listed), "some are listed as open"
            found = self.received(backend)
            self.same(backend, records, sorted(found, key=lambda one: one.buf))
            for stored in listed:
                backend.delete(stored)
            assert not self.segments(backend), f"after their delete there are {names(self.segments(backend))}"


def _raise(error: BaseException) -> None:
    raise error
