"""The ladder of a call: who sent what to whom, and when, laid out for any renderer."""

from collections.abc import Mapping, Sequence

import attrs

from sipdump_core.calls.arrows import Arrow
from sipdump_core.calls.call import Call
from sipdump_core.calls.summary import Summary

__all__ = ["Column", "Ladder", "Step", "lay_out"]

_TELLING_US = 1000  # clocks rarely agree better than a millisecond


@attrs.frozen
class Column:
    """A participant: a column of the ladder."""

    address: str
    """As ``192.0.2.1:5060``."""
    name: str
    """The name given for it, else its address."""


@attrs.frozen
class Step:
    """One arrow of the ladder."""

    number: int
    """From 1, in order."""
    since_us: int
    """Microseconds since the earliest step."""
    source: int
    """The index of the column that it leaves."""
    target: int
    """The index of the column that it reaches; the same one for a message that a server sends to itself."""
    label: str
    """Method, or status and reason phrase."""
    mark: str
    """``request``, ``provisional``, ``success``, ``redirect``, ``failure`` or ``other``: how it is coloured."""
    sdp: bool
    """Whether it has a session description."""
    copies: int
    """How often it was sent."""
    arrow: Arrow
    """The message, with its records."""
    call: int
    """The index of the call (leg) that it belongs to."""


@attrs.frozen
class Ladder:
    """What a renderer draws."""

    columns: Sequence[Column]
    """In the order of the path."""
    steps: Sequence[Step]
    """In the order in which the messages were sent."""
    calls: Sequence[Summary]
    """The calls that are drawn, the one asked for first."""
    notes: Sequence[str]
    """What a reader must know: clocks that differ, values that linked too many Call-IDs."""


def lay_out(
    calls: Sequence[Call],
    *,
    now_us: int | None = None,
    names: Mapping[str, str] | None = None,
    summaries: Sequence[Summary] | None = None,
    notes: Sequence[str] = (),
) -> Ladder:
    """Lay out one call, or several legs of one.

    Args:
        calls: the call asked for, and its other legs.
        now_us: as of :meth:`~sipdump_core.calls.call.Call.state`.
        names: names by address, with or without its port.
        summaries: the calls' summaries, if they exist already, with their legs.
        notes: more notes.
    """
    steps = [(arrow, number) for number, call in enumerate(calls) for arrow in call.arrows]
    if len(calls) > 1:
        steps = _merged([call.arrows for call in calls])
    order = _columns([arrow for arrow, _ in steps])
    columns = {one: number for number, one in enumerate(order)}
    began = min((arrow.time_us for arrow, _ in steps), default=0)
    clocks = (f"Clocks differ: {text}" for call in calls if (text := _clocks(call.clocks)))
    return Ladder(
        columns=[Column(one, _name(one, names or {})) for one in order],
        steps=[
            Step(
                number=number,
                since_us=arrow.time_us - began,
                source=columns[arrow.src],
                target=columns[arrow.dst],
                label=arrow.message.label,
                mark=_mark(arrow),
                sdp=arrow.message.sdp is not None,
                copies=arrow.copies,
                arrow=arrow,
                call=call,
            )
            for number, (arrow, call) in enumerate(steps, 1)
        ],
        calls=list(summaries) if summaries is not None else [call.summary(now_us) for call in calls],
        notes=list(dict.fromkeys((*clocks, *notes))),
    )


def _merged(legs: Sequence[Sequence[Arrow]]) -> list[tuple[Arrow, int]]:
    """Return the arrows of several calls by time, those of each in its own order."""
    keyed = []
    for leg, arrows in enumerate(legs):
        latest = 0
        for number, arrow in enumerate(arrows):
            latest = max(latest, arrow.time_us)  # where causality contradicts time, causality wins
            keyed.append((latest, leg, number, arrow))
    keyed.sort(key=lambda one: one[:3])
    return [(arrow, leg) for _, leg, _, arrow in keyed]


def _columns(arrows: Sequence[Arrow]) -> list[str]:
    """Return all addresses in the order of the path: initial requests first, then what else there is."""
    order: list[str] = []
    known: set[str] = set()
    initial = [arrow for arrow in arrows if arrow.message.method and arrow.message.to.tag is None]
    for arrow in (*initial, *arrows):
        if arrow.src not in known:
            order.insert(order.index(arrow.dst) if arrow.dst in known else len(order), arrow.src)
            known.add(arrow.src)
        if arrow.dst not in known:
            order.append(arrow.dst)
            known.add(arrow.dst)
    return order


def _name(one: str, names: Mapping[str, str]) -> str:
    host = one.rpartition(":")[0]
    return names.get(one) or names.get(host) or names.get(host.strip("[]")) or one


def _mark(arrow: Arrow) -> str:
    status = arrow.message.status
    if status is None:
        return "request" if arrow.message.method else "other"
    return {1: "provisional", 2: "success", 3: "redirect"}.get(status // 100, "failure")


def _clocks(clocks: Mapping[str, int]) -> str:
    return ", ".join(_clock(node or "(no name)", ahead) for node, ahead in clocks.items() if abs(ahead) >= _TELLING_US)


def _clock(node: str, ahead_us: int) -> str:
    return f"{node} is {abs(ahead_us) / 1_000_000:.3f} s {'ahead' if ahead_us > 0 else 'behind'}"
