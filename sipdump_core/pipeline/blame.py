"""Which records of a batch an error is about, if any; a driver's error may say anything."""

import errno
import re
from collections.abc import Sequence

from sipdump_core.drivers.batch import Batch
from sipdump_core.errors import PartialWriteError, RecordError, SegmentLostError, StorageFullError, kind_and_text
from sipdump_core.record import Record

__all__ = ["is_outage", "refused", "unstored"]

_OUTAGES = (StorageFullError, SegmentLostError, ConnectionError, TimeoutError)
_OF_THE_MACHINE = frozenset(
    (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
)
_WORDS = re.compile(r"time[sd]?[- ]?out|connect|unreachable|unavailable|broken pipe|reset by peer|no route", re.I)
"""What clients of databases call such an error, in its class or in its text."""


def is_outage(error: BaseException) -> bool:
    """Return whether an error says that the store is away or full, whatever was written.

    What it was raised from counts, too.
    """
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        number = each.errno if isinstance(each, OSError) else None
        if isinstance(each, _OUTAGES) or number in _OF_THE_MACHINE or _WORDS.search(kind_and_text(each)):
            return True
        seen.append(each)
        each = each.__cause__ or each.__context__
    return False


def unstored(error: BaseException, batch: Batch) -> Sequence[int]:
    """Return the places of the records that an error of ``write`` leaves unstored: all if it names none."""
    every = range(len(batch))
    if isinstance(error, RecordError) and error.others_stored is True:
        return refused(error, batch) or every
    if not isinstance(error, PartialWriteError):
        return every
    try:
        return sorted(frozenset(every).intersection(error.failed))
    except (AttributeError, TypeError):  # a driver's own subclass of it may have none, or no indexes
        return every


def refused(error: BaseException, batch: Batch) -> Sequence[int]:
    """Return the places of the records that an error says the store will never take."""
    if not isinstance(error, RecordError):
        return ()
    named = set()
    for each in getattr(error, "refused", None) or ():
        if type(each) is int:
            named.add(each)
        elif isinstance(each, Record):
            named.update(place for place, record in enumerate(batch) if record is each or record == each)
    return sorted(named.intersection(range(len(batch))))
