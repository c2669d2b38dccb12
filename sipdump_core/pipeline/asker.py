"""Asking a driver something that others wait for: in a thread of its own, and not for long."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sipdump_core.clock import Clock
from sipdump_core.drivers.guard import Guard
from sipdump_core.threads import lasting

__all__ = ["Asker"]

T = TypeVar("T")

PATIENCE = 0.25
"""Seconds that an answer is waited for."""
_REST = 60.0
"""Seconds that a driver is not asked again after an answer that was late."""


class Asker:
    """Asks one driver. One thread at a time may call ``ask``.

    Args:
        name: of its thread.
        clock: the time.
        late: is called when an answer is late.
    """

    def __init__(self, name: str, clock: Clock, late: Callable[[], None]) -> None:
        self._name = name
        self._clock = clock
        self._late = late
        self._changed = threading.Condition()
        self._question: Callable[[], Any] | None = None
        self._answers: list[Any] = []
        self._again = 0.0
        """When it may be asked again, monotonic seconds."""
        self._stopped = False
        self._thread: threading.Thread | None = None

    def ask(self, question: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """Return what a question returns, or something else if that is not known in time.

        Args:
            question: asks the driver; it catches what that raises.
            otherwise: makes up for an answer that is late.
        """
        with self._changed:
            if self._question or self._stopped or self._clock.monotonic() < self._again or not self._start():
                return otherwise()
            self._question = question
            answers: list[Any] = []
            self._answers = answers
            self._changed.notify_all()
            if self._changed.wait_for(lambda: answers, PATIENCE):
                answer: T = answers[0]
                return answer
            self._again = self._clock.monotonic() + _REST
        self._late()
        return otherwise()

    def stop(self) -> None:
        """End the thread; a call that does not return is not waited for."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _start(self) -> bool:
        """See that the thread runs; False if none can be had."""
        if self._thread is None:
            thread = lasting(self._run, self._name)
            try:
                thread.start()
            except RuntimeError:  # no more threads can be had
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._question or self._stopped)
                question, answers = self._question, self._answers
            if self._stopped or question is None:
                return
            with Guard():
                answer = question()
                with self._changed:
                    answers.append(answer)
            with self._changed:
                self._question = None
                self._changed.notify_all()
