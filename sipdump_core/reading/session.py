"""What the commands of ``sipdump-read`` have in common: the store is opened, progress is shown, Ctrl-C ends a scan."""

import argparse
import contextlib
import gc
import signal
import sys
from collections.abc import Iterable
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from sipdump_core.calls.legs import LegRules
from sipdump_core.log import escaped, warnings_to
from sipdump_core.reading.arguments import span_of
from sipdump_core.reading.lines import counted, local_time
from sipdump_core.reading.progress import Bar
from sipdump_core.reading.redacting import redactor_of
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.when import zone

if TYPE_CHECKING:  # so that --help need not load what reads a store
    from sipdump_core.reading.finder import Found

__all__ = ["Session"]

_COLLECT_AFTER = 50_000
"""Objects between two runs of the garbage collector."""


class Session:
    """A store that is open for one command.

    While it is entered, the first Ctrl-C ends the scan that is under way, and what was found so far is printed; the
    second one ends the command. On a terminal a bar shows how far a long scan is.

    Args:
        args: the parsed arguments of the store.
        rules: what links the legs of a call.

    Raises:
        ConfigError: nothing is named, or what is named is not there.
    """

    def __init__(self, args: argparse.Namespace, rules: LegRules | None = None) -> None:
        # only now, because --help must answer at once
        from sipdump_core.reading.shelves import open_shelves  # noqa: PLC0415
        from sipdump_core.reading.store import Store  # noqa: PLC0415

        shelves, problems = open_shelves(
            configs=args.configs,
            defines=args.defines,
            folders=args.folders,
            fprefix=args.fprefix,
            files=args.files,
            urls=args.urls,
        )
        self.now = datetime.now().astimezone()
        self._span = span_of(args, self.now) if "since" in args else (None, None)
        self.searched = Searched(problems=problems)
        self.redactor = redactor_of(args)
        """Masks what is shown; None if nothing is to be masked."""
        self._bar = Bar()
        self.store = Store(shelves, rules=rules, progress=self._bar.step)
        self._stack = contextlib.ExitStack()
        self._before: Any = None

    def __enter__(self) -> Self:
        # what reading makes in masses has no cycles, and a collector that keeps looking costs a fifth of the time
        self._thresholds = gc.get_threshold()
        gc.set_threshold(_COLLECT_AFTER)
        self._stack.enter_context(warnings_to(self.searched.problem))
        with contextlib.suppress(ValueError):  # not in the main thread: somebody else takes signals
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._stack.close()
        gc.set_threshold(*self._thresholds)
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def shown(self, found: "Iterable[Found]") -> "Iterable[Found]":
        """Return calls as they may be shown."""
        return self.redactor.found(found, self.store.now_us) if self.redactor else found

    def report(self, found: bool) -> int:
        """Print on standard error what a reader has to know of the search.

        Returns:
            The exit status: 0 when something was found, else 1.
        """
        self._bar.close()
        searched = self.searched
        for problem in searched.problems:
            print(f"sipdump-read: {escaped(str(problem))}", file=sys.stderr)
        for note in searched.notes:
            print(f"sipdump-read: note: {escaped(str(note))}", file=sys.stderr)
        if self.store.interrupted:
            print("sipdump-read: interrupted: this is what was found so far", file=sys.stderr)
        if not found:
            print(f"sipdump-read: nothing was found{self._asked()}{self._where()}", file=sys.stderr)
        return int(not found)

    def _asked(self) -> str:
        """Return the span that was asked for, so that a reader sees how his times were understood."""
        words = zip(("from", "until"), self._span, strict=True)
        return "".join(f" {word} {_shown(time)}" for word, time in words if time is not None)

    def _where(self) -> str:
        searched = self.searched
        shelves = ", ".join(dict.fromkeys(map(str, self.store.shelves)))
        if not searched.segments:
            zoned = f" {zone(self.now)}" if self._span != (None, None) else ""
            why = "nothing could be read" if searched.problems else "there is no segment within the span"
            return f"{zoned}: {why} in {shelves or 'the store'}"
        backends = ", ".join(sorted(searched.backends))
        times = [_shown(each * 1_000_000) for each in (searched.oldest, searched.newest) if each is not None]
        return f" in {counted(searched.segments, 'segment')} of {backends}, {' to '.join(times)} {zone(self.now)}"

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.store.interrupted:
            raise KeyboardInterrupt
        self.store.interrupt()


def _shown(time_us: float) -> str:
    return local_time(int(time_us)).strftime("%Y-%m-%d %H:%M:%S")
