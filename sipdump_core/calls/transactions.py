"""Transactions on each hop, and which one continues which (RFC 3261, section 17)."""

from collections.abc import Iterable, Sequence

from sipdump_core.calls.arrows import Arrow, TransactionKey

__all__ = ["MAX_HOPS", "Transaction", "Transactions", "is_success"]

MAX_HOPS = 255
"""No request takes more hops: Max-Forwards allows no more (RFC 3261, section 20.22)."""


class Transaction:
    """A request on one hop, with its replies."""

    __slots__ = ("key", "method", "number", "parent", "replies", "request")

    request: Arrow | None
    """None if only replies were seen."""
    replies: list[Arrow]
    """In the order in which they were sent; if a server without a Via passed them on, as the sender got them."""
    number: int | None
    """CSeq's number."""
    method: str
    """CSeq's method; empty if it is unknown."""
    key: TransactionKey
    parent: TransactionKey | None
    """The transaction on the hop before, whether it was seen or not."""

    def __init__(self, arrow: Arrow) -> None:
        self.key = arrow.key
        self.parent = arrow.parent
        self.number = arrow.key[1]
        self.method = arrow.key[2] or ""
        self.request = None
        self.replies = []

    def __repr__(self) -> str:
        return f"<Transaction {self.number} {self.method} {self.src} -> {self.dst}>"

    @property
    def src(self) -> str:
        """Where the request came from."""
        return self.request.src if self.request else self.replies[0].dst

    @property
    def dst(self) -> str:
        """Where the request went to."""
        return self.request.dst if self.request else self.replies[0].src

    @property
    def first(self) -> Arrow:
        """Its first message that was seen."""
        return self.request or self.replies[0]

    @property
    def last_us(self) -> int:
        """When its latest message was last sent."""
        return max(arrow.times[-1] for arrow in (*self.replies, *([self.request] if self.request else [])))

    @property
    def answered_us(self) -> float:
        """When its final reply was sent; infinity if none was seen."""
        final = self.final
        return final.time_us if final else float("inf")

    @property
    def finals(self) -> list[Arrow]:
        """The final replies: one, or several 2xx of forks."""
        return [reply for reply in self.replies if (reply.message.status or 0) >= 200]

    @property
    def final(self) -> Arrow | None:
        """The final reply that counts: a 2xx if there is one, else the first."""
        finals = self.finals
        return next((reply for reply in finals if is_success(reply)), finals[0] if finals else None)

    @property
    def provisionals(self) -> list[Arrow]:
        """The replies 101 to 199."""
        return [reply for reply in self.replies if 100 < (reply.message.status or 0) < 200]


class Transactions:
    """All transactions of one Call-ID.

    Args:
        arrows: in the order in which they were sent.
    """

    acks: list[Arrow]
    """ACKs, which nothing answers."""
    all: Sequence[Transaction]
    """The others, in the order of their first messages."""

    def __init__(self, arrows: Iterable[Arrow]) -> None:
        self.acks = []
        self._by_key: dict[TransactionKey, Transaction] = {}
        by_key = self._by_key
        for arrow in arrows:
            if arrow.key[2] == "ACK":
                self.acks.append(arrow)
                continue
            transaction = by_key.get(arrow.key)
            if transaction is None:
                transaction = by_key[arrow.key] = Transaction(arrow)
            if arrow.message.status is not None:
                transaction.replies.append(arrow)
            elif transaction.request is None:
                transaction.request = arrow
        self.all = list(by_key.values())
        self._children: dict[TransactionKey, list[Transaction]] = {}
        for transaction in self.all:
            if transaction.parent:
                self._children.setdefault(transaction.parent, []).append(transaction)
            request = transaction.request
            if request and len(transaction.replies) > 1:
                got = [reply for reply in transaction.replies if reply.dst == request.src]
                transaction.replies = got or transaction.replies

    def get(self, key: TransactionKey) -> Transaction | None:
        """Return a transaction by its key."""
        return self._by_key.get(key)

    def is_first(self, transaction: Transaction) -> bool:
        """Return whether a transaction continues none that was seen."""
        return transaction.parent is None or transaction.parent not in self._by_key

    def continued(self, transaction: Transaction) -> list[Transaction]:
        """Return the transactions on the next hop: one, or those of a fork."""
        found = self._children.get(transaction.key, [])
        if found:
            return found
        return [other for other in self.all if self.carries_on(transaction, other)]

    def carries_on(self, transaction: Transaction, other: Transaction) -> bool:
        """Return whether one transaction was sent on behalf of another, though it lacks the other's Via.

        A server that keeps the Call-ID and removes the Via (an SBC) sends it before it answers the first one.
        """
        return (
            other.src == transaction.dst
            and other.method == transaction.method
            and other is not transaction
            and transaction.first.time_us <= other.first.time_us <= transaction.answered_us
            and self.is_first(other)
        )

    def origins(self, transactions: Sequence[Transaction]) -> list[Transaction]:
        """Return the transactions of one CSeq that are on the first hop seen: what the caller sent and got.

        There are several if the caller, or a fork whose own request was not seen, tried several addresses.
        """
        firsts = [transaction for transaction in transactions if self.is_first(transaction)] or list(transactions)
        origin = firsts[0]
        passed = {origin.key}
        while len(passed) <= MAX_HOPS:
            before = next((one for one in firsts if one.dst == origin.src and one.key not in passed), None)
            if before is None:
                break
            origin = before
            passed.add(before.key)
        return [
            one
            for one in firsts
            if one is origin or one.src == origin.src or (one.parent is not None and one.parent == origin.parent)
        ]


def is_success(reply: Arrow) -> bool:
    """Return whether a reply is a 2xx."""
    return 200 <= (reply.message.status or 0) < 300
