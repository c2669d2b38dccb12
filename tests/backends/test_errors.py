"""No exception of a library below leaves a backend: each class that it has is mapped, or left out for a reason.

The libraries' own classes are enumerated, so that a new one fails here until somebody has decided what it means.
"""

import builtins
import contextlib
import errno
import importlib
import inspect
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3.exceptions
import botocore
import botocore.exceptions
import pyarrow.lib
import pytest
import s3transfer
import urllib3

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import SegmentExistsError, SipDumpError, StorageError, StorageFullError
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.testing.kit import installed
from sipdump_parquet.errors import ContentError
from sipdump_parquet.files import translated
from sipdump_s3.errors import RAISED, S3Error, translate
from tests.support import record


def exceptions_of(*packages: Any) -> Iterator[type[BaseException]]:
    """Yield every exception class that some packages define, wherever in them."""
    for package in packages:
        modules = [package.__name__]
        if hasattr(package, "__path__"):
            modules += [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for name in modules:
            if ".vendored." in name:  # a copy of requests, of which botocore's classes only inherit
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    module = importlib.import_module(name)
                except ImportError:  # what it needs is not installed, so it raises nothing either
                    continue
            for cls in vars(module).values():
                if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__ == name:
                    yield cls


def name_of(cls: type[BaseException]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


BOTO = {
    "no credentials": """
        NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError MetadataRetrievalError
        NoAuthTokenError SSOError SSOTokenLoadError UnauthorizedSSOTokenError RefreshWithMFAUnsupportedError
        UnknownCredentialError ProfileNotFound LoginError LoginAuthorizationCodeError LoginInsufficientPermissions
        LoginRefreshRequired LoginTokenLoadError
    """,
    "server slow": "ConnectTimeoutError ReadTimeoutError",
    "unreachable": "EndpointConnectionError ProxyConnectionError",
    "connection cut": "HTTPClientError ConnectionClosedError IncompleteReadError ResponseStreamingError",
    "checksum mismatch": "ChecksumError FlexibleChecksumError",
    "misconfigured": """
        BotoCoreError SSLError PaginationError ValidationError ConnectionError
        AliasConflictParameterError ApiVersionNotFoundError AwsChunkedWrapperError BaseEndpointResolverError
        CapacityNotAvailableError ConfigNotFound ConfigParseError DataNotFoundError EndpointProviderError
        EndpointResolutionError EndpointVariantError InfiniteLoopConfigError InvalidChecksumConfigError
        InvalidConfigError InvalidDNSNameError InvalidDefaultsMode InvalidEndpointConfigurationError
        InvalidEndpointDiscoveryConfigurationError InvalidExpressionError InvalidHostLabelError
        InvalidIMDSEndpointError InvalidIMDSEndpointModeError InvalidMaxRetryAttemptsError InvalidProxiesConfigError
        InvalidRegionError InvalidRetryConfigurationError InvalidRetryModeError InvalidS3AddressingStyleError
        InvalidS3UsEast1RegionalEndpointConfigError InvalidSTSRegionalEndpointsConfigError MD5UnavailableError
        MissingDependencyException MissingParametersError NoRegionError OperationNotPageableError ParamValidationError
        RangeError ServiceNotInRegionError UnknownClientMethodError UnknownEndpointError
        UnknownEndpointResolutionBuiltInName UnknownFIPSEndpointError UnknownKeyError UnknownParameterError
        UnknownRegionError UnknownServiceError UnknownServiceStyle UnknownSignatureVersionError
        UnknownTokenProviderError UnseekableStreamError UnsupportedOutpostResourceError
        UnsupportedS3AccesspointConfigurationError UnsupportedS3ArnError UnsupportedS3ConfigurationError
        UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError UnsupportedServiceProtocolsError
        UnsupportedSignatureVersionError
        StubAssertionError StubResponseError UnStubbedResponseError WaiterConfigError WaiterError
    """,
}
"""The state of each class of botocore.exceptions."""

OTHERS = {
    "misconfigured": """
        botocore.parsers.ResponseParserError botocore.utils.InvalidArnException
        botocore.discovery.EndpointDiscoveryException botocore.discovery.EndpointDiscoveryRefreshFailed
        botocore.discovery.EndpointDiscoveryRequired
        boto3.exceptions.ResourceNotExistsError boto3.exceptions.UnknownAPIVersionError
        urllib3.exceptions.SSLError urllib3.exceptions.ProxySchemeUnsupported
        urllib3.util.ssl_match_hostname.CertificateError
    """,
    "server slow": "urllib3.exceptions.ReadTimeoutError urllib3.exceptions.ConnectTimeoutError",
    "unreachable": """
        urllib3.exceptions.NewConnectionError urllib3.exceptions.NameResolutionError urllib3.exceptions.ProxyError
    """,
    "connection cut": """
        urllib3.exceptions.HTTPError urllib3.exceptions.BodyNotHttplibCompatible urllib3.exceptions.ClosedPoolError
        urllib3.exceptions.DecodeError urllib3.exceptions.EmptyPoolError urllib3.exceptions.FullPoolError
        urllib3.exceptions.HeaderParsingError urllib3.exceptions.HostChangedError urllib3.exceptions.IncompleteRead
        urllib3.exceptions.InvalidChunkLength urllib3.exceptions.InvalidHeader urllib3.exceptions.LocationParseError
        urllib3.exceptions.LocationValueError urllib3.exceptions.MaxRetryError urllib3.exceptions.PoolError
        urllib3.exceptions.ProtocolError urllib3.exceptions.ProxySchemeUnknown urllib3.exceptions.RequestError
        urllib3.exceptions.ResponseError urllib3.exceptions.ResponseNotChunked urllib3.exceptions.TimeoutError
        urllib3.exceptions.TimeoutStateError urllib3.exceptions.URLSchemeUnknown
        urllib3.exceptions.UnrewindableBodyError
    """,
}
"""The state of each class elsewhere in botocore, boto3 and urllib3."""

NEVER = {
    "a warning, which raises only where warnings are turned into errors": """
        botocore.exceptions.ImminentRemovalWarning botocore.exceptions.UnsupportedTLSVersionWarning
        boto3.exceptions.PythonDeprecationWarning urllib3.exceptions.HTTPWarning
        urllib3.exceptions.DependencyWarning urllib3.exceptions.InsecurePlatformWarning
        urllib3.exceptions.InsecureRequestWarning urllib3.exceptions.NotOpenSSLWarning
        urllib3.exceptions.SecurityWarning urllib3.exceptions.SystemTimeWarning
    """,
    "only event streams (SelectObjectContent) raise it": """
        botocore.eventstream.ChecksumMismatch botocore.eventstream.DuplicateHeader
        botocore.eventstream.InvalidHeadersLength botocore.eventstream.InvalidPayloadLength
        botocore.eventstream.NoInitialResponseError botocore.eventstream.ParserError
    """,
    "S3's description, which comes with botocore, is wrong: a broken installation": """
        botocore.exceptions.UndefinedModelAttributeError botocore.exceptions.MissingServiceIdError
        botocore.model.InvalidShapeError botocore.model.InvalidShapeReferenceError botocore.model.NoShapeFoundError
        botocore.model.OperationNotFoundError
    """,
    "botocore catches it itself": "botocore.utils.BadIMDSRequestError botocore.utils._RetriesExceededError",
    "only boto3's resources, transfers and DynamoDB raise it; the client alone is used": """
        boto3.exceptions.Boto3Error boto3.exceptions.NoVersionFound boto3.exceptions.ResourceLoadException
        boto3.exceptions.DynamoDBNeedsConditionError boto3.exceptions.DynamoDBNeedsKeyConditionError
        boto3.exceptions.DynamoDBOperationNotSupportedError boto3.exceptions.InvalidCrtTransferConfigError
        boto3.exceptions.RetriesExceededError boto3.exceptions.S3TransferFailedError
        boto3.exceptions.S3UploadFailedError
        s3transfer.QueueShutdownError s3transfer.bandwidth.RequestExceededException
        s3transfer.exceptions.FatalError s3transfer.exceptions.InvalidSubscriberMethodError
        s3transfer.exceptions.RetriesExceededError s3transfer.exceptions.S3CopyFailedError
        s3transfer.exceptions.S3DownloadFailedError s3transfer.exceptions.S3UploadFailedError
        s3transfer.exceptions.S3ValidationError s3transfer.exceptions.TransferNotDoneError
        s3transfer.utils.NoResourcesAvailable
    """,
}
"""The classes that are deliberately not mapped, by the reason."""


def _state_by_name() -> dict[str, str]:
    states = {f"botocore.exceptions.{name}": state for state, names in BOTO.items() for name in names.split()}
    states["botocore.exceptions.ClientError"] = states["botocore.exceptions.EventStreamError"] = "refused"
    return {**states, **{name: state for state, names in OTHERS.items() for name in names.split()}}


STATES = _state_by_name()
UNMAPPED = {name: reason for reason, names in NEVER.items() for name in names.split()}
BOTO_CLASSES = sorted(exceptions_of(botocore, boto3, s3transfer, urllib3), key=name_of)


def made(cls: type[BaseException]) -> Exception:
    """Make an exception without what its constructor asks for."""
    error = cls.__new__(cls)
    assert isinstance(error, Exception)
    if isinstance(error, botocore.exceptions.ClientError):
        error.response = {}
    vars(error).update(length=0, partial=0, expected=0)  # of which urllib3's make their text
    return error


def test_the_libraries_have_the_classes_that_are_looked_for() -> None:
    found = {name_of(cls) for cls in BOTO_CLASSES}
    assert {"botocore.exceptions.ClientError", "boto3.exceptions.Boto3Error", "urllib3.exceptions.HTTPError"} <= found
    assert len(found) > 120


@pytest.mark.parametrize("cls", BOTO_CLASSES, ids=name_of)
def test_every_class_of_boto3_is_mapped_or_left_out_for_a_reason(cls: type[BaseException]) -> None:
    name = name_of(cls)
    if name in UNMAPPED:
        assert not issubclass(cls, RAISED), f"{name} is mapped, though {UNMAPPED[name]}"
        return
    known = STATES.get(name)
    assert known, f"{name} is new: decide which state of sipdump_s3.errors it means, or why it is never raised here"
    assert issubclass(cls, RAISED), f"{name} leaves the S3 backend as it is"
    error = translate("list", "s3://calls/", made(cls))
    assert isinstance(error, S3Error)
    assert (error.state, bool(error.hint)) == (known, True)


@pytest.mark.parametrize("cls", RAISED, ids=name_of)
def test_whatever_is_caught_can_be_translated(cls: type[Exception]) -> None:
    assert translate("list", "s3://calls/", made(cls)).state


def test_every_error_of_s3s_own_description_is_an_answer() -> None:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
    codes = {shape.name for shape in client.meta.service_model.error_shapes}
    client.close()
    assert "NoSuchKey" in codes
    for code in codes:
        answer = {"Error": {"Code": code, "Message": "as described"}}
        error = translate("upload", "s3://calls/x", botocore.exceptions.ClientError(answer, "PutObject"))
        assert error.state == {"NoSuchBucket": "bucket missing", "AccessDenied": "access denied"}.get(code, "refused")
        assert code in str(error)


ARROW = {
    StorageError: "MemoryError ArrowMemoryError OSError ArrowIOError UnsupportedOperation",
    ContentError: """
        ArrowException ArrowCancelled ArrowCapacityError ArrowIndexError ArrowInvalid ArrowKeyError
        ArrowNotImplementedError ArrowSerializationError ArrowTypeError ValueError KeyError TypeError
    """,
}
"""The error that stands for each class of pyarrow, and for those of Python that it raises."""
ARROW_CLASSES = {
    name: cls
    for name, cls in vars(pyarrow.lib).items()
    if inspect.isclass(cls) and issubclass(cls, BaseException) and name != "QueueEmpty"  # used within, as a signal
}


@pytest.mark.parametrize("name", ARROW_CLASSES)
def test_every_class_of_pyarrow_is_mapped(name: str) -> None:
    expected = next((error for error, names in ARROW.items() if name in names.split()), None)
    assert expected, f"pyarrow.lib.{name} is new: decide what it means in sipdump_parquet.files.translated"
    with pytest.raises(StorageError) as caught, translated("read", "x.parquet"):
        raise ARROW_CLASSES[name]("as thrown")
    assert type(caught.value) is expected


OS_KINDS = {
    SegmentExistsError: "EEXIST ELOOP",
    StorageFullError: "ENOSPC EDQUOT",
}
OS_HINTED = "EFBIG EACCES EPERM EROFS ENOENT ENOTDIR EIO EEXIST ELOOP ENOSPC EDQUOT"
OS_PLAIN = """
    EBADF EBUSY EFAULT EINTR EINVAL EISDIR EMFILE EMLINK ENAMETOOLONG ENFILE ENODEV ENOMEM ENOTEMPTY ENOTSUP
    ENXIO EOVERFLOW ESPIPE ESTALE ETXTBSY EXDEV EAGAIN ENOLCK EDEADLK ENOSYS ENODATA ERANGE ENOTTY EPIPE E2BIG
    EBADMSG EUCLEAN EREMOTEIO ENOMEDIUM EMEDIUMTYPE EHWPOISON ENOLINK ECOMM EPROTO ETIME ETIMEDOUT ECANCELED
    ECONNREFUSED ECONNRESET ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET ENOTCONN EREMOTE
    ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EILSEQ
"""
"""What file systems raise, those over a network or with encryption too: the system's own words say all there is."""
OS_OTHERS = """
    ECHILD ENOEXEC ESRCH EDOM ENOTBLK EWOULDBLOCK EDEADLOCK EOPNOTSUPP
    EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EALREADY EDESTADDRREQ EINPROGRESS EISCONN EMSGSIZE ENOBUFS ENOPROTOOPT
    ENOTSOCK EPFNOSUPPORT EPROTONOSUPPORT EPROTOTYPE ESHUTDOWN ESOCKTNOSUPPORT ETOOMANYREFS EUSERS
    ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT
    EBFONT ENOSTR ENOSR ENONET ENOPKG EADV ESRMNT EMULTIHOP EDOTDOT ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN
    ELIBMAX ELIBEXEC ERESTART ESTRPIPE ENOTNAM ENAVAIL EISNAM EOWNERDEAD ENOTRECOVERABLE ERFKILL
"""
"""What no file system raises: of processes, sockets, STREAMS and other names of one above; translated like those."""


@pytest.mark.parametrize("name", sorted(errno.errorcode.values()))
def test_every_errno_is_an_error_of_a_store(name: str) -> None:
    listed = " ".join((OS_HINTED, OS_PLAIN, OS_OTHERS)).split()
    assert name in listed, f"errno.{name} is new: decide whether sipdump_core.errors has a class or a hint for it"
    code = getattr(errno, name)
    error = StorageError.from_os("write", "/x", OSError(code, os.strerror(code)))
    expected = next((kind for kind, names in OS_KINDS.items() if name in names.split()), StorageError)
    assert type(error) is expected
    assert error.reason == os.strerror(code)
    assert bool(error.hint) == (name in OS_HINTED.split() and name != "EEXIST")


OS_CLASSES = list(dict.fromkeys(c for c in vars(builtins).values() if inspect.isclass(c) and issubclass(c, OSError)))
FILE_BACKENDS = ("text", "pcap", "parquet")
SEGMENT = Segment("t-", "2026-11-22--23-31-00")


def _open(backend: FolderBackend) -> None:
    backend.open(SEGMENT)


def _write(backend: FolderBackend) -> None:
    backend.write([record()])


def _read(backend: FolderBackend) -> None:
    list(backend.read(_stored(backend)))


def _list(backend: FolderBackend) -> None:
    list(backend.segments())


def _delete(backend: FolderBackend) -> None:
    backend.delete(_stored(backend))


def _stored(backend: FolderBackend) -> StoredSegment:
    name = f"{SEGMENT.stem}{backend.suffix}"
    return StoredSegment(Segment("t-", SEGMENT.stamp, 0, backend.suffix), 1, 1.0, sealed=True, location=name)


@pytest.mark.parametrize("backend_name", FILE_BACKENDS)
@pytest.mark.parametrize("cls", OS_CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    ("function", "call"),
    [("os.open", _open), ("os.write", _write), ("builtins.open", _read), ("os.listdir", _list), ("os.unlink", _delete)],
    ids=["open", "write", "read", "list", "delete"],
)
def test_no_error_of_the_system_leaves_a_backend_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend_name: str, cls: type[OSError], function: str,
    call: Callable[[FolderBackend], None],
) -> None:  # fmt: skip
    backend = installed(backend_name, Site(str(tmp_path), "t-"))
    assert isinstance(backend, FolderBackend)
    if call is _write:
        backend.open(SEGMENT)
    else:
        (tmp_path / f"{SEGMENT.stem}{backend.suffix}").touch()

    def fail(*_: Any, **__: Any) -> None:
        raise cls(errno.EREMOTEIO, "as thrown")

    gone = call is _delete and cls is FileNotFoundError  # what is gone already is no error
    expected = contextlib.nullcontext() if gone else pytest.raises(SipDumpError)
    with monkeypatch.context() as patch, expected:
        patch.setattr(function, fail)
        call(backend)
    backend.forget()
