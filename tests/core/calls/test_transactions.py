"""Transactions; most of what they do is tested by the flows."""

from types import SimpleNamespace
from typing import cast

import pytest

from sipdump_core.calls.arrows import Arrow
from sipdump_core.calls.transactions import is_success


@pytest.mark.parametrize(
    ("status", "success"), [(None, False), (100, False), (199, False), (200, True), (299, True), (300, False)]
)
def test_a_success_is_a_2xx(status: int | None, success: bool) -> None:
    reply = SimpleNamespace(message=SimpleNamespace(status=status))
    assert is_success(cast(Arrow, reply)) is success
