"""Backends that store or read records wrongly. Each is a mistake that somebody could make."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import attrs

from sipdump_core import (
    ClosedError,
    FolderBackend,
    Record,
    Segment,
    SegmentExistsError,
    Site,
    StorageError,
    StoredSegment,
)  # fmt: skip
from tests.broken.good import Good, GoodStream, GoodStreamWithSegments, caught_by

# ---- bytes of a message ----


class Message(Good):
    """Stores what ``change`` makes of each message."""

    def change(self, buf: bytes) -> bytes:
        return buf

    def frame(self, record: Record) -> bytes:
        return super().frame(attrs.evolve(record, buf=self.change(record.buf)))


@caught_by("every_byte_is_kept", "every_message_alone_in_a_segment", "a_random_mix_is_kept")
class DropsTheLastByte(Message):
    def change(self, buf: bytes) -> bytes:
        return buf[:-1]


@caught_by("every_byte_is_kept")
class CutsAtNul(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.partition(b"\0")[0]


@caught_by("every_byte_is_kept")
class StripsTrailingNul(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.rstrip(b"\0")


@caught_by("every_byte_is_kept")
class StripsWhiteSpace(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.strip()


@caught_by("every_byte_is_kept")
class AddsAFinalNewline(Message):
    def change(self, buf: bytes) -> bytes:
        return buf if buf.endswith(b"\n") else buf + b"\n"


@caught_by("every_byte_is_kept")
class TextOfUtf8WithReplacement(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.decode(errors="replace").encode()


@caught_by("every_byte_is_kept")
class TextOfUtf8Ignoring(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.decode(errors="ignore").encode()


@caught_by("every_byte_is_kept")
class TextOfLatin1(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.decode("latin-1").encode()


@caught_by("every_byte_is_kept")
class RaisesOnEightBit(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.decode("ascii").encode()


@caught_by("every_byte_is_kept")
class DropsAByteOrderMark(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.removeprefix(b"\xef\xbb\xbf")


@caught_by("every_byte_is_kept")
class ReadsAsUtf8Sig(Message):
    def change(self, buf: bytes) -> bytes:
        with contextlib.suppress(UnicodeDecodeError):
            return buf.decode("utf-8-sig").encode()
        return buf


@caught_by("every_byte_is_kept")
class UniversalNewlines(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.replace(b"\r\n", b"\n")


@caught_by("every_byte_is_kept")
class WritesCrLf(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@caught_by("every_byte_is_kept")
class CutsAt64KiB(Message):
    def change(self, buf: bytes) -> bytes:
        return buf[: 1 << 16]


@caught_by("every_byte_is_kept")
class LengthOf16Bits(Message):
    def change(self, buf: bytes) -> bytes:
        return buf[: len(buf) & 0xFFFF]


@caught_by("every_byte_is_kept")
class DropsWhatIsLongerThan100000(Good):
    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode([r for r in batch if len(r.buf) <= 100_000])


@caught_by("every_byte_is_kept", "every_message_alone_in_a_segment")
class DropsEmptyMessages(Good):
    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode([r for r in batch if r.buf])


@caught_by("every_byte_is_kept")
class FailsOnEmptyMessages(Message):
    def change(self, buf: bytes) -> bytes:
        return bytes([buf[0]]) + buf[1:]


@caught_by("every_byte_is_kept")
class CutsAtContentLength(Message):
    def change(self, buf: bytes) -> bytes:
        head, blank, body = buf.partition(b"\r\n\r\n")
        _, found, length = head.partition(b"Content-Length: ")
        return head + blank + (body[: int(length.partition(b"\r")[0])] if found else body)


@caught_by("every_byte_is_kept")
class UnescapesBackslashes(Message):
    def change(self, buf: bytes) -> bytes:
        return buf.replace(b"\\n", b"\n")


@caught_by("every_byte_is_kept", "a_segment_inside_a_message_is_a_message")
class SeparatesByAMark(FolderBackend):
    """Records end with a mark, and no length."""

    name = "mark"
    suffix = ".mark"

    def encode(self, batch: Sequence[Record]) -> bytes:
        return b"".join(Good(self.opts, self.site).frame(r)[8:] + b"||||||||||||||||||||\n" for r in batch)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        for part in file.read().split(b"||||||||||||||||||||\n")[:-1]:
            head, end, buf = part.partition(b"]")
            yield Good(self.opts, self.site).unframe(head + end, buf)

    def record_size(self, record: Record) -> int:
        return 2 * len(record.buf) + 300


@caught_by("every_byte_is_kept")
class GivesByteArrays(Good):
    def unframe(self, head: bytes, buf: bytes) -> Record:
        return attrs.evolve(super().unframe(head, buf), buf=bytearray(buf))  # type: ignore[arg-type]  # that is the fault


# ---- fields ----


class Field(Good):
    """Reads other fields than were written."""

    def change(self, record: Record) -> dict[str, Any]:
        return {}

    def unframe(self, head: bytes, buf: bytes) -> Record:
        record = super().unframe(head, buf)
        return attrs.evolve(record, flow=attrs.evolve(record.flow, **self.change(record)))


@caught_by("every_field_is_kept")
class SwapsPorts(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"src_port": record.dst_port, "dst_port": record.src_port}


@caught_by("every_field_is_kept")
class SignedPorts(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"src_port": record.src_port & 0x7FFF}


@caught_by("every_field_is_kept")
class Ipv6AsIpv4(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"af": "ipv4", "src_ip": "127.0.0.1", "dst_ip": "127.0.0.1"}


@caught_by("every_field_is_kept")
class MappedIpv6AsIpv4(Field):
    def change(self, record: Record) -> dict[str, Any]:
        if record.src_ip.startswith("::ffff:"):
            return {"af": "ipv4", "src_ip": record.src_ip[7:], "dst_ip": "0.0.0.0"}
        return {}


@caught_by("every_field_is_kept")
class StripsTags(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": record.tag.strip()}


@caught_by("every_field_is_kept")
class AsciiTags(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": record.tag.encode("ascii", "replace").decode()}


@caught_by("every_field_is_kept")
class LinesOfTags(Field):
    """Text files have more line ends than LF for str.splitlines."""

    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": "".join(record.tag.splitlines()[:1])}


@caught_by("every_field_is_kept")
class ShortTags(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": record.tag[:32]}


@caught_by("every_field_is_kept")
class EmptyTagsAreReceived(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": record.tag or "rcv"}


@caught_by("every_field_is_kept")
class NullTags(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": "" if record.tag in ("None", "null") else record.tag}


@caught_by("every_field_is_kept")
class NormalizedTags(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"tag": record.tag.replace("e\u0301", "\u00e9")}


@caught_by("every_field_is_kept")
class LosesTheNodeUntold(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"node": ""}


@caught_by("every_field_is_kept")
class TlsIsTcp(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"proto": {"tls": "tcp", "wss": "ws"}.get(record.proto, record.proto)}


@caught_by("every_field_is_kept")
class ProcessOf16Bits(Field):
    def change(self, record: Record) -> dict[str, Any]:
        return {"pid": record.pid & 0xFFFF}


class Time(Good):
    """Reads other times than were written."""

    def change(self, time_us: int) -> int:
        return time_us

    def unframe(self, head: bytes, buf: bytes) -> Record:
        record = super().unframe(head, buf)
        return attrs.evolve(record, time_us=self.change(record.time_us))


@caught_by("every_field_is_kept", "times_are_kept_in_every_zone")
class LosesMicroseconds(Time):
    def change(self, time_us: int) -> int:
        return time_us // 1000 * 1000


@caught_by("every_field_is_kept")
class FractionWithoutZeros(Time):
    def change(self, time_us: int) -> int:
        seconds, fraction = divmod(time_us, 1_000_000)
        return seconds * 1_000_000 + int(f"{fraction}".ljust(6, "0"))


@caught_by("every_field_is_kept")
class TimeOfSigned32Bits(Time):
    def change(self, time_us: int) -> int:
        return min(time_us, (2**31 - 1) * 1_000_000)


@caught_by("every_field_is_kept")
class TimeAsFloat(Time):
    def change(self, time_us: int) -> int:
        return time_us / 1  # type: ignore[return-value]  # that is the fault


@caught_by("every_field_is_kept")
class NoTimeIsNow(Time):
    def change(self, time_us: int) -> int:
        return time_us or time.time_ns() // 1000


@caught_by("times_are_kept_in_every_zone")
class LocalTime(Good):
    """Stores local time without its offset: an hour comes twice a year, and other readers live elsewhere."""

    def frame(self, record: Record) -> bytes:
        seconds, micros = divmod(record.time_us, 1_000_000)
        local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        head = json.dumps([[local, micros], *attrs.astuple(record.flow)]).encode()
        return super().frame(record)[:0] + len(head).to_bytes(4) + len(record.buf).to_bytes(4) + head + record.buf

    def unframe(self, head: bytes, buf: bytes) -> Record:
        (local, micros), *flow = json.loads(head)
        seconds = int(time.mktime(time.strptime(local, "%Y-%m-%d %H:%M:%S")))
        return super().unframe(json.dumps([seconds * 1_000_000 + micros, *flow]).encode(), buf)


@caught_by("flows_are_told_apart")
class OneFlowABatch(Good):
    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode([attrs.evolve(r, flow=batch[0].flow) for r in batch])


@caught_by("flows_are_told_apart")
class FlowsByIdAlone(Good):
    """id() says nothing of what is gone."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._ports: dict[int, int] = {}

    def frame(self, record: Record) -> bytes:
        port = self._ports.setdefault(id(record.flow), record.src_port)
        return super().frame(attrs.evolve(record, flow=attrs.evolve(record.flow, src_port=port)))


@caught_by("flows_are_told_apart")
class FlowsOf4000(Good):
    """A table of what repeats, which is full some day."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._known: list[Any] = []

    def frame(self, record: Record) -> bytes:
        if record.flow not in self._known[-1:] and len(self._known) < 4000:
            self._known.append(record.flow)
        return super().frame(attrs.evolve(record, flow=record.flow if len(self._known) < 4000 else self._known[-1]))


# ---- batches and order ----


class Batch(Good):
    """Stores what ``change`` makes of a batch."""

    def change(self, batch: list[Record]) -> list[Record]:
        return batch

    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode(self.change(list(batch)))


@caught_by("order_is_kept")
class SwapsTwo(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        return batch[1:2] + batch[:1] + batch[2:]


@caught_by("order_is_kept")
class LosesTheLastOfABatch(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        return batch[:-1]


@caught_by("order_is_kept")
class LosesWhatIsAfter1000(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        return batch[:1000]


@caught_by("order_is_kept")
class FailsOn10000(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        if len(batch) >= 10_000:
            raise RuntimeError("too many parameters")
        return batch


@caught_by("order_is_kept")
class WritesTheSecondBatchTwice(Batch):
    _count = 0

    def change(self, batch: list[Record]) -> list[Record]:
        self._count += 1
        return batch * 2 if self._count == 2 else batch


@caught_by("order_is_kept")
class NewestFirst(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        return iter([*super().decode(file)][::-1])


@caught_by("order_is_kept")
class ReadsTheFirst1000(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        return (record for record, _ in zip(super().decode(file), range(1000), strict=False))


@caught_by("a_closed_segment_is_sealed")
class ReadsForEver(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        records = [*super().decode(file)]
        while records:
            yield from records


@caught_by("a_clock_that_steps_back_changes_no_order")
class SortsByTime(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        return iter(sorted(super().decode(file), key=lambda record: record.time_us))


@caught_by("a_clock_that_steps_back_changes_no_order")
class TimesNeverFall(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        latest, out = 0, []
        for record in batch:
            latest = max(latest, record.time_us)
            out.append(attrs.evolve(record, time_us=latest))
        return out


@caught_by("equal_records_are_all_kept")
class DropsEqualOnes(Batch):
    def change(self, batch: list[Record]) -> list[Record]:
        return list(dict.fromkeys(batch))


@caught_by("equal_records_are_all_kept")
class DropsRetransmissions(Good):
    _last: Record | None = None

    def encode(self, batch: Sequence[Record]) -> bytes:
        kept = [r for r, before in zip(batch, [self._last, *batch], strict=False) if r != before]
        self._last = batch[-1]
        return super().encode(kept)


@caught_by("a_long_segment_is_kept")
class CountsIn16Bits(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        return (record for record, _ in zip(super().decode(file), range(65536), strict=False))


@caught_by("a_batch_is_any_sequence")
class WantsAList(Good):
    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode(batch + [])  # type: ignore[operator]  # noqa: RUF005 - that is the fault


@caught_by("a_batch_is_not_changed")
class EmptiesTheBatch(Good):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        batch.clear()  # type: ignore[attr-defined]  # it is no list, fortunately


@caught_by("a_batch_is_not_changed")
class SortsTheBatch(Good):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        batch.sort(key=lambda record: record.time_us)  # type: ignore[attr-defined]  # as above


@caught_by("a_batch_is_not_changed")
class ChangesARecord(Good):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        for record in batch:
            object.__setattr__(record, "buf", record.buf[:10])


@caught_by("the_transforms_are_applied")
class ForgetsTheTransforms(Good):
    transformed = True


# ---- flush ----


@caught_by("written_is_visible_after_flush", "a_crash_loses_nothing_that_was_flushed")
class FlushDoesNothing(Good):
    _held: Sequence[Record] = ()

    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0:
            raise ClosedError("write: no segment is open")
        self._held = [*self._held, *batch]

    def close(self) -> None:
        if self._held:
            super().write(self._held)
            self._held = []
        super().close()


@caught_by("written_is_visible_after_flush", "a_crash_loses_nothing_that_was_flushed")
class FlushesTheFirstTimeOnly(FlushDoesNothing):
    _flushed = False

    def flush(self) -> None:
        if self._held and not self._flushed:
            self._flushed = True
            Good.write(self, self._held)
            self._held = []


@caught_by("a_clock_that_steps_back_changes_no_order")
class FlushesByTheClock(FlushDoesNothing):
    """What is held is ordered by when it came."""

    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        self._came = [*self._came[: len(self._held) - len(batch)], *[time.time()] * len(batch)]

    _came: Sequence[float] = ()

    def close(self) -> None:
        order = sorted(range(len(self._held)), key=lambda at: self._came[at])
        self._held = [self._held[at] for at in order]
        self._came = ()
        super().close()


@caught_by("flush_where_nothing_is_open")
class FlushAfterCloseRaises(Good):
    def flush(self) -> None:
        if self._fd < 0:
            raise ClosedError("flush: no segment is open")


# ---- streams ----


@caught_by("order_is_kept")
class StreamLosesTheLast(GoodStream):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch[:-1])


@caught_by("written_is_visible_after_flush")
class StreamIsOneBatchLate(GoodStream):
    _late: Sequence[Record] = ()

    def write(self, batch: Sequence[Record]) -> None:
        late, self._late = self._late, batch
        if late:
            super().write(late)


@caught_by("write_after_close_is_refused")
class StreamTakesAnythingAfterClose(GoodStreamWithSegments):
    def write(self, batch: Sequence[Record]) -> None:
        if self._open:
            super().write(batch)


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class StreamLeavesHalfABatch(GoodStream):
    def send(self, data: bytes) -> None:
        half = len(data) // 2
        super().send(data[:half])
        super().send(data[half:])


@caught_by("an_outage_is_a_storage_error")
class StreamRaisesOsErrors(GoodStream):
    def send(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)


# ---- reading ----


@caught_by("reading_twice_gives_the_same")
class ReadsOnce(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._read: set[Segment] = set()

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        if stored.segment not in self._read:
            self._read.add(stored.segment)
            yield from super().read(stored)


@caught_by("reading_what_is_gone_is_a_storage_error")
class WhatIsGoneIsEmpty(Good):
    def read(self, stored: StoredSegment) -> Iterator[Record]:
        with contextlib.suppress(Exception):
            yield from super().read(stored)


@caught_by("a_torn_tail_costs_the_tail_only")
class RaisesOnATornTail(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        data, at = file.read(), 0
        while at < len(data):
            head = int.from_bytes(data[at : at + 4])
            buf = int.from_bytes(data[at + 4 : at + 8])
            at += 8 + head + buf
            yield self.unframe(data[at - head - buf : at - buf], data[at - buf : at])


@caught_by("a_torn_tail_costs_the_tail_only")
class GivesATornRecord(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        while lengths := file.read(8):
            head, buf = file.read(int.from_bytes(lengths[:4])), file.read(int.from_bytes(lengths[4:]))
            with contextlib.suppress(ValueError):
                yield self.unframe(head, buf)


@caught_by("rotation_keeps_the_old_segment")
class NamesFlowsInTheFirstSegmentOnly(Good):
    """What repeats is written once, and later segments refer to it; alone they cannot be read."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._flows: list[Any] = []

    def frame(self, record: Record) -> bytes:
        if record.flow not in self._flows:
            self._flows.append(record.flow)
        at = self._flows.index(record.flow)
        head = json.dumps([record.time_us, at]).encode()
        return len(head).to_bytes(4) + len(record.buf).to_bytes(4) + head + record.buf

    def unframe(self, head: bytes, buf: bytes) -> Record:
        time_us, at = json.loads(head)
        return Record(time_us, self._flows[at], buf)


# ---- transforms ----


class Transformed(Good):
    """Stores what the transforms make of a message."""

    transformed = True

    def encode(self, batch: Sequence[Record]) -> bytes:
        bufs = self.bufs(batch)
        return b"".join(self.frame(attrs.evolve(one, buf=buf)) for one, buf in zip(batch, bufs, strict=True))


@caught_by("the_transforms_are_applied")
class TransformsTwice(Transformed):
    def bufs(self, batch: Sequence[Record]) -> Sequence[bytes]:
        return super().bufs([attrs.evolve(one, buf=buf) for one, buf in zip(batch, super().bufs(batch), strict=True)])


@caught_by("the_transforms_are_applied")
class TransformsFirstOnly(Transformed):
    def bufs(self, batch: Sequence[Record]) -> Sequence[bytes]:
        return self.site.transforms[0].apply(batch, [one.buf for one in batch]) if self.site.transforms else []


# ---- outages ----


@caught_by("it_works_again_after_an_outage")
class StreamNeverReconnects(GoodStream):
    _lost = False

    def send(self, data: bytes) -> None:
        if self._lost:
            raise StorageError("write", self.path, "the connection is lost")
        try:
            super().send(data)
        except StorageError:
            self._lost = True
            raise


@caught_by("it_works_again_after_an_outage")
class StreamStartsOnce(GoodStream):
    """A start that fails leaves it half started."""

    _starting = False

    def start(self) -> None:
        if self._starting:
            raise StorageError("start", self.path, "it starts already")
        self._starting = True
        if not os.path.isdir(self.site.folder):
            raise StorageError("connect", self.path, "there is no such folder")
        self._starting = False


@caught_by("it_works_again_after_an_outage")
class StreamSendsWithoutAnAnswer(GoodStream):
    """What a dead connection takes is lost."""

    def send(self, data: bytes) -> None:
        with contextlib.suppress(StorageError):
            super().send(data)


@caught_by("it_works_again_after_an_outage")
class NeverOpensAgain(Good):
    _failed = False

    def open(self, segment: Segment) -> None:
        if self._failed:
            raise StorageError("open", segment.name, "it failed before")
        try:
            super().open(segment)
        except SegmentExistsError:
            raise
        except StorageError:
            self._failed = True
            raise


@caught_by("it_works_again_after_an_outage")
class IllForEver(Good):
    """An error that is over is told still."""

    _illness = ""

    def open(self, segment: Segment) -> None:
        try:
            super().open(segment)
        except StorageError as error:
            self._illness = str(error)
            raise

    def health(self) -> str:
        return self._illness


@caught_by("write_after_stop_loses_nothing_in_silence")
class StreamIgnoresWhatComesAfterStop(GoodStream):
    _started = False

    def start(self) -> None:
        self._started = True

    def stop(self) -> None:
        self._started = False

    def write(self, batch: Sequence[Record]) -> None:
        if self._started:
            super().write(batch)
