"""The entry points of installed distributions, however broken the metadata of some of them are.

``importlib.metadata`` gives up at the first distribution that it cannot read, or passes it over in silence. Here each
is read by itself: what can be read of it counts, and a :class:`Notice` names the file that is wrong.
"""

import importlib.metadata
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from sipdump_core.drivers.guard import Guard
from sipdump_core.settings.options import Notice

__all__ = ["OURS", "Entry", "entries", "is_object"]

OURS = "sipdump"
"""The distribution that the first-party drivers come from."""
_GROUP = re.compile(r"\[(.*)\]")
_VALUE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*\s*:\s*[^\W\d]\w*(?:\.[^\W\d]\w*)*\s*(?:\[.*\])?")
_FOLDER = re.compile(r"(?P<name>.+?)(?:-(?P<version>[^-]+))?(?:-py[\d.]+)?\.(?:dist-info|egg-info)")


@attrs.frozen
class Entry:
    """One entry point, and the distribution that it belongs to."""

    name: str
    value: str
    """``module:class``."""
    group: str
    distribution: str
    version: str
    place: str = ""
    """The file that says so."""

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.value.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """The name in that module."""
        return self.value.partition(":")[2].partition("[")[0].strip()


def entries(group: str) -> tuple[list[Entry], list[Notice]]:
    """Return the entry points of a group, and what is wrong with the metadata of distributions.

    Of two distributions with one name, the first on the path counts, as for ``importlib.metadata``.
    """
    found: list[Entry] = []
    notices: list[Notice] = []
    seen: set[str] = set()
    with Guard() as guard:
        for one in importlib.metadata.distributions():
            with Guard() as inner:
                found += _entries_of(one, group, seen, notices)
            if inner.error:
                notices.append(Notice(f"a distribution cannot be read, and is passed over: {inner.text}", _place(one)))
    if guard.error:
        notices.append(Notice(f"the installed distributions cannot be listed to the end: {guard.text}"))
    return found, notices


def _entries_of(
    dist: importlib.metadata.Distribution, group: str, seen: set[str], notices: list[Notice]
) -> Iterator[Entry]:
    """Yield the entry points of one distribution."""
    place = _place(dist)
    text = _text(dist, place)
    if not text:
        return
    lines = list(_lines(text, group, place, notices))
    if not lines:
        return
    by_folder = _FOLDER.fullmatch(os.path.basename(os.path.dirname(place)))
    name, version = _identity(dist, by_folder, place, notices)
    key = re.sub(r"[-_.]+", "-", by_folder["name"] if by_folder else name).lower()
    if key in seen:
        return
    seen.add(key)
    if name == OURS and key != OURS:  # nobody becomes first-party by a line in its METADATA
        name = key
    yield from (Entry(each, value, group, name, version, place) for each, value in dict.fromkeys(lines))


def _place(dist: importlib.metadata.Distribution) -> str:
    """Return the path of its entry_points.txt; empty if it is not of a kind that has one."""
    folder = getattr(dist, "_path", None)
    return os.path.join(folder, "entry_points.txt") if isinstance(folder, Path) else ""


def _text(dist: importlib.metadata.Distribution, place: str) -> str | None:
    """Return the text of entry_points.txt, None where there is none.

    Raises:
        OSError: it is there, and cannot be read.
    """
    if not place:
        return dist.read_text("entry_points.txt")
    if not os.path.lexists(place):
        folder = os.path.dirname(place)
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):
            raise OSError("its folder may not be searched by this user")
        return None
    if not os.path.isfile(place):
        raise OSError("it is no regular file")
    return Path(place).read_bytes().decode("utf-8", "replace")


def _lines(text: str, group: str, place: str, notices: list[Notice]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each entry point of a group; the first bad line of the file is noticed."""
    section: str | None = None
    told = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        header = _GROUP.fullmatch(line)
        if header:
            section = header[1].strip()
        if header or not line or line[0] in "#;":
            continue
        name, _, value = (part.strip() for part in line.partition("="))
        good = bool(section is not None and name and value) and "\N{REPLACEMENT CHARACTER}" not in line
        if section == group:
            good = good and is_object(value)
            if name:
                yield name, value
        if not good and not told:
            told = True
            form = '; it must be "name = module:Class"' if section == group else ""
            what = f"a distribution has a wrong line in its entry points, {line[:80]!r}{form}; install it again"
            notices.append(Notice(what, f"{place}:{number}"))


def is_object(value: str) -> bool:
    """Return whether the value of an entry point names a class in a module."""
    return _VALUE.fullmatch(value) is not None


def _identity(
    dist: importlib.metadata.Distribution, by_folder: re.Match[str] | None, place: str, notices: list[Notice]
) -> tuple[str, str]:
    """Return name and version: of METADATA or, where that is broken, as its folder is called."""
    files = [os.path.join(os.path.dirname(place), name) for name in ("METADATA", "PKG-INFO")]
    with Guard():
        if not place or any(map(os.path.isfile, files)):  # a fifo would be waited for
            name, version = dist.metadata["Name"], dist.metadata["Version"]
            if isinstance(name, str) and isinstance(version, str) and name.isprintable() and name.strip():
                return name, version
    what = "a distribution has no METADATA that says its name and version; its drivers can be used; install it again"
    notices.append(Notice(what, files[0] if place else ""))
    if by_folder:
        return by_folder["name"].replace("_", "-"), by_folder["version"] or "?"
    return "?", "?"
