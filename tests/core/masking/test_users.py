"""What stands for users, and the key that it is made with."""

import os
from pathlib import Path

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.masking.users import Digits, Tokens, canonical, make_users, parse_users, read_key

KEY = b"0123456789abcdef"


def test_a_token_is_the_same_for_all_who_have_the_key() -> None:
    assert Tokens(KEY).stand_in(b"alice") == Tokens(KEY).stand_in(b"alice") == b"u-69667e0df153a0f2b5b58cb4be"
    assert Tokens(KEY).stand_in(b"alice") != Tokens(KEY[::-1]).stand_in(b"alice")
    assert Tokens().stand_in(b"alice") != Tokens().stand_in(b"alice")


@pytest.mark.parametrize(
    "user", [b"+493012345", b"493012345", b"+49-30-123.45", b"(49) 30 12345", b"%2b49301%32345", b" 493012345 ",
             b"493012345;phone-context=+49", b"%252b493012345"]
)  # fmt: skip
def test_one_number_has_one_token_however_it_is_written(user: bytes) -> None:
    assert canonical(user) == b"493012345"
    assert Tokens(KEY).stand_in(user) == Tokens(KEY).stand_in(b"493012345")


def test_others_keep_their_case() -> None:
    tokens = Tokens(KEY)
    assert tokens.stand_in(b"%61lice") == tokens.stand_in(b"alice") != tokens.stand_in(b"Alice")


def test_a_token_stays_and_what_looks_like_one_does_not() -> None:
    tokens = Tokens(KEY)
    token = tokens.stand_in(b"alice")
    assert tokens.stand_in(token) == token
    forged = b"u-" + b"0" * 26
    assert tokens.stand_in(forged) != forged
    assert Tokens(KEY[::-1]).stand_in(token) != token


@pytest.mark.parametrize(
    ("user", "masked"),
    [
        (b"4930123456", b"493012xxxx"),
        (b"+49-30-123456", b"+493012xxxx"),
        (b"%2B4930123456;phone-context=x", b"+493012xxxx"),
        (b"493012xxxx", b"493012xxxx"),
        (b"123", b"xxx"),
        (b"+123", b"+xxx"),
        (b"xxx", b"xxx"),
        (b"alice", b"xxxxx"),
        (b"4930123456a", b"x" * 11),
        (b"4930123456xxxxx", b"x" * 15),
    ],
)
def test_the_last_digits_go(user: bytes, masked: bytes) -> None:
    assert Digits(4).stand_in(user) == masked
    assert Digits(4).stand_in(masked) == masked


def test_what_is_asked_for_is_what_is_stored() -> None:
    tokens = Tokens(KEY)
    token = tokens.stand_in(b"493012345").decode()
    assert tokens.asked("+493012345") == token
    assert tokens.asked("493012345@example.com") == f"{token}@example.com"
    assert tokens.asked("4930*") == "4930*"
    assert Digits(4).asked("4930123456@h") == "493012xxxx@h"


@pytest.mark.parametrize(
    ("text", "parsed"), [("hmac:/a:b", ("hmac", "/a:b")), ("mask:4", ("mask", "4")), ("mask:99", ("mask", "99"))]
)
def test_parameters_are_read(text: str, parsed: tuple[str, str]) -> None:
    assert parse_users(text) == parsed


@pytest.mark.parametrize("text", ["hmac", "hmac:", "mask:0", "mask:", "mask:x", "mask:100", "sha:/x", "/x"])
def test_other_parameters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_users(text)


def key(path: Path, content: bytes, mode: int = 0o640) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_line_end_behind_a_key_is_no_part_of_it(tmp_path: Path) -> None:
    for content in (KEY, KEY + b"\n", KEY + b"\r\n"):
        assert read_key(key(tmp_path / "key", content)) == KEY
    made = make_users("hmac", str(tmp_path / "key"))
    assert made.stand_in(b"alice") == Tokens(KEY).stand_in(b"alice")


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (KEY, 0o644, "all users of this machine may get at the key"),
        (KEY, 0o642, "all users of this machine may get at the key"),
        (KEY[:15], 0o600, "is too short: it has 15 bytes, and must have 16"),
        (KEY[:15] + b"\n", 0o600, "is too short: it has 15 bytes"),
        (b"", 0o600, "is too short: it has 0 bytes"),
        (b"x" * 4097, 0o600, "is too long: it has more than 4096 bytes"),
    ],
)
def test_a_key_that_is_no_good_is_refused(tmp_path: Path, content: bytes, mode: int, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as found:
        read_key(key(tmp_path / "key", content, mode))
    assert str(tmp_path / "key") in str(found.value)


def test_a_key_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no key .*; make one with"):
        read_key(str(tmp_path / "key"))
    with pytest.raises(ConfigError, match=r"is no regular file|Is a directory"):
        read_key(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is no regular file"):
        read_key(str(tmp_path / "fifo"))
