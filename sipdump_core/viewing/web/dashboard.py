"""The overview's charts: what is drawn of the numbers, and the search behind each of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import attrs
from markupsafe import Markup

from sipdump_core.calls.summary import iso_utc
from sipdump_core.reading.lines import local_time
from sipdump_core.reading.overview import Bucket, Overview
from sipdump_core.reading.tally import FAILURES, OTHERS, Tally
from sipdump_core.viewing.web.charts import Amount, Chart, Series, rank_bars

__all__ = ["Links", "Ranking", "charts", "facts", "rankings"]

Words = Sequence[tuple[str, str]]

_METHODS = 6
"""Methods with a colour of their own."""
_RANKED = 12
"""Rows of a ranking."""
_REST = 8
_OUTCOMES: Sequence[tuple[str, int, Sequence[str]]] = (
    ("answered", 3, ("answered", "ended")),
    ("in progress", 5, ("calling", "ringing")),
    ("cancelled", 1, ("cancelled",)),
    ("challenged", 7, ("challenged",)),
    ("refused", 2, ("refused",)),
    ("failed", 4, ("failed",)),
    ("timed out", 6, ("timed-out",)),
)
"""What becomes of a call: name, colour, and states."""
_ATTEMPT = ("kind", "attempt")
_FAILED: Words = [_ATTEMPT, *(("state", state) for state in sorted(FAILURES))]


@attrs.frozen
class Links:
    """Searches behind numbers.

    Args:
        root: how the addresses of the page begin.
        words: the filters that the overview was asked with.
    """

    root: str
    words: Words

    def calls(self, since_us: int, until_us: int, *words: tuple[str, str]) -> str:
        """Return the address of a search.

        Args:
            since_us: the span, in microseconds since the epoch.
            until_us: its end.
            words: filters, which stand instead of those of the same names that the overview was asked with.
        """
        names = {"since", "until", "last", *(name for name, _ in words)}
        kept = [word for word in self.words if word[0] not in names]
        span = [
            (name, iso_utc(each).replace(".000000Z", "Z")) for name, each in (("since", since_us), ("until", until_us))
        ]
        query = urlencode([*kept, *words, *span], quote_via=quote, safe=":/", errors="surrogateescape")
        return f"{self.root}calls?{query}"


@attrs.frozen
class Ranking:
    """What there is most of."""

    title: str
    rows: Sequence[tuple[str, Amount, Markup]]
    """Name, count and bar."""
    more: int
    """How many names are not shown."""


def charts(overview: Overview, links: Links) -> list[Chart]:
    """Return the charts over time; none where nothing was found."""
    if not overview.buckets:
        return []
    drawer = _Drawer(overview, links)
    return [
        drawer.outcomes(),
        drawer.ratios(),
        drawer.delays("pdd", "pdd", "Post-dial delay", "post_dial_delay"),
        drawer.delays("setup", "setup", "Setup time", "setup_time"),
        drawer.requests(),
        drawer.replies(),
        drawer.registrations(),
    ]


def rankings(overview: Overview, links: Links) -> list[Ranking]:
    """Return what calls failed with, whose they were, and where they went."""
    if not overview.buckets:
        return []
    total = overview.total
    begin, end = overview.buckets[0].since_us, overview.buckets[-1].until_us

    def url(*words: tuple[str, str]) -> str:
        return links.calls(begin, end, *_FAILED, *words)

    def of_status(status: int) -> str:
        return url(("status", str(status))) if status else links.calls(begin, end, _ATTEMPT, ("state", "timed-out"))

    return [
        _ranking("Failures by answer", total.failures, lambda one: str(one or "no answer"), of_status),
        _ranking(
            "Failures by the caller's user agent",
            total.failed_agents,
            lambda one: one or "none",
            lambda one: url(("ua", one)) if one and one != OTHERS else "",
        ),
        _ranking(
            "Failures by destination",
            total.failed_targets,
            str,
            lambda one: url(("ip", one)) if one != OTHERS else "",
        ),
    ]


def facts(overview: Overview) -> list[tuple[str, str, str]]:
    """Return the numbers of the whole span: name, value, and what it means."""
    total = overview.total
    sessions, registrations, delays = total.sessions(), total.registrations(), total.delays()
    found = [
        ("Calls", _count(sessions["attempts"]), "attempts, each once over challenges and legs"),
        ("ASR", _percent(sessions["asr"]), "answer seizure ratio: answered calls (ITU-T E.411)"),
        ("NER", _percent(sessions["ner"]), "network effectiveness ratio: answered, busy, no answer (ITU-T E.425)"),
    ]
    for key, name, meaning in (
        ("pdd", "Post-dial delay", "from INVITE to the first ringing or final answer, 50 % and 95 %"),
        ("setup", "Setup time", "from INVITE to its 200, 50 % and 95 %"),
    ):
        delay = delays[key]
        found.append((name, f"{delay['p50']:.3f} / {delay['p95']:.3f} s" if delay else "-", meaning))
    found.append(("Registered users", _count(registrations["users"]), "users whose REGISTER was accepted"))
    found.append(("Messages", _count(sum(total.messages.values())), "requests and replies, on every hop"))
    return found


_Count = Callable[[Tally], int]
"""Returns what is counted."""


class _Drawer:
    """Draws the buckets of an overview."""

    def __init__(self, overview: Overview, links: Links) -> None:
        self._overview = overview
        self._buckets = overview.buckets
        self._links = links
        begin, end, step = self._buckets[0].since_us, self._buckets[-1].until_us, overview.step_s
        form = "%H:%M:%S" if step < 60 else "%H:%M"
        if end - begin > 86_400_000_000:
            form = "%d %b" if step >= 86_400 else "%d %b %H:%M"
        self._ticks = [local_time(each.since_us).strftime(form) for each in self._buckets]
        self._times = [local_time(each.since_us).strftime("%Y-%m-%d %H:%M:%S") for each in self._buckets]

    def outcomes(self) -> Chart:
        series = []
        for name, colour, states in _OUTCOMES:
            words = (_ATTEMPT, *(("state", state) for state in states))
            series.append(self._counts(name, colour, words, _of_states(states)))
        return self._chart("outcomes", "Calls by what became of them", series)

    def ratios(self) -> Chart:
        def ratio(name: str) -> list[Amount]:
            return [
                Amount(value if value is None else float(value), self._url(each, _ATTEMPT))
                for each in self._buckets
                for value in [each.tally.sessions()[name]]
            ]

        series = [Series("ASR", 3, ratio("asr")), Series("NER", 1, ratio("ner"))]
        return self._chart("ratios", "Answered (ASR) and delivered (NER)", series, unit="%", lines=True, top=100)

    def delays(self, key: str, measure: str, title: str, field: str) -> Chart:
        results = [each.tally.delays()[measure] for each in self._buckets]
        urls = [self._url(each, _ATTEMPT, ("sort", f"-{field}")) for each in self._buckets]
        series = [
            Series(
                f"{p} %",
                colour,
                [Amount(found[f"p{p}"] if found else None, url) for found, url in zip(results, urls, strict=True)],
            )
            for p, colour in ((50, 3), (95, 2), (99, 4))
        ]
        return self._chart(key, f"{title}, percentiles", series, unit="s", lines=True)

    def requests(self) -> Chart:
        names = [name for name, _ in self._overview.total.methods.most_common(_METHODS + 1) if name != OTHERS]
        names = names[:_METHODS]
        series = [
            self._counts(name, number, [("method", name)], _of_method(name)) for number, name in enumerate(names, 1)
        ]
        rest = self._counts("others", _REST, [], _of_others(names))
        return self._chart("requests", "Requests by method", [*series, rest])

    def replies(self) -> Chart:
        series = []
        for first, colour in ((1, 8), (2, 3), (3, 5), (4, 2), (5, 4), (6, 6)):
            # not status=4xx, which asks for the answer that decided
            words = [("grep", f"/^SIP/2\\.0 {first}/")]
            series.append(self._counts(f"{first}xx", colour, words, _of_class(first)))
        return self._chart("replies", "Replies by status", series)

    def registrations(self) -> Chart:
        method = ("method", "REGISTER")
        failed = [method, ("state", "refused"), ("state", "failed")]
        series = [
            self._counts(name, colour, words, _of_registrations(name))
            for name, colour, words in (
                ("accepted", 3, [method]),
                ("challenged", 7, [method]),
                ("failed", 4, failed),
                ("unanswered", 6, [method, ("state", "timed-out"), ("state", "calling")]),
            )
        ]
        return self._chart("registrations", "REGISTER requests", series)

    def _counts(self, name: str, colour: int, words: Iterable[tuple[str, str]], count: _Count) -> Series:
        words = list(words)
        return Series(name, colour, [Amount(count(each.tally), self._url(each, *words)) for each in self._buckets])

    def _url(self, bucket: Bucket, *words: tuple[str, str]) -> str:
        return self._links.calls(bucket.since_us, bucket.until_us, *words)

    def _chart(self, key: str, title: str, series: Sequence[Series], **more: Any) -> Chart:
        drawn = [each for each in series if any(amount.value is not None for amount in each.amounts)]
        if not more.get("lines"):
            drawn = [each for each in series if any(amount.value for amount in each.amounts)]
        return Chart(key, title, self._times, self._ticks, drawn, **more)


def _of_states(states: Sequence[str]) -> _Count:
    return lambda tally: sum(tally.states[state] for state in states)


def _of_method(method: str) -> _Count:
    return lambda tally: tally.methods[method]


def _of_others(methods: Sequence[str]) -> _Count:
    return lambda tally: tally.messages["requests"] - sum(tally.methods[method] for method in methods)


def _of_class(first: int) -> _Count:
    return lambda tally: sum(count for status, count in tally.statuses.items() if status // 100 == first)


def _of_registrations(name: str) -> _Count:
    return lambda tally: int(tally.registrations()[name] or 0)


def _ranking(title: str, counts: "Counter[Any]", name: Callable[[Any], str], url: Callable[[Any], str]) -> Ranking:
    rows = [(name(one), Amount(count, url(one))) for one, count in counts.most_common(_RANKED)]
    return Ranking(title, rank_bars(rows), max(len(counts) - _RANKED, 0))


def _count(value: float | int | None) -> str:
    return f"{value or 0:,}"


def _percent(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
