"""What commands print: text or JSON, errors, and a bar while something takes long."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Self

from sipdump_core.log import KEPT, escaped

__all__ = ["Output", "Progress"]


class Output:
    """Prints for a person or, after ``--json``, for a program; remembers whether something failed.

    Args:
        as_json: print JSON.
    """

    def __init__(self, as_json: bool = False) -> None:
        self._json = as_json
        self._progress: Progress | None = None
        self._errors: set[str] = set()
        self.failed = False
        """Whether the command ends with 1."""

    def say(self, line: str) -> None:
        """Print a line for a person."""
        if self._json:
            return
        line = escaped(line, keep=KEPT)
        if self._progress is None:
            print(line)
        else:
            self._progress.print(line)

    def note(self, line: str) -> None:
        """Print on standard error, for a person, what helps to understand the rest."""
        if not self._json:
            print(f"sipdump-admin: {escaped(line)}", file=sys.stderr)

    def error(self, error: object) -> None:
        """Print an error on standard error, once; the command goes on, and ends with 1."""
        if str(error) not in self._errors:  # several backends may fail for the same reason
            print(f"sipdump-admin: {escaped(str(error), keep=KEPT)}", file=sys.stderr)
        self._errors.add(str(error))
        self.failed = True

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print some columns of rows for a person."""
        if self._json:
            return
        cells = [[name, *("-" if row[name] is None else str(row[name]) for row in rows)] for name in columns]
        pattern = "  ".join(f"%-{max(map(len, column))}s" for column in cells)
        self.say("\n".join([(pattern % line).rstrip() for line in zip(*cells, strict=True)]))

    def value(self, value: Any) -> None:
        """Print a value as kamcmd prints it."""
        self.say(_shown(value))

    def result(self, document: Any) -> int:
        """Print what the command found or did for a program; call it once, last.

        Returns:
            The exit status.
        """
        if self._json:
            print(_indented(document))
        return int(self.failed)

    def progress(self, what: str, unit: str, total: int | None = None) -> "Progress":
        """Return a bar for the time that something takes; lines that are printed meanwhile go above it."""
        self._progress = Progress(what, unit, total)
        return self._progress


class Progress:
    """A bar on standard error if that is a terminal; otherwise nothing.

    Args:
        what: is shown before the bar.
        unit: what is counted.
        total: how many there will be, if that is known.
    """

    def __init__(self, what: str, unit: str, total: int | None = None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415 - only a terminal needs it

            scaled = unit == "B"
            self._bar = tqdm(
                desc=what, unit=unit if scaled else f" {unit}", unit_scale=scaled, total=total, leave=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def step(self, count: int = 1) -> None:
        """Count on."""
        if self._bar is not None:
            self._bar.update(count)

    def print(self, line: str) -> None:
        """Print a line on standard output, above the bar."""
        if self._bar is None:
            print(line)
        else:
            self._bar.write(line)


def _indented(value: Any, indent: str = "") -> str:
    """Return JSON as ``json.dumps(value, indent=2)`` does, but more quickly: a list may have 100,000 rows."""
    inner = indent + "  "
    if isinstance(value, dict) and any(isinstance(member, dict | list | tuple) for member in value.values()):
        members = [f"{json.dumps(name)}: {_indented(member, inner)}" for name, member in value.items()]
        return f"{{\n{inner}" + f",\n{inner}".join(members) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(member, dict | list | tuple) for member in value):
        return f"[\n{inner}" + f",\n{inner}".join([_indented(member, inner) for member in value]) + f"\n{indent}]"
    if not (value and isinstance(value, dict | list | tuple)):
        return json.dumps(value)
    text = json.dumps(value, separators=(f",\n{inner}", ": "))
    return f"{text[0]}\n{inner}{text[1:-1]}\n{indent}{text[-1]}"


def _shown(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict):
        return str(value)
    members = [f"{indent}\t{name}: {_shown(member, indent + chr(9))}\n" for name, member in value.items()]
    return "{\n" + "".join(members) + indent + "}"
