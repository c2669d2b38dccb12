"""What every filter promises, as a contract of its own; and that no backend has what a filter took out."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from sipdump_core.drivers.base import Filter, Site
from sipdump_core.drivers.discovery import unusable
from sipdump_core.drivers.guard import Guard
from sipdump_core.masking.masker import Masker, Rules
from sipdump_core.masking.users import Tokens
from sipdump_core.pipeline.filters import Filters
from sipdump_core.record import Record
from sipdump_core.settings.options import describe
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promises import does_not_apply, promise
from sipdump_core.testing.samples import MESSAGES, mixed, record

__all__ = ["FilterContract", "LeakChecks"]

_THREADS = 4
_SECRET = b"5557319055"
_CALL = (
    b"REGISTER sip:+49%(s)b@example.com SIP/2.0\r\nFrom: <sip:+49%(s)b@example.com>;tag=1\r\nTo: <sip:49%(s)b@h>\r\n"
    b'Call-ID: leak-%(n)d\r\nCSeq: 1 REGISTER\r\nAuthorization: Digest username="49%(s)b", nonce="%(s)b", '
    b'response="%(s)b"\r\nContent-Type: application/sdp\r\nContent-Length: 77\r\n\r\n'
    b"v=0\r\ns=-\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%(s)b|2^20\r\nk=clear:%(s)b\r\n"
)


class LeakChecks(Kit):
    """The check of a backend that filters stand before."""

    @promise
    def test_nothing_is_kept_of_what_a_filter_took_out(
        self, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a filter took out is in no file, log or number of the backend, while it writes and afterwards."""
        secrets = [_SECRET + b"%04d" % number for number in range(500)]
        masker = Masker(Rules(credentials=True, keys=True, users=Tokens(b"the key of the contract")))
        originals = [record(_CALL % {b"s": secret, b"n": n}) for n, secret in enumerate(secrets)]
        filters = Filters([_Masking(masker)])
        with caplog.at_level(logging.DEBUG), self.started(site) as backend:
            self.write(backend, list(filters.all(originals)))
            self.settle(backend)
            said = f"{backend.health()} {dict(backend.stats())} {caplog.text}"
            kept = [path for path in tmp_path.rglob("*") if path.is_file() and _SECRET in path.read_bytes()]
        del originals
        assert not kept, f"{kept[0].name} has it"
        assert _SECRET.decode() not in said, "the log, the health or the stats have it"


class _Masking(Filter):
    name = "masking"
    prompt = True

    def __init__(self, masker: Masker) -> None:
        super().__init__(None)
        self._masker = masker

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        """Mask."""
        return [masked for one in records if (masked := self._masker.mask(one)) is not None]


class FilterContract:
    """What every filter promises. A test class derives from it and says which filter it checks::

    from sipdump_core.testing import FilterContract

    class TestContract(FilterContract):
        filter_class = QuietFilter
        options = {"level": 2}
        hides = [(b"OPTIONS sip:a SIP/2.0\\r\\nX-Pin: 1234\\r\\n\\r\\n", b"1234")]
    """

    filter_class: type[Filter] = Filter
    """The filter to check; it must be overridden."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Values for its options, by name; the others have their defaults."""
    hides: ClassVar[Sequence[tuple[bytes, bytes]]] = ()
    """Messages, each with a part of it that must not be in what the filter returns."""
    leaves: ClassVar[Sequence[bytes]] = ()
    """Messages that it must return as they are."""
    time_limit: ClassVar[float] = 60.0
    """Seconds that a check may take."""

    def make_filter(self) -> Filter:
        """Make an instance."""
        if self.filter_class is Filter:
            raise NotImplementedError(f"{type(self).__name__} must say which filter it checks: filter_class")
        return self.filter_class(self.filter_class.options(**self.options))

    def records(self) -> list[Record]:
        """Return what it is tried with: what it hides and leaves, real traffic, and what an attacker would send."""
        own = [*(message for message, _ in self.hides), *self.leaves, *MESSAGES.values()]
        return [*(record(buf, time_us=10**15 + n) for n, buf in enumerate(own)), *mixed(200, 1)]

    def filtered(self, filter_: Filter, records: Sequence[Record]) -> list[Record]:
        """Return what a filter returns, checked as sipdump checks it."""
        found = filter_.apply(records)
        assert isinstance(found, list | tuple), f"apply() returns {type(found).__name__}, no list or tuple"
        wrong = [one for one in found if not isinstance(one, Record)]
        assert not wrong, f"apply() returns {wrong[:1]!r} among the records"
        assert len(found) <= len(records), f"apply() returns {len(found)} records for {len(records)}"
        return list(found)

    @promise
    def test_the_filter_is_declared(self) -> None:
        """A filter declares name, flag, version of the interface and options, each with help, as sipdump needs them."""
        cls = type(self.make_filter())
        why = unusable(cls)
        assert not why, f"{cls.__qualname__} {why}"
        unhelpful = [told["name"] for told in describe(cls.options) if not told["help"]]
        assert not unhelpful, f"the option {unhelpful[0]} has no help"
        assert cls.api >= 2, "filters are known from version 2 of the interface on"

    @promise
    def test_the_filter_takes_any_message(self) -> None:
        """A filter raises on no message, and returns a list or tuple of records, at most as many as it was given."""
        for one in self.records():
            self.filtered(self.make_filter(), [one])

    @promise
    def test_what_is_filtered_is_not_changed(self) -> None:
        """A filter changes neither the sequence that it is given nor a record in it."""
        given = self.records()
        before = [attrs.evolve(one) for one in given]
        self.filtered(self.make_filter(), given)
        assert given == before, "the sequence or a record is another one afterwards"

    @promise
    def test_the_filter_keeps_order_times_and_flows(self) -> None:
        """What a filter returns has the times, flows and correlations that it was given, in the same order."""
        given = self.records()
        found = self.filtered(self.make_filter(), given)
        at = 0
        for one in found:
            rest = [place for place in range(at, len(given)) if _frame(given[place]) == _frame(one)]
            assert rest, f"number {at} of {len(found)} is not of any record that was given, or comes too late"
            at = rest[0] + 1

    @promise
    def test_the_filter_depends_on_the_records_only(self) -> None:
        """A second instance, in batches of other sizes, returns the same for the same records."""
        given = self.records()
        whole = self.filtered(self.make_filter(), given)
        other = self.make_filter()
        single = [one for each in given for one in self.filtered(other, [each])]
        assert whole == single, "single records are filtered differently"

    @promise
    def test_filtering_again_changes_nothing(self) -> None:
        """What a filter has returned it returns again as it is: an event route may store it once more."""
        filter_ = self.make_filter()
        once = self.filtered(filter_, self.records())
        assert self.filtered(filter_, once) == once, "the second time it returns something else"

    @promise
    def test_the_filter_works_in_any_thread(self) -> None:
        """Calls from several threads at once return what one alone returns."""
        filter_ = self.make_filter()
        given = self.records()
        expected = self.filtered(self.make_filter(), given)
        found: list[list[Record]] = []
        guards = [Guard() for _ in range(_THREADS)]

        def run(guard: Guard) -> None:
            with guard:
                found.extend(self.filtered(filter_, given) for _ in range(3))

        threads = [threading.Thread(target=run, args=(guard,)) for guard in guards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [guard.text for guard in guards if guard.error]
        assert not errors, errors[0]
        assert all(one == expected for one in found), "a thread got something else"

    @promise
    def test_what_the_filter_hides_is_gone(self) -> None:
        """Nothing of what the test says it hides is in any field of what it returns."""
        if not self.hides:
            does_not_apply("the test names nothing that the filter hides")
        for message, secret in self.hides:
            for one in self.filtered(self.make_filter(), [record(message)]):
                assert secret not in one.buf, f"{secret!r} is still in {one.buf[:200]!r}"
                assert secret.decode("utf-8", "replace") not in repr(one), f"{secret!r} is in a field"

    @promise
    def test_what_the_filter_leaves_is_left(self) -> None:
        """What the test says it leaves comes back as the very record, every byte of it."""
        if not self.leaves:
            does_not_apply("the test names nothing that the filter leaves")
        for message in self.leaves:
            one = record(message)
            found = self.filtered(self.make_filter(), [one])
            assert found, f"{message[:100]!r} is dropped"
            assert found[0] == one, f"{message[:100]!r} is changed"
            assert found[0] is one, "an equal record comes back, not the same: it counts as changed"

    @promise
    def test_the_stats_of_a_filter_are_of_their_type(self) -> None:
        """stats() returns a mapping of names to integers."""
        filter_ = self.make_filter()
        self.filtered(filter_, self.records())
        stats = filter_.stats()
        assert isinstance(stats, Mapping), f"stats() returns {stats!r}"
        wrong = {key: value for key, value in stats.items() if type(key) is not str or type(value) is not int}
        assert not wrong, f"stats() has {wrong}"


def _frame(one: Record) -> tuple[Any, ...]:
    return one.time_us, one.flow, one.correlation_id
