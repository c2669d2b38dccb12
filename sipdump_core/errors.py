"""The errors of sipdump, one tree.

::

    SipDumpError
    ├── ConfigError             a parameter, a flag or a configuration file is wrong
    ├── DriverError             an installed driver cannot be used, or two contradict each other
    ├── ClosedError             a SipDump object or a backend was used after its close
    ├── RpcError                a control command found no daemon, or no answer
    │   └── RpcFault            the daemon refused it
    ├── FormatError             bytes are not what their format (HEP, a segment file) asks for
    └── StorageError            a store refused an operation
        ├── PartialWriteError   some records of a batch are not stored, the others are
        ├── RecordError         the store will never take some records of a batch, whenever they are tried
        ├── SegmentExistsError  the segment's name is taken; nothing is ever overwritten
        ├── SegmentLostError    the open segment is gone, with what it held
        └── StorageFullError    no space, or over quota: the same write may succeed later

Errors of other libraries (``OSError``, botocore, pyarrow) are translated at one place in each backend,
so that nothing outside this tree leaves the public interface for a failing store or a bad configuration.
"""

import errno
from collections.abc import Iterable

from sipdump_core.redaction import redacted

__all__ = [
    "ClosedError",
    "ConfigError",
    "DriverError",
    "FormatError",
    "PartialWriteError",
    "RecordError",
    "RpcError",
    "RpcFault",
    "SegmentExistsError",
    "SegmentLostError",
    "SipDumpError",
    "StorageError",
    "StorageFullError",
    "kind_and_text",
    "one_line",
]


class SipDumpError(Exception):
    """The root: everything that sipdump raises on purpose. Its text shows no secret option."""

    def __str__(self) -> str:
        return redacted(super().__str__())


class ConfigError(SipDumpError):
    """A parameter, a flag or a configuration file is wrong.

    Args:
        message: what is wrong, with what is allowed.
        place: where it was set: ``file:line:column``, a command line option or a keyword argument.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.place = place


class DriverError(SipDumpError):
    """An installed driver cannot be used, or two drivers contradict each other."""


class ClosedError(SipDumpError):
    """A SipDump object or a backend was used after its close."""


class RpcError(SipDumpError):
    """A control command found no daemon, or no answer."""


class RpcFault(RpcError):  # noqa: N818 - the name that BINRPC has for it
    """A control command was refused.

    Args:
        code: what kind of refusal, as Kamailio numbers them: 400 for a wrong request, 500 for a failure.
        reason: one line for people.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} - {reason}")
        self.code = code
        self.reason = reason


class FormatError(SipDumpError):
    """Bytes are not what their format asks for."""


class StorageError(SipDumpError):
    """A store refused an operation.

    Args:
        operation: what was tried, as ``"write"``.
        target: the path, the key or the address that it was tried on.
        reason: what the store answered.
        hint: what the operator can do, if that is known.
    """

    def __init__(self, operation: str, target: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{operation} {target}: {reason}" + (f" ({hint})" if hint else ""))
        self.operation = operation
        self.target = target
        self.reason = reason
        self.hint = hint

    @property
    def of_absence(self) -> bool:
        """Whether what was asked for is not there, or no longer."""
        return isinstance(self.__cause__, FileNotFoundError)

    @staticmethod
    def from_os(operation: str, target: str, error: OSError) -> "StorageError":
        """Translate an ``OSError``; a taken name and a full disk get classes of their own."""
        kind, hint = _KINDS.get(error.errno or 0, (StorageError, ""))
        if operation in ("list", "read") and error.errno in (errno.EACCES, errno.EPERM):
            hint = "run this as the user that the files belong to, or as root"
        elif operation == "list" and error.errno == errno.ENOENT:
            hint = "create the folder, or name the one that the segments are in"
        elif operation == "read" and error.errno == errno.ENOENT:
            hint = ""  # a new folder would not have it
        return kind(operation, target, error.strerror or str(error), hint)


class PartialWriteError(StorageError):
    """Some records of a batch are not stored; the others are.

    Args:
        operation: what was tried, as ``"write"``.
        target: the path, the key or the address that it was tried on.
        reason: what the store answered.
        failed: the indexes in the batch, from 0, of the records that are not stored.
        hint: what the operator can do, if that is known.
    """

    def __init__(self, operation: str, target: str, reason: str, failed: Iterable[int], hint: str = "") -> None:
        super().__init__(operation, target, reason, hint)
        self.failed = frozenset(failed)


class RecordError(StorageError):
    """The store will never take some records of a batch: it is they that are at fault, not the store.

    They go to the dead letter at once, and what else is in the batch comes again at once without them.

    Args:
        operation: what was tried, as ``"write"``.
        target: the path, the key or the address that it was tried on.
        reason: what the store answered.
        refused: the records, or their indexes in the batch, from 0; one alone may be given as it is.
        hint: what the operator can do, if that is known.
        others_stored: the other records of the batch are stored; else nothing of it is.
    """

    def __init__(
        self,
        operation: str,
        target: str,
        reason: str,
        refused: object,
        hint: str = "",
        *,
        others_stored: bool = False,
    ) -> None:
        super().__init__(operation, target, reason, hint)
        self.refused = tuple(refused) if isinstance(refused, Iterable) else (refused,)
        self.others_stored = others_stored


class SegmentExistsError(StorageError):
    """The segment's name is taken; nothing is ever overwritten."""


class SegmentLostError(StorageError):
    """The open segment is gone: somebody has deleted it, or moved it away.

    Args:
        operation: what was tried, as ``"write"``.
        target: the path, the key or the address of the segment.
        reason: what happened to it.
        records: how many records it held that no longer count as stored.
        hint: what the operator can do, if that is known.
    """

    def __init__(self, operation: str, target: str, reason: str, records: int, hint: str = "") -> None:
        super().__init__(operation, target, reason, hint)
        self.records = records


class StorageFullError(StorageError):
    """No space, or over quota: the same write may succeed later."""


def kind_and_text(error: BaseException) -> str:
    """Return in one line what was raised; the text of a driver's error may itself raise."""
    try:
        return one_line(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 - see above
        return type(error).__name__


def one_line(text: str) -> str:
    """Return a driver's text as one line of bounded length, without secrets: a client may quote the whole batch."""
    line = " ".join(redacted(text).split())
    return line if len(line) <= _LINE else f"{line[:_LINE]}..."


_LINE = 500
_FULL = (StorageFullError, "free space, or lower fage; what waits is written when there is room")
_KINDS: dict[int, tuple[type[StorageError], str]] = {
    errno.EEXIST: (SegmentExistsError, ""),
    errno.ELOOP: (SegmentExistsError, "a symbolic link has that name and is not followed"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: (StorageError, "the file-size limit is reached; set rotate_size below it"),
    errno.EACCES: (StorageError, "give the daemon's user write permission"),
    errno.EPERM: (StorageError, "give the daemon's user write permission"),
    errno.EROFS: (StorageError, "the file system is mounted read-only"),
    errno.ENOENT: (StorageError, "create the folder"),
    errno.ENOTDIR: (StorageError, "it is a file; name the folder that it is in"),
    errno.EIO: (StorageError, "the device reports an I/O error; look at the kernel's log"),
}
