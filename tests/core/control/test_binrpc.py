"""The BINRPC codec, on the exchanges of kamcmd and Kamailio 5.6.3, and on whatever bytes there are."""

import contextlib
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.control.binrpc import (
    MAX_REQUEST,
    Request,
    call,
    decode_values,
    encode_values,
    take_request,
)
from sipdump_core.errors import FormatError, RpcError, RpcFault
from sipdump_core.net.address import parse_address

STATE = "03756f6c6476616c001001756e657776616c00100183"
RECORDED = [
    ("a10311750cfe40910f73697064756d702e656e61626c6500", "sipdump.enable", []),
    ("a103126d1f69fe910f73697064756d702e656e61626c650000", "sipdump.enable", [0]),
    ("a1031323c931ac910f73697064756d702e656e61626c65001001", "sipdump.enable", [1]),
    ("a1031612c13d55910f73697064756d702e656e61626c65004161626300", "sipdump.enable", ["abc"]),
    ("a103177929f292910f73697064756d702e656e61626c6500100110021003", "sipdump.enable", [1, 2, 3]),
    ("a1031b282a5dee910a636f72652e6563686f0010012209c42133006168656c6c6f00", "core.echo", [1, 2.5, "3", "hello"]),
]


def take(data: bytes) -> Request:
    request = take_request(bytearray(data))
    assert request is not None
    return request


@pytest.mark.parametrize(("packet", "method", "args"), RECORDED)
def test_requests_of_kamcmd(packet: str, method: str, args: list[Any]) -> None:
    request = take(bytes.fromhex(packet))
    assert (request.method, list(request.args), request.error) == (method, args, None)
    assert encode_values([method, *args]) == bytes.fromhex(packet)[7:]


def test_answers_of_kamailio() -> None:
    request = Request(0x750CFE40, "sipdump.enable")
    state = request.success([{"oldval": 1, "newval": 1}], array=False)
    assert state.hex() == "a11316750cfe40" + STATE
    unknown = Request(0x421E7AAE).failure(RpcFault(500, "command nosuch.method not found"))
    assert unknown.hex() == ("a13325421e7aae2001f49120636f6d6d616e64206e6f737563682e6d6574686f64206e6f7420666f756e6400")
    assert Request(0).success([], array=True).hex() == "a1100000"


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "bad request: corrupted packet"),
        (b"\xa2\x03\x01abcd\x01", "bad request: corrupted packet"),
        (b"\xa1\x13\x02abcd\x10\x01", "bad request: corrupted packet"),  # a reply
        (b"\xa1\x23\x02abcd\x10\x01", "bad request: corrupted packet"),  # of type 2
        (b"\xa1\x0f\xff\xff\xff\xffabcd", "bad request: corrupted packet"),
        (b"\xa1\x0f\x7f\xff\xff\xffabcd", "bad request: corrupted packet"),
        (b"\xa1\x03\x00abcd", "bad request method: end of packet encountered"),
        (b"\xa1\x03\x02abcd\x10\x01", "bad request method: record doesn't match type"),
        (b"\xa1\x03\x04abcd\x36abc", "bad request method: record doesn't match type"),
        (b"\xa1\x03\x03abcd\x41ab", "bad request method: more data needed"),
    ],
)
def test_what_is_no_request_gets_kamailios_fault(packet: bytes, reason: str) -> None:
    request = take(packet)
    assert request.error is not None
    assert (request.error.code, request.error.reason) == (400, reason)
    assert request.close


@pytest.mark.parametrize("param", ["416162", "91ff6162", "07", "83", "84", "0303", "b1ffffff00", "04", "0325610010"])
def test_a_parameter_that_is_broken_counts_as_missing(param: str) -> None:
    body = encode_values(["sipdump.enable"]) + bytes.fromhex(param)
    request = take(b"\xa1\x03" + bytes([len(body)]) + b"abcd" + body)
    assert (request.method, list(request.args), request.error) == ("sipdump.enable", [], None)


def test_a_stream_is_cut_into_requests() -> None:
    packet = bytes.fromhex(RECORDED[2][0])
    buffer = bytearray()
    found = []
    for byte in packet * 2:
        buffer.append(byte)
        found += [request] if (request := take_request(buffer)) else []
    assert [request.args for request in found] == [[1], [1]]
    assert not buffer


def test_numbers_as_kamailio_reads_them() -> None:
    assert decode_values(bytes.fromhex("40ffffffff")) == [-1]
    assert decode_values(bytes.fromhex("500000000001")) == [1]
    assert decode_values(bytes.fromhex("900101")) == [1]
    assert decode_values(b"\x00") == [0]
    assert decode_values(encode_values([5_000_000_000, -1.5])) == [5e9, -1.5]
    with pytest.raises(FormatError, match="too large"):
        encode_values([1 << 63])
    with pytest.raises(FormatError, match="too large"):
        encode_values([float("nan")])
    with pytest.raises(FormatError, match="no NoneType"):
        encode_values([None])


def test_arrays_in_both_forms() -> None:
    assert decode_values(bytes.fromhex("04100141616263008403105583")) == [[1, "abc"], [0x55]]
    assert decode_values(encode_values([{"a": [1, [2]]}])) == [{"a": [1, [2]]}]


@pytest.mark.parametrize("opening", [b"\x03", b"\x04", b"\x03\x25a\0"])
def test_nesting_is_bounded(opening: bytes) -> None:
    with pytest.raises(FormatError, match="nested too deeply"):
        decode_values(opening * 20_000)


def test_nested_too_deeply_to_encode() -> None:
    value: Any = 1
    for _ in range(100):
        value = {"a": value}
    with pytest.raises(FormatError, match="nested too deeply"):
        encode_values([value])


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
PLAIN = (
    st.integers(-(1 << 31), (1 << 31) - 1)
    | TEXT
    | st.binary(max_size=300)
    | st.integers(-(10**12), 10**12).map(lambda n: n / 1000)
)
VALUES = st.lists(
    st.recursive(
        PLAIN, lambda inner: st.lists(inner, min_size=1, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_size=6,
)


@given(VALUES)
def test_round_trip(values: list[Any]) -> None:
    try:
        data = encode_values(values)
    except FormatError as error:
        assert "too deeply" in str(error)  # noqa: PT017 - hypothesis may nest that deep
        return
    decoded = decode_values(data)
    assert _close(decoded, values), decoded


def _close(one: Any, other: Any) -> bool:
    """Compare with doubles rounded to thousandths."""
    if isinstance(other, float):
        return isinstance(one, float) and abs(one - other) <= 0.001
    if isinstance(other, list):
        return isinstance(one, list) and len(one) == len(other) and all(map(_close, one, other))
    if isinstance(other, dict):
        return isinstance(one, dict) and list(one) == list(other) and all(_close(one[k], other[k]) for k in other)
    return bool(one == other)


@given(st.binary(max_size=2000))
def test_any_bytes_are_values_or_an_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert all(map(_of_binrpc, decode_values(data)))


def _of_binrpc(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) for name in value) and all(map(_of_binrpc, value.values()))
    return all(map(_of_binrpc, value)) if isinstance(value, list) else type(value) in (int, float, str, bytes)


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda tail: b"\xa1\x03" + tail))
def test_any_bytes_are_a_request_an_error_or_the_start_of_one(data: bytes) -> None:
    buffer = bytearray(data)
    request = take_request(buffer)
    if request is None:
        assert buffer == data
    elif request.error is None:
        assert len(buffer) < len(data)
        assert request.failure(RpcFault(500, f"command {request.method} not found"))


def test_a_long_reason_is_cut_as_kamailios() -> None:
    fault = Request(1).failure(RpcFault(500, "x" * 1000))
    assert fault.count(b"x") == 255


def test_a_reply_too_long_for_kamcmd() -> None:
    with pytest.raises(FormatError, match="too long for kamcmd"):
        Request(1).success(["x" * 140_000], array=False)


@pytest.mark.parametrize(
    "text", ["", "x", "unix:", "unix:relative", "unix:/" + "a" * 107, "tcp:1", "fifo:/x", "udp:h:99999"]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|may have"):
        parse_address(text)


def test_addresses() -> None:
    assert str(parse_address("unixs:/run/ctl")) == "unix:/run/ctl"
    assert str(parse_address("unixd:/run/ctl")) == "unixd:/run/ctl"
    assert str(parse_address("tcp:[::1]:2049")) == "tcp:[::1]:2049"
    assert parse_address("udp:localhost:2049").port == 2049


def serve(*answers: bytes) -> tuple[str, threading.Thread]:
    """Take one connection, read a request, and send these bytes with its cookie put in for ``cook``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as sock:
            request = sock.recv(4096)
            for answer in answers:
                sock.sendall(answer.replace(b"cook", request[3 : 3 + (request[1] & 3) + 1].rjust(4, b"\0")))

    thread = threading.Thread(target=run)
    thread.start()
    return f"tcp:127.0.0.1:{listener.getsockname()[1]}", thread


def test_client() -> None:
    """The answer to another cookie, a late one say, is passed over."""
    address, thread = serve(b"\xa1\x13\x01else\x00" + b"\xa1\x13\x02cook", b"\x10\x07")
    assert call(address, "core.x", timeout=5) == [7]
    thread.join()


def test_client_faults() -> None:
    address, thread = serve(b"\xa1\x33\x0acook" + bytes.fromhex("2001f4") + b"\x61hello\0")
    with pytest.raises(RpcFault) as caught:
        call(address, "core.x", timeout=5)
    assert (caught.value.code, caught.value.reason) == (500, "hello")
    thread.join()
    address, thread = serve(b"HTTP/1.1 400 what\r\n")
    with pytest.raises(RpcError, match="no BINRPC"):
        call(address, "core.x", timeout=5)
    thread.join()
    address, thread = serve()
    with pytest.raises(RpcError, match="ended before the answer"):
        call(address, "core.x", timeout=5)
    thread.join()
    with pytest.raises(RpcError, match="is it running"):
        call(address, "core.x", timeout=5)
    with pytest.raises(RpcError, match="is it running"):
        call("unix:/nonexistent/ctl", "core.x", timeout=5)


def test_client_waits_no_longer_than_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(RpcError, match=r"no answer .* in 0.1 s"):
        call(f"tcp:127.0.0.1:{listener.getsockname()[1]}", "core.x", timeout=0.1)


def test_the_longest_request() -> None:
    body = encode_values(["x" * (MAX_REQUEST - 20)])
    head = b"\xa1\x07" + len(body).to_bytes(2, "big") + b"abcd"
    assert take(head + body).error is None
