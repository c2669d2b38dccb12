"""The store: all segments of all backends that were named, asked as one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.reading.units import Holding, Unit, units
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
