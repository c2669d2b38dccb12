"""A call: all messages of one Call-ID, and what happened in it."""

from collections.abc import Iterable, Sequence

from sipdump_core.calls.arrows import Arrow, Sighting, party
from sipdump_core.calls.message import Message
from sipdump_core.calls.story import Story
from sipdump_core.calls.summary import Leg, Summary
from sipdump_core.calls.transactions import Transaction
from sipdump_core.record import Record

__all__ = ["Call"]


class Call:
    """All messages of one Call-ID: of a call, a registration, or whatever else a Call-ID is used for.

    What happened is worked out when it is first asked for, and again after the next message.
    """

    __slots__ = ("_story", "call_id", "newest_us", "oldest_us", "sightings")

    call_id: str
    oldest_us: int
    """The time of the earliest record, in microseconds since the epoch; 0 while there is none."""
    newest_us: int
    """The time of the latest record."""
    sightings: list[Sighting]
    """The records with their messages, in the order in which they were added."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.oldest_us = self.newest_us = 0
        self.sightings = []
        self._story: Story | None = None

    def __repr__(self) -> str:
        return f"<Call {self.call_id!r}, {len(self.sightings)} records>"

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Call":
        """Make a call from the records of one Call-ID.

        Raises:
            ValueError: there is no record.
        """
        call: Call | None = None
        for record in records:
            message = Message(record.buf)
            if call is None:
                call = cls(message.call_id or "")
            call.add(record, message)
        if call is None:
            raise ValueError("a call has at least one record")
        return call

    def add(self, record: Record, message: Message | None = None) -> None:
        """Add a record of this Call-ID.

        Args:
            record: it may be earlier than those before.
            message: its message, if it was read already.
        """
        time_us = record.time_us
        if not self.sightings:
            self.oldest_us = self.newest_us = time_us
        elif time_us > self.newest_us:
            self.newest_us = time_us
        elif time_us < self.oldest_us:
            self.oldest_us = time_us
        self.sightings.append((record, message or Message(record.buf)))
        self._story = None

    def forget(self) -> None:
        """Forget what was worked out, which takes more memory than the records; it is worked out again when asked."""
        self._story = None

    @property
    def records(self) -> list[Record]:
        """The records, in the order in which they were added."""
        return [record for record, _ in self.sightings]

    @property
    def arrows(self) -> Sequence[Arrow]:
        """Every message once per hop, in the order in which they were sent; see :mod:`sipdump_core.calls.arrows`."""
        return self._told.arrows

    @property
    def transactions(self) -> Sequence[Transaction]:
        """The transactions of all hops, in the order of their first messages."""
        return self._told.transactions.all

    @property
    def first_hops(self) -> Sequence[Transaction]:
        """Those of :attr:`transactions` that continue none that was seen: as the one who began them has them."""
        transactions = self._told.transactions
        return [one for one in transactions.all if transactions.is_first(one)]

    @property
    def has_beginning(self) -> bool:
        """Whether the beginning of a call was seen: an INVITE without a To-tag, or, without an INVITE, its answer."""
        invites = (one for one in self.first_hops if one.method == "INVITE")
        return any(one.request is None or one.request.message.to.tag is None for one in invites)

    @property
    def clocks(self) -> dict[str, int]:
        """How far the clocks of nodes are ahead of the first node's, in microseconds, if causality shows it."""
        return self._told.clocks

    @property
    def kind(self) -> str:
        """What the Call-ID is used for; see :data:`~sipdump_core.calls.summary.KINDS`."""
        return self._told.kind

    def state(self, now_us: int | None = None) -> str:
        """Return what became of it; see :attr:`~sipdump_core.calls.summary.Summary.state`.

        Args:
            now_us: the time that ages are counted to, in microseconds since the epoch: that of the newest record of
                the store, or now while a segment is open. Without it, the call's own latest record.
        """
        return self._told.outcome(self.newest_us if now_us is None else now_us).state

    def ages(self, until_us: int) -> bool:
        """Return whether its summary depends on the time that ages are counted to: its own latest record's, or later.

        Args:
            until_us: the latest such time, microseconds since the epoch.
        """
        story = self._told
        early, late = story.outcome(self.newest_us), story.outcome(until_us)
        return early != late or story.gaps(self.newest_us) != story.gaps(until_us)

    def summary(self, now_us: int | None = None, legs: Sequence[Leg] = ()) -> Summary:
        """Return everything that is known about it.

        Args:
            now_us: as of :meth:`state`.
            legs: what :class:`~sipdump_core.calls.legs.LegIndex` found.
        """
        now_us = self.newest_us if now_us is None else now_us
        story = self._told
        outcome = story.outcome(now_us)
        initial, opening = story.initial.message, story.opening.message
        decided = outcome.decided.message if outcome.decided else None
        hops = story.path(outcome)
        codecs, media = story.described()
        delay, setup = story.delays_us()
        return Summary(
            call_id=self.call_id,
            kind=story.kind,
            began=min(arrow.time_us for arrow in story.arrows),
            ended=outcome.ended_us,
            state=outcome.state,
            status=decided.status if decided else None,
            reason=decided.reason if decided else None,
            warning=decided.header("warning") if decided else None,
            release=story.release(),
            from_user=opening.from_.user,
            from_uri=opening.from_.uri or None,
            to_user=opening.to.user,
            to_uri=opening.to.uri or None,
            request_uri=initial.request_uri if party(initial) == party(opening) else None,
            src=hops[0],
            dst=hops[-1],
            hops=hops,
            nodes=list(dict.fromkeys(node for arrow in story.arrows for node in arrow.nodes if node)),
            messages=sum(arrow.copies for arrow in story.arrows),
            retransmissions=sum(arrow.copies - 1 for arrow in story.arrows),
            post_dial_delay=_seconds(delay),
            setup_time=_seconds(setup),
            duration=_seconds(outcome.duration_us),
            ended_by=_side(story, outcome.bye),
            codecs=codecs,
            media=media,
            legs=list(legs),
            gaps=story.gaps(now_us),
        )

    @property
    def _told(self) -> Story:
        if self._story is None:
            self._story = Story(self.sightings)
        return self._story


def _seconds(time_us: int | None) -> float | None:
    return None if time_us is None else time_us / 1_000_000


def _side(story: Story, bye: Arrow | None) -> str | None:
    """Return who sent a BYE: the caller is the one whose tag is in From of the initial INVITE."""
    if bye is None or not story.tries:
        return None
    caller, sender = story.opening.message.from_, bye.message.from_
    same = caller.tag == sender.tag if caller.tag or sender.tag else caller.uri == sender.uri
    return "caller" if same else "callee"
