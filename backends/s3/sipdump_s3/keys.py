"""Keys: where in the bucket a segment is, and which segment is at a key.

The file's name in a key is that of a segment, ``<fprefix>yyyy-mm-dd--hh-mm-ss[-n]<suffix>``, in UTC: so collectors in
several time zones agree, no hour comes twice, and the key alone says how old it is. Files in the spool have the same
names, so that a key does not depend on the time zone of whoever uploads it.
"""

import calendar
import re
import string
import time

import attrs

from sipdump_core.segment import Segment

__all__ = ["Keys", "check_template"]

FIELDS = ("node", "date", "hour", "file")
_VALUES = {"node": r"[A-Za-z0-9._-]+", "date": r"\d{4}-\d\d-\d\d", "hour": r"\d\d", "file": r"[^/]+"}
"""What stands in a key for each field."""
_NAME = re.compile(r"(.*?)\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d", re.ASCII | re.DOTALL)
_STAMP = "%Y-%m-%d--%H-%M-%S"
_MAX_KEY = 1024  # bytes, by S3's documentation


def check_template(template: str) -> str | None:
    """Return None for a good template, else what is allowed."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"must be a template: {error}"
    names = [name for _, name, _, _ in parts if name is not None]
    if any(name not in FIELDS for name in names) or any(spec or conversion for _, _, spec, conversion in parts):
        return f"may hold {', '.join(f'{{{name}}}' for name in FIELDS)} and plain text"
    if "node" not in names or names.count("file") != 1 or not template.endswith("{file}"):
        return "must hold {node}, or collectors would take each other's segments for their own, and end with {file}"
    if template.rpartition("{file}")[0][-1:] not in ("", "/"):
        return "must have {file} for its last part, behind a slash"
    return check_path(template)


def check_path(text: str) -> str | None:
    """Return None for a text that can be part of a key, else what is allowed."""
    if text.startswith("/") or "//" in text or not text.isprintable():
        return "must be a path in the bucket: printable, without a leading slash or two slashes in a row"
    if {".", ".."} & set(text.split("/")):
        return 'must have no part "." or "..", which some servers resolve'
    return None


@attrs.frozen
class Keys:
    """The keys of one collector.

    Args:
        prefix: what all keys begin with; a slash follows it.
        template: the rest of the key, see ``check_template``.
        node: the collector.
        fprefix: what names of segments begin with.
        suffix: what they end with.
    """

    prefix: str
    template: str
    node: str
    fprefix: str
    suffix: str

    @property
    def root(self) -> str:
        """What all keys of this collector begin with, up to the first part that varies."""
        fixed = ""
        for text, field, _, _ in string.Formatter().parse(self.template):
            fixed += text
            if field not in (None, "node"):  # None: plain text goes on
                break
            fixed += self.node if field else ""
        return self._prefixed(fixed)

    @property
    def too_long(self) -> bool:
        """Whether its longest key would be longer than S3 allows."""
        longest = Segment(self.fprefix, "2026-11-22--23-31-00", 999_999, self.suffix)
        return len(self.key(longest).encode()) > _MAX_KEY

    def utc(self, segment: Segment) -> Segment:
        """Return a segment that is named in local time, as in a folder, with its name in UTC."""
        stamp = time.strftime(_STAMP, time.gmtime(segment.start))
        return attrs.evolve(segment, stamp=stamp, suffix=self.suffix)

    def local(self, utc: Segment) -> Segment:
        """Return a segment that is named in UTC with its name in local time."""
        return attrs.evolve(utc, stamp=Segment.starting(self.fprefix, _seconds(utc.stamp)).stamp)

    def key(self, utc: Segment) -> str:
        """Return the key of a segment that is named in UTC."""
        date, hour = utc.stamp[:10], utc.stamp[12:14]
        return self._prefixed(self.template.format(node=self.node, date=date, hour=hour, file=utc.name))

    def segment(self, key: str) -> Segment | None:
        """Return the segment at a key, named in UTC; None where the key is not one of ours."""
        utc = Segment.parse(key.rpartition("/")[2], self.fprefix, self.suffix)
        return utc if utc and self.key(utc) == key else None

    def start(self, key: str) -> float:
        """Return when the segment at a key of ours starts, in seconds since the epoch."""
        name = key.rpartition("/")[2]
        return _seconds(name[len(self.fprefix) :][: len("yyyy-mm-dd--hh-mm-ss")])

    def partition(self, key: str) -> str:
        """Return the hour of a key of ours, as ``date=2026-11-22/hour=23``, whatever the template."""
        stamp = key.rpartition("/")[2][len(self.fprefix) :]
        return f"date={stamp[:10]}/hour={stamp[12:14]}"

    @property
    def above(self) -> str:
        """What the keys of all collectors begin with."""
        return self._prefixed("")

    def any_segment(self, key: str, suffix: str) -> Segment | None:
        """Return the segment at a key of any collector, named in UTC; None where it is none with this suffix."""
        name = key.rpartition("/")[2]
        found = _NAME.match(name)
        return Segment.parse(name, found[1], suffix) if found else None

    def node_of(self, key: str) -> str:
        """Return the collector of a key, by the template; the folder where the key is not of that form."""
        found = self._pattern().fullmatch(key)
        return found["node"] if found else key.removeprefix(self.above).rpartition("/")[0]

    def _pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self.above)
        seen = set()
        for text, field, _, _ in string.Formatter().parse(self.template):
            pattern += re.escape(text)
            if field:
                pattern += f"(?P={field})" if field in seen else f"(?P<{field}>{_VALUES[field]})"
                seen.add(field)
        return re.compile(pattern)

    def next(self, key: str) -> str:
        """Return the key to try when one of ours is taken.

        Raises:
            ValueError: it is not the key of a segment.
        """
        utc = Segment.parse(key.rpartition("/")[2], self.fprefix, self.suffix)
        if utc is None:
            raise ValueError(f"{key!r} is not the key of a segment")
        return self.key(utc.next())

    def short(self, key: str) -> str:
        """Return what distinguishes a key of ours within its hour, as ``31-00-1``."""
        return key[: len(key) - len(self.suffix)].rpartition("/")[2][len(self.fprefix) + len("yyyy-mm-dd--hh-") :]

    def _prefixed(self, rest: str) -> str:
        return f"{self.prefix.rstrip('/')}/{rest}" if self.prefix else rest


def _seconds(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, _STAMP)))
