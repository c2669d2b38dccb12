"""Charts as SVG, drawn on the server: bars and lines over time, and bars beside names.

A chart stretches to the width that it gets, and its height is the stylesheet's; so its texts are HTML around it, as
large on a phone as on a wall. Colours and dashes are classes (``c1`` to ``c8``), no style stands in the markup. Each
bar and each point is a link. A screen reader gets what the chart says in a sentence, and a table with the same links.
"""

import math
from collections.abc import Iterator, Sequence

import attrs
from markupsafe import Markup, escape

from sipdump_core.reading.render.plain import printable

__all__ = ["Amount", "Chart", "Series", "axis", "rank_bars"]

_WIDTH = 1000
"""Of the drawing, in its own units; the page stretches it."""
_HEIGHT = 100
_LABELS = 5
"""Times below a chart, at most."""
_COLOURS = 8


@attrs.frozen
class Amount:
    """A value, and the search behind it."""

    value: float | None
    """None: there is none, as a ratio of nothing."""
    url: str = ""
    """Empty: there is no such search."""


@attrs.frozen
class Series:
    """Values over time that have one name."""

    name: str
    colour: int
    """1 to 8; 8 is grey, for the rest."""
    amounts: Sequence[Amount]
    """One for each time."""


@attrs.frozen
class Chart:
    """A chart over time.

    Args:
        key: unique on the page, of letters.
        title: what it shows.
        times: when each bucket begins, as people read it; also in the table.
        ticks: the same, short, for the axis.
        series: what is drawn: bars from the bottom up, or lines.
        unit: of the values: empty, ``%`` or ``s``.
        lines: draw lines, not stacked bars.
        top: the largest value that is to be shown; 0: the largest there is.
    """

    key: str
    title: str
    times: Sequence[str]
    ticks: Sequence[str]
    series: Sequence[Series]
    unit: str = ""
    lines: bool = False
    top: float = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        values = (amount.value for each in self.series for amount in each.amounts)
        return all(value is None if self.lines else not value for value in values)

    @property
    def summary(self) -> str:
        """What the chart says, in a sentence."""
        if self.empty:
            return f"{self.title}: nothing."
        parts = []
        for each in self.series:
            values = [amount.value for amount in each.amounts if amount.value is not None]
            if self.lines and values:
                parts.append(f"{each.name} from {self.shown(min(values))} to {self.shown(max(values))}")
            elif not self.lines:
                parts.append(f"{each.name} {self.shown(math.fsum(values))}")
        return f"{self.title}, {self.times[0]} to {self.times[-1]}: {', '.join(parts)}."

    def shown(self, value: float | None) -> str:
        """Return a value as people read it."""
        if value is None:
            return "-"
        if self.unit == "s":
            return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
        return f"{value:.1f} %" if self.unit == "%" else f"{value:,.0f}"

    @property
    def peak(self) -> float:
        """The value at the top of the axis: a round one."""
        if self.top:
            return self.top
        columns = zip(*(each.amounts for each in self.series), strict=True)
        values = (
            [amount.value or 0 for amount in column] if self.lines else [sum(amount.value or 0 for amount in column)]
            for column in columns
        )
        return axis(max((value for column in values for value in column), default=0), whole=not self.unit)

    @property
    def labels(self) -> list[str]:
        """The times below the chart, as far apart as each other."""
        count = min(_LABELS, len(self.ticks))
        if count < 2:
            return list(self.ticks)
        return [self.ticks[round(at * (len(self.ticks) - 1) / (count - 1))] for at in range(count)]

    @property
    def scale(self) -> list[str]:
        """The values beside the chart, from the top down."""
        unit = f" {self.unit}" if self.unit else ""
        return [f"{self.peak * part:,.6g}{unit}" for part in (1, 0.5, 0)]

    @property
    def svg(self) -> Markup:
        """The drawing."""
        key = self.key
        parts = [
            f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none">'
            f'<g role="img" aria-labelledby="{key}-title {key}-desc">'
            f'<title id="{key}-title">{_text(self.title)}</title><desc id="{key}-desc">{_text(self.summary)}</desc>'
            f'<path class="grid" d="M0 0H{_WIDTH}M0 {_HEIGHT // 2}H{_WIDTH}"/>'
            f'<path class="base" d="M0 {_HEIGHT}H{_WIDTH}"/></g>'
            # an image cannot have links; these are for the mouse, and the table has the same ones
            '<g aria-hidden="true">'
        ]
        if not self.empty:
            parts += self._lines() if self.lines else self._bars()
        return Markup("".join([*parts, "</g></svg>"]))  # noqa: S704 - each part is escaped

    def rows(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield the rows of the table: the time, and text and URL of each value; times with nothing are left out."""
        for number, time in enumerate(self.times):
            amounts = [each.amounts[number] for each in self.series]
            if any(amount.value for amount in amounts):
                yield time, [(self.shown(amount.value), amount.url if amount.value else "") for amount in amounts]

    def _bars(self) -> Iterator[str]:
        width, peak = _WIDTH / len(self.times), self.peak
        gap = min(width * 0.12, 4)
        for number, time in enumerate(self.times):
            below = 0.0
            for each in self.series:
                amount = each.amounts[number]
                if not amount.value:
                    continue
                tall = amount.value / peak * _HEIGHT
                below += tall
                tip = f"{time}: {each.name} {self.shown(amount.value)}"
                shape = (
                    f'<rect class="c{each.colour}" x="{number * width + gap / 2:.2f}" y="{_HEIGHT - below:.2f}" '
                    f'width="{width - gap:.2f}" height="{tall:.2f}"/>'
                )
                yield _link(amount.url, tip, shape)

    def _lines(self) -> Iterator[str]:
        width = _WIDTH / len(self.times)
        for each in self.series:
            path = "".join(self._points(each, width))
            yield f'<path class="line c{each.colour}" d="{path}"/>'
        for number, time in enumerate(self.times):
            yield self._column(number, time, width)

    def _points(self, series: Series, width: float) -> Iterator[str]:
        """Yield the points of a line, which breaks where there is no value."""
        drawing = False
        for number, amount in enumerate(series.amounts):
            if amount.value is not None:
                yield f"{'L' if drawing else 'M'}{self._at(number, amount.value, width)}"
            drawing = amount.value is not None

    def _column(self, number: int, time: str, width: float) -> str:
        """Return the points of one time, in a link as tall as the chart, so that it is easily hit."""
        amounts = [(each, each.amounts[number]) for each in self.series]
        if all(amount.value is None for _, amount in amounts):
            return ""
        url = next((amount.url for _, amount in amounts if amount.url), "")
        tip = f"{time}: " + ", ".join(f"{each.name} {self.shown(amount.value)}" for each, amount in amounts)
        dots = "".join(
            f'<path class="dot c{each.colour}" d="M{self._at(number, amount.value, width)}h0"/>'
            for each, amount in amounts
            if amount.value is not None
        )
        hit = f'<rect class="hit" x="{number * width:.2f}" y="0" width="{width:.2f}" height="{_HEIGHT}"/>'
        return _link(url, tip, hit + dots)

    def _at(self, number: int, value: float, width: float) -> str:
        height = _HEIGHT - min(value / self.peak, 1) * _HEIGHT
        return f"{(number + 0.5) * width:.2f} {height:.2f}"


def rank_bars(amounts: Sequence[tuple[str, Amount]]) -> list[tuple[str, Amount, Markup]]:
    """Return rows for a table: a name, its value, and a bar that is as long as the value is large.

    Args:
        amounts: the largest first.
    """
    largest = max((amount.value or 0 for _, amount in amounts), default=0) or 1
    rows = []
    for name, amount in amounts:
        long = (amount.value or 0) / largest * 100
        bar = (
            '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="c4" width="{long:.2f}" height="1"/></svg>'
        )
        rows.append((name, amount, Markup(bar)))  # noqa: S704 - numbers alone
    return rows


def axis(value: float, *, whole: bool = False) -> float:
    """Return a round value that is not less: 1, 2, 4, 5 or 10 times a power of ten.

    Args:
        value: the largest of a chart.
        whole: half of it, which also stands beside the chart, must be a whole number.
    """
    if value <= 0:
        return 2 if whole else 1
    power = 10.0 ** math.floor(math.log10(value))
    found = next(times * power for times in (1, 2, 4, 5, 10, 20) if times * power >= value * (1 - 1e-9))
    return max(2, found + found % 2) if whole else found


def _link(url: str, tip: str, shape: str) -> str:
    """Return a shape with a text that is shown while the mouse is above it, as a link where there is a URL.

    The keyboard reaches the same links in the table: hundreds of bars would hold it up.
    """
    title = f"<title>{_text(tip)}</title>"
    if not url:
        return f"<g>{title}{shape}</g>"
    return f'<a href="{escape(url)}" tabindex="-1">{title}{shape}</a>'


def _text(text: str) -> str:
    return str(escape(printable(text)))
