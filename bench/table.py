"""The one table that the benchmarks fill."""

from collections.abc import Iterable

import attrs


@attrs.frozen
class Row:
    """One row: what was measured, against what, and whether that meets the aim."""

    what: str
    measured: str
    against: str = ""
    ratio: str = ""
    aim: str = ""
    met: bool | None = None
    """None: there is no aim, or nothing to compare with."""


def render(rows: Iterable[Row]) -> str:
    """Return the table in Markdown."""
    head = ("Benchmark", "Measured", "Against", "Ratio", "Aim", "Met")
    verdicts = {None: "", True: "yes", False: "**no**"}
    lines = [head, ("---",) * len(head)]
    lines += [(row.what, row.measured, row.against, row.ratio, row.aim, verdicts[row.met]) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compare(what: str, mine: float, other: float, aim: float | None, *, other_is: str, unit: str = "µs") -> Row:
    """Return the row of a ratio that should be at most ``aim``."""
    ratio = mine / other
    return Row(
        what,
        f"{mine:.2f} {unit}",
        f"{other:.2f} {unit}, {other_is}",
        f"{ratio:.2f}",
        "" if aim is None else f"at most {aim:g}",
        None if aim is None else ratio <= aim,
    )
