"""Nothing that was planted survives, and nothing else is changed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.masking.masker import Masker, Rules
from sipdump_core.masking.users import Digits, Tokens, Users
from tests import planted
from tests.support import examples

KEY = b"0123456789abcdef"
USERS: dict[str, Users] = {"tokens": Tokens(KEY), "digits": Digits(99)}
PARTS: dict[str, tuple[Rules, list[planted.Place]]] = {
    "credentials": (Rules(credentials=True), planted.CREDENTIALS),
    "keys": (Rules(keys=True), planted.KEYS),
    "headers": (Rules(headers=["X-Secret"]), [lambda s: b"x-secret :%b" % s, lambda s: b"X-SECRET:\r\n %b" % s]),
}


def everything(users: str) -> Masker:
    rules = Rules(credentials=True, keys=True, bodies=["MESSAGE", "INFO"], headers=["X-Secret"], users=USERS[users])
    return Masker(rules)


@pytest.mark.parametrize("users", USERS)
def test_no_planted_secret_survives(users: str) -> None:
    secrets, masker = planted.Secrets(), everything(users)
    for buf in planted.messages(secrets, 1_000):
        masked = masker.message(buf)
        assert masked is not None
        assert planted.MARK not in masked, (buf, masked)
        assert masker.message(masked) == masked
    assert secrets.count > 10_000
    assert masker.unparsed < 2 * 600  # or it would hide everything by hiding all


@given(st.randoms(use_true_random=False), st.integers(0, 34), st.sampled_from(sorted(USERS)))
@examples(300)
def test_no_message_is_too_strange(draw: random.Random, place: int, users: str) -> None:
    buf = bytearray(planted.message(draw, planted.Secrets(), place))
    secrets = [at for at in range(len(buf)) if buf.startswith(planted.MARK, at)]
    for _ in range(draw.randrange(4)):  # damage it, but not the secrets
        at = draw.randrange(len(buf))
        if not any(each - 3 <= at < each + 20 for each in secrets):
            buf[at : at + draw.randrange(2)] = draw.choice(
                (b"\n", b" ", b'"', b"<", b">", b",", b";", b"\t", b"", b"\0")
            )
            secrets = [at for at in range(len(buf)) if buf.startswith(planted.MARK, at)]
    masked = everything(users).message(bytes(buf))
    assert masked is not None
    assert everything(users).message(masked) == masked


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_each_rule_hides_its_own_and_nothing_else(name: str, ending: bytes) -> None:
    rules, places = PARTS[name]
    for place in places:
        line = place(planted.MARK + b"1")
        others = [
            b"INVITE sip:4930@example.com SIP/2.0",
            b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
            b"From: <sip:a@b>",
        ]
        body = [
            b"v=0",
            b"o=alice 1 1 IN IP4 192.0.2.1",
            b"s=-",
            b"a=fingerprint:sha-256 AB:CD",
            b"m=audio 1 RTP/SAVP 0",
        ]
        lines = [*others, b"Content-Type: application/sdp", b"", *body]
        at = len(lines) - 1 if name == "keys" else 2
        made = ending.join([*lines[:at], line, *lines[at:], b""])
        masked = Masker(rules).message(made)
        assert masked is not None
        assert planted.MARK not in masked, line
        before, after = ending.join(lines[:at]), ending.join([*lines[at:], b""])
        assert masked.startswith(before + ending)
        assert masked.endswith(ending + after)
        none = Masker(Rules(bodies=["MESSAGE"])).message(made)
        assert none is made


@pytest.mark.parametrize("users", USERS)
def test_lines_without_a_secret_stay_as_they_are(users: str) -> None:
    secrets, masker = planted.Secrets(), everything(users)
    draw = random.Random(5)
    for place in range(0, 500, 5):
        made = planted.message(draw, secrets, place)
        head, blank, _ = made.partition(b"\r\n\r\n")
        before = masker.unparsed
        masked = masker.message(made)
        assert masked is not None
        if not blank or masker.unparsed > before or b"\0" in head or made[:1] == b"\r":
            continue
        lines, found = head.split(b"\r\n"), masked.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert len(lines) == len(found)
        for line, other in zip(lines, found, strict=True):
            if planted.MARK not in line and not line.startswith((b"Content-Length", b"L :", b" ", b"\t")):
                assert line == other or b"sip:" in line or b"<" in line, line
