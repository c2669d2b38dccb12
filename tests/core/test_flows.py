"""Flows: addresses of sockets, ranks of threads."""

import threading
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, files, read


def test_dual_stack_sockets_addresses_are_ipv4(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"x", ("::ffff:192.0.2.1", 5060, 0, 0), ("::ffff:192.0.2.2", 5060, 0, 0))
    assert [(one.af, one.src_ip) for one in read(tmp_path)] == [("ipv4", "192.0.2.1")]


@pytest.mark.parametrize(
    ("src", "dst", "proto"),
    [(("localhost", 1), B, "udp"), (A, ("::1", 1), "udp"), (A, B, "quic"), (A, ("192.0.2.2", 70000), "udp")],
)
def test_wrong_addresses_are_refused(tmp_path: Path, src: Any, dst: Any, proto: str) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump, pytest.raises(ValueError, match=r".+"):
        dump.received(b"x", src, dst, proto)
    assert not files(tmp_path, "")


@pytest.mark.parametrize(("src", "dst"), [(("192.0.2.1", 5), ("::", 6)), (("0.0.0.0", 5), ("2001:db8::1", 6))])
def test_a_socket_bound_to_all_addresses_takes_the_others_family(tmp_path: Path, src: Any, dst: Any) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path) as dump:
        dump.received(b"a", src, dst)
    (one,) = read(tmp_path)
    assert (one.src_ip, one.dst_ip) in [("192.0.2.1", "0.0.0.0"), ("::", "2001:db8::1")]


def test_ranks_of_many_short_threads_are_told_apart_and_bounded(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        for _ in range(3):
            threads = [
                threading.Thread(target=dump.received, args=(b"%d" % n, A, B), name=f"worker {n}") for n in range(40)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    ranks = [one.procno for one in read(tmp_path)]
    assert len(set(ranks)) == 40
    assert max(ranks) < 40
