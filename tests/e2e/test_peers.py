"""The helpers themselves: a peer that is missing must not pass for a test that ran."""

import pytest

from tests.e2e.peers import need


def test_missing_peer_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIPDUMP_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed: no-such-peer"):
        need("no-such-peer")


def test_missing_peer_fails_where_peers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPDUMP_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed: no-such-peer"):
        need("no-such-peer")
