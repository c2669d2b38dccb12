"""A capture of a network in the place of a backend: what asks a store can ask it, too."""

import os
from collections.abc import Iterator

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.errors import FormatError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.reading.capture.packets import is_capture, packets
from sipdump_core.reading.capture.reader import CaptureCounts, read_capture
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment

__all__ = ["CaptureBackend", "is_foreign"]

_ETHERNET, _UDP = 1, 17
_NO_MACS = bytes(12)


class CaptureBackend(Backend):
    """Reads one capture file.

    Args:
        path: the file.
        node: the records' node.
    """

    name = "capture"
    loses = ("tag", "pid", "procno", "node")

    def __init__(self, path: str, node: str = "") -> None:
        super().__init__(NoOptions(), Site(os.path.dirname(path), ""))
        self._path = path
        self._node = node

    def read(self, stored: StoredSegment) -> Iterator[Record]:  # noqa: ARG002 - there is one file
        """Yield the SIP messages of the file; log what of it was cut or lost.

        Raises:
            StorageError: it cannot be read, or is damaged from some place on.
        """
        counts = CaptureCounts()
        try:
            with open(self._path, "rb") as file:
                yield from read_capture(file, counts, node=self._node)
        except OSError as error:
            raise StorageError.from_os("read", self._path, error) from error
        except FormatError as error:
            raise StorageError("read", self._path, str(error)) from error
        missing = {
            "truncated_messages": counts.truncated,
            "unreadable_packets": counts.unreadable,
            "incomplete_packets": counts.incomplete,
            "lost_tcp_bytes": counts.lost,
        }
        if any(missing.values()):
            found = {name: count for name, count in missing.items() if count}
            log.warning(Event("the capture is not whole", path=self._path, **found))


def is_foreign(path: str) -> bool:
    """Return whether a file is a capture, and not one of the pcap backend's or Kamailio's files.

    Theirs begin with a UDP packet between hosts without MAC addresses, with the time to live 128, or hop limit 0.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not is_capture(file.read(4)):
                return False
            file.seek(0)
            first = next(packets(file), None)
    except FormatError:
        return True
    except OSError as error:
        raise StorageError.from_os("read", path, error) from error
    if not path.endswith(".pcap"):  # the backend does not read it
        return True
    if first is None:
        return False
    if first.comment or first.linktype != _ETHERNET or first.data[:12] != _NO_MACS or len(first.data) < 34:
        return True
    ip = first.data[14:]
    ours = (ip[9], ip[8]) == (_UDP, 128) if ip[0] >> 4 == 4 else (ip[6], ip[7]) == (_UDP, 0)
    return not ours
