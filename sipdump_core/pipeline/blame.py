"""Which records of a batch an error is about; a driver's error may say anything."""

from collections.abc import Sequence

from sipdump_core.drivers.batch import Batch
from sipdump_core.errors import PartialWriteError, RecordError
from sipdump_core.record import Record

__all__ = ["refused", "unstored"]


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
