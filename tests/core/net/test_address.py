"""Addresses as Kamailio writes them."""

import socket

import pytest

from sipdump_core.net.address import (
    Address,
    Listen,
    bind_inet,
    canonical_ip,
    parse_address,
    parse_endpoint,
    parse_jsonrpc,
    parse_listen,
)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("udp:127.0.0.1:9060", Listen("udp", "127.0.0.1", 9060)),
        ("tcp:[2001:db8::1]:0", Listen("tcp", "2001:db8::1", 0)),
        ("tcp:hep.example.com:65535", Listen("tcp", "hep.example.com", 65535)),
    ],
)
def test_where_to_listen(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", Address("unix", "/run/x", "", 0)),
        ("unixs:/run/x", Address("unix", "/run/x", "", 0)),
        ("unixd:/run/x", Address("unixd", "/run/x", "", 0)),
        ("udp:[::1]:2049", Address("udp", "", "::1", 2049)),
    ],
)
def test_where_commands_come_in(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("port", [65536, 99999])
def test_a_port_has_16_bits(port: int) -> None:
    for parse, text in ((parse_listen, "udp:h:{}"), (parse_address, "tcp:h:{}"), (parse_jsonrpc, "http:h:{}")):
        assert parse(text.format(65535))
        with pytest.raises(ValueError, match="must be"):
            parse(text.format(port))


def test_where_json_comes_in() -> None:
    assert parse_jsonrpc("http:127.0.0.1:80") == Address("http", "", "127.0.0.1", 80)
    assert parse_jsonrpc("udp:[::1]:80") == Address("udp", "", "::1", 80)
    assert parse_jsonrpc("unix:/run/x") == parse_jsonrpc("unixd:/run/x") == Address("unixd", "/run/x", "", 0)
    assert parse_jsonrpc("fifo:/run/x") == Address("fifo", "/run/x", "", 0)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.5", ("10.0.0.5", 0)),
        ("10.0.0.5:5060", ("10.0.0.5", 5060)),
        ("2001:DB8::5", ("2001:db8::5", 0)),
        ("[2001:db8::5]", ("2001:db8::5", 0)),
        ("[2001:db8::5]:5060", ("2001:db8::5", 5060)),
        ("::ffff:10.0.0.5", ("10.0.0.5", 0)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "host", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "[::1", "[10.0.0.5]:x"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="must be an IPv4 or IPv6 address"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.1", ("ipv4", "192.0.2.1")),
        ("::ffff:192.0.2.1", ("ipv4", "192.0.2.1")),
        ("[2001:DB8:0::1]", ("ipv6", "2001:db8::1")),
        ("fe80::1%eth0", ("ipv6", "fe80::1")),
    ],
)
def test_canonical_addresses(text: str, canonical: tuple[str, str]) -> None:
    assert canonical_ip(text) == canonical


def test_a_taken_port_leaves_no_socket_open() -> None:
    with bind_inet("127.0.0.1", 0, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="in use"):
        bind_inet("127.0.0.1", sock.getsockname()[1], socket.SOCK_DGRAM)
