"""What goes wrong with a bucket, in words for the operator: whatever boto3 raises becomes an :class:`S3Error`."""

from typing import NamedTuple

import botocore.exceptions as boto
import urllib3.exceptions as http
from botocore.parsers import ResponseParserError

from sipdump_core.errors import StorageError, kind_and_text

__all__ = ["RAISED", "S3Error", "mismatch", "of_code", "translate"]


class S3Error(StorageError):
    """A server refused an operation, or did not answer.

    Args:
        operation: what was tried, as ``"upload"``.
        target: the address of the object or the bucket.
        reason: what the server answered.
        hint: what the operator can do.
        state: the kind of trouble in a word or two, as ``"access denied"``.
        code: the server's own code, empty where it did not answer.
        status: the answer's HTTP status, 0 where there was none.
    """

    def __init__(
        self, operation: str, target: str, reason: str, hint: str = "", state: str = "", code: str = "", status: int = 0
    ) -> None:
        super().__init__(operation, target, reason, hint)
        self.state = state
        self.code = code
        self.status = status

    def at(self, target: str) -> "S3Error":
        """Return the same error for another object."""
        return S3Error(self.operation, target, self.reason, self.hint, self.state, self.code, self.status)

    @property
    def of_one(self) -> bool:
        """Whether it concerns one object, so that others may succeed."""
        return self.state in ("checksum mismatch", "too large", "refused")

    @property
    def of_request(self) -> bool:
        """Whether the server may not know something in the request, as a header."""
        return self.state == "refused" and self.status in _OF_REQUEST

    @property
    def of_absence(self) -> bool:
        """Whether the object is not there, or no longer the one that it was."""
        return self.code in ("NoSuchKey", "NotFound", "404", "PreconditionFailed", "412")

    @property
    def of_form(self) -> bool:
        """Whether the server answered, and may take the same in another form."""
        return self.state in ("refused", "access denied", "checksum mismatch", "too large")

    @property
    def of_credentials(self) -> bool:
        """Whether other credentials may help."""
        return self.state in (
            "no credentials",
            "credentials expired",
            "credentials refused",
            "wrong secret",
            "access denied",
        )


class _Answers(NamedTuple):
    """Answers of S3 and its likes that mean the same trouble."""

    state: str
    hint: str
    codes: tuple[str, ...]


class _Failures(NamedTuple):
    """Exceptions that mean the same trouble, raised where there is no answer."""

    state: str
    hint: str
    classes: tuple[type[Exception], ...]


_NO_S3 = "look at endpoint_url: what answers there may not be an S3 server"
_UNREACHABLE = "look at the network, the name server, endpoint_url and the server; the daemon tries again"

_ANSWERS = (
    _Answers("bucket missing", "create the bucket, or correct bucket, region and endpoint_url", ("NoSuchBucket",)),
    _Answers(
        "access denied",
        "grant the permissions that docs/s3.md lists; without s3:ListBucket a missing key looks like this too",
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"),
    ),
    _Answers(
        "credentials expired",
        "renew them; they are read afresh before each try",
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"),
    ),
    _Answers(
        "credentials refused",
        "the server does not know this access key; credentials are read afresh before each try",
        ("InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException", "401"),
    ),
    _Answers(
        "wrong secret",
        "correct the secret key; credentials are read afresh before each try",
        ("SignatureDoesNotMatch", "InvalidSignature"),
    ),
    _Answers(
        "wrong region",
        "set region to the bucket's",
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"),
    ),
    _Answers("clock skew", "set this machine's clock, as by NTP", ("RequestTimeTooSkewed",)),
    _Answers(
        "server busy",
        "nothing: the daemon tries again, more and more slowly",
        (
            "SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "ThrottlingException", "TooManyRequests",
            "RequestLimitExceeded", "429", "500", "502", "503", "504",
        ),
    ),
    _Answers("server slow", "raise timeout if the line is slow", ("RequestTimeout", "408")),
    _Answers(
        "checksum mismatch",
        "look for a fault in the network or the memory if it happens again",
        ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    ),
    _Answers(
        "too large",
        "lower part_bytes, or rotate_size, below what the server takes",
        ("EntityTooLarge", "MaxMessageLengthExceeded", "RequestEntityTooLarge", "413"),
    ),
)  # fmt: skip
_BY_CODE = {code: answers for answers in _ANSWERS for code in answers.codes}

_FAILURES = (
    _Failures(
        "no credentials",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role",
        (
            boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError,
            boto.TokenRetrievalError, boto.MetadataRetrievalError, boto.NoAuthTokenError, boto.SSOError,
            boto.RefreshWithMFAUnsupportedError, boto.UnknownCredentialError, boto.ProfileNotFound,
            getattr(boto, "LoginError", boto.SSOError),  # newer releases have it
        ),
    ),
    _Failures(
        "unreachable",
        _UNREACHABLE,
        (boto.EndpointConnectionError, boto.ProxyConnectionError, http.NewConnectionError, http.ProxyError),
    ),
    _Failures(
        "server slow",
        "the server is silent for longer than timeout; the daemon tries again",
        (
            boto.ConnectTimeoutError, boto.ReadTimeoutError, http.ConnectTimeoutError, http.ReadTimeoutError,
            TimeoutError,
        ),
    ),
    _Failures(
        "misconfigured",
        "TLS failed: look at endpoint_url (https or http?), the server's certificate and AWS_CA_BUNDLE",
        (boto.SSLError, http.SSLError),
    ),
    _Failures(
        "connection cut",
        _UNREACHABLE,
        (boto.HTTPClientError, boto.IncompleteReadError, http.HTTPError, ConnectionError),
    ),
    _Failures(
        "checksum mismatch",
        "look for a fault in the network or the memory if it happens again",
        (boto.ChecksumError, boto.FlexibleChecksumError),
    ),
    _Failures(
        "misconfigured",
        _NO_S3,  # botocore stumbles over the answer
        (ResponseParserError, boto.PaginationError, LookupError, TypeError, AttributeError, RecursionError),
    ),
    _Failures(
        "misconfigured",
        "look at endpoint_url, region and the configuration of boto3",
        (boto.BotoCoreError, ValueError, OSError),  # OSError: as of a certificate file that is not there
    ),
)  # fmt: skip

_OF_REQUEST = (400, 415, 417, 422, 501)

RAISED = (boto.ClientError, *(cls for failures in _FAILURES for cls in failures.classes))
"""What boto3 raises, by its bases: what is not one of these is a fault of ours."""


def translate(operation: str, target: str, error: Exception) -> S3Error:
    """Return the error that stands for one of ``RAISED``.

    Args:
        operation: what was tried.
        target: the address that it was tried on.
        error: what boto3 raised.
    """
    if isinstance(error, boto.ClientError):
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        # a code of the server's own: its status says what kind
        kind = str(status) if code not in _BY_CODE and status not in (403, 408) else ""
        return of_code(operation, target, code, str(answer.get("Message", "")), kind, status)
    failures = next(failures for failures in _FAILURES if isinstance(error, failures.classes))
    reason = f"the answer is not S3's: {kind_and_text(error)}" if failures.hint is _NO_S3 else str(error)
    return S3Error(operation, target, reason, failures.hint, failures.state)


def of_code(operation: str, target: str, code: str, message: str, kind: str = "", status: int = 0) -> S3Error:
    """Return the error that stands for a server's answer.

    Args:
        operation: what was tried.
        target: the address that it was tried on.
        code: the server's code, as ``"NoSuchBucket"``.
        message: what the server says beside it.
        kind: the code that may have the same meaning, where the server's own is not known.
        status: the answer's HTTP status.
    """
    answers = _BY_CODE.get(code) or _BY_CODE.get(kind)
    state, hint = (answers.state, answers.hint) if answers else ("refused", "" if message else _NO_S3)
    reason = ": ".join(filter(None, [code, message])) or "no reason given"
    return S3Error(operation, target, reason, hint, state, code, status)


def mismatch(operation: str, target: str, reason: str) -> S3Error:
    """Return the error for bytes that arrived changed, as we found out ourselves."""
    answers = _BY_CODE["BadDigest"]
    return S3Error(operation, target, reason, answers.hint, answers.state)
