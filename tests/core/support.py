"""Helpers of the core's tests: addresses, a backend that does what a test says, what is in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.discovery import Driver
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.plan import Plan, make_plan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend

A, B = ("192.0.2.1", 5060), ("192.0.2.2", 5070)


def read(folder: Path, prefix: str = "kamailio-sipdump-") -> list[Record]:
    backend = TextBackend(NoOptions(), Site(str(folder), prefix))
    return [one for stored in sorted(backend.segments(), key=lambda s: s.segment) for one in backend.read(stored)]


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"), key=lambda path: (path.stem[:36], len(path.stem), path.name))


class Probe(Backend):
    """A backend that keeps records in memory and does what a test tells it to."""

    name = "probe"
    flag = 256

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self.stored: list[Record] = []
        self.calls: list[str] = []
        self.on_write: Callable[[], object] = lambda: None

    def open(self, segment: Segment) -> None:
        self.calls.append("open")

    def write(self, batch: Sequence[Record]) -> None:
        self.on_write()
        self.calls.append("write")
        self.stored += batch

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


class Broken(FolderBackend):
    """A backend without an encoding."""

    name = "broken"
    suffix = ".broken"


class Unmade(Backend):
    """A backend that cannot be made."""

    name = "unmade"

    def __init__(self, options: Any, site: Site) -> None:
        raise RuntimeError("no connection")


def driver(cls: type[Backend]) -> Driver:
    return Driver(cls.name, f"sipdump-{cls.name}", "1", cls)


def plan(folder: Path, *classes: type[Backend], **params: Any) -> Plan:
    settings = [
        Setting("sipdump", name, value) for name, value in {"folder": str(folder), "enable": 1, **params}.items()
    ]
    settings += [Setting("sipdump", "backend", cls.name) for cls in classes]
    return make_plan(settings, [driver(TextBackend), *map(driver, classes)])


def probe(dump: SipDump) -> Probe:
    return next(backend for backend in dump.backends if isinstance(backend, Probe))
