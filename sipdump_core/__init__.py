"""sipdump: stores a SIP server's traffic, decrypted and with the runtime details of who handled it.

The names here are the public interface. They are loaded when first used, so that the commands start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sipdump_core.config.reader import Config, read_config
    from sipdump_core.config.route_block import RouteBlock
    from sipdump_core.drivers.base import API_VERSION, Backend, Filter, NoOptions, Site, Transform
    from sipdump_core.drivers.batch import Batch
    from sipdump_core.drivers.folder import FolderBackend
    from sipdump_core.drivers.query import Query
    from sipdump_core.errors import (
        ClosedError,
        ConfigError,
        DriverError,
        FormatError,
        PartialWriteError,
        RecordError,
        SegmentExistsError,
        SegmentLostError,
        SipDumpError,
        StorageError,
        StorageFullError,
    )
    from sipdump_core.pipeline.spool import SpoolOptions
    from sipdump_core.reading.store import Store
    from sipdump_core.record import Flow, Record
    from sipdump_core.routes.event_route import DROP
    from sipdump_core.segment import Segment, StoredSegment
    from sipdump_core.settings.options import Given, at_least, in_range, one_of, option
    from sipdump_core.sipdump import SipDump, Stats
    from sipdump_core.sources.asyncio_taps import tap_datagram, tap_streams
    from sipdump_core.version import VERSION as __version__  # noqa: N811 - it is a dunder here

_HOME = {
    "drivers.base": ["API_VERSION", "Backend", "Filter", "NoOptions", "Site", "Transform"],
    "drivers.batch": ["Batch"],
    "config.reader": ["Config", "read_config"],
    "config.route_block": ["RouteBlock"],
    "errors": [
        "ClosedError", "ConfigError", "DriverError", "FormatError", "PartialWriteError", "RecordError",
        "SegmentExistsError", "SegmentLostError", "SipDumpError", "StorageError", "StorageFullError",
    ],
    "routes.event_route": ["DROP"],
    "drivers.folder": ["FolderBackend"],
    "drivers.query": ["Query"],
    "reading.store": ["Store"],
    "settings.options": ["Given", "at_least", "in_range", "one_of", "option"],
    "record": ["Flow", "Record"],
    "segment": ["Segment", "StoredSegment"],
    "sipdump": ["SipDump", "Stats"],
    "pipeline.spool": ["SpoolOptions"],
    "sources.asyncio_taps": ["tap_datagram", "tap_streams"],
}  # fmt: skip

__all__ = [
    "API_VERSION",
    "Backend",
    "Batch",
    "ClosedError",
    "Config",
    "ConfigError",
    "DROP",
    "DriverError",
    "Filter",
    "Flow",
    "FolderBackend",
    "FormatError",
    "Given",
    "NoOptions",
    "PartialWriteError",
    "Query",
    "Record",
    "RecordError",
    "RouteBlock",
    "Segment",
    "SegmentExistsError",
    "SegmentLostError",
    "SipDump",
    "SipDumpError",
    "Site",
    "SpoolOptions",
    "Stats",
    "StorageError",
    "StorageFullError",
    "Store",
    "StoredSegment",
    "Transform",
    "__version__",
    "at_least",
    "in_range",
    "one_of",
    "option",
    "read_config",
    "tap_datagram",
    "tap_streams",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("sipdump_core.version").VERSION
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"sipdump_core.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
