"""Secrets: an option that is declared secret is shown nowhere, whatever its name."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core import redaction
from sipdump_core.checkup import in_effect
from sipdump_core.config.reader import parse_config
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.settings.options import Given, Setting, build, describe, option
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B
from tests.support import wait_for

SECRET = 'pg://u:hunter2"\\@h'


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_hidden", [])


def _short(value: str) -> str | None:
    return None if len(value) < 40 else f"must be short, not {value}"


def _parse(text: str) -> str:
    if "!" in text:
        raise ValueError(f"{text} is no address")
    return text


@attrs.frozen
class Options:
    dsn: str = option("", help="where the database is", secret=True, check=_short)
    server: Given[str] | None = option("", help="another one", secret=True, parse=_parse)
    pin: int = option(0, help="a number", secret=True)
    table: str = option("calls", help="no secret")


@attrs.frozen
class Default:
    dsn: str = option(SECRET, help="where the database is", secret=True)


class Shop(Backend):
    name = "shop"
    flag = 512
    options = Options

    def write(self, batch: Sequence[Record]) -> None:
        raise StorageError("connect", self.opts.dsn, f"{self.opts.dsn} refused")


def setting(name: str, value: Any, line: str = "") -> Setting:
    return Setting("sipdump_shop", name, value, "k.cfg:7:1", line)


def test_the_options_show_no_secret() -> None:
    options = build(Options, [setting("dsn", SECRET), setting("server", SECRET), setting("pin", 471147)])
    assert options.dsn == SECRET
    assert options.server is not None
    assert options.server.value == SECRET
    for shown in (
        repr(options),
        repr(options.server),
        str(options.server.error("taken")),
        repr(options.server.setting),
    ):
        assert "hunter2" not in shown
        assert "471147" not in shown
    assert repr(options) == "Options(dsn=..., server=..., pin=..., table='calls')"
    assert "hunter2" not in repr(Options(dsn=SECRET))
    (dsn, *_) = describe(Default)
    assert dsn["default"] == "..."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dsn", SECRET * 3),  # the check quotes it
        ("server", SECRET + "!"),  # the parser does
        ("dsn", 471147),  # of the wrong type
        ("pin", SECRET),
        ("dns", SECRET),  # there is no such option
    ],
)
def test_an_error_shows_no_secret(name: str, value: Any) -> None:
    config = parse_config(f'modparam("sipdump_shop", "{name}", {value!r})'.replace("\\\\", "\\"), "k.cfg")
    with pytest.raises(ConfigError) as caught:
        build(Options, [*config.settings, setting(name, value, config.settings[0].line)])
    for text in (str(caught.value), str(config.settings), config.settings[0].line):
        assert "hunter2" not in text
        assert "471147" not in text


@pytest.mark.parametrize(
    "text",
    [
        'modparam("sipdump_shop", "dsn", "hunter2" 5)',
        'modparam("sipdump_shop" "dsn", "hunter2")',
        'modparam("sipdump_shop", "dsn"  "hunter2")',
        'modparam("sipdump_shop", "dsn",\n   "hunter2" 5)',
        'modparam("sipdump_shop", "dsn",\n   hunter2)',
        'modparam("sipdump_shop", "dsn", hunter2)',
        'modparam("sipdump_shop", "dsn", "hunter2',
        'modparam("sipdump_shop", "dsn",\n"hunter2',
        'modparam("sipdump_s.*", "dsn", "hunter2" 5)',
        "modparamx('sipdump_shop', 'dsn', 'hunter2' 1)",
        'modparam("sipdump_shop", "dsn", "hunter2") modparam("sipdump", "mode", x)',
        'modparam("sipdump", "password",\n   "hunter2" 5)',
    ],
)
def test_a_syntax_error_shows_no_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text + "\n", "k.cfg")
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).startswith("k.cfg:")


def test_what_cannot_be_a_secret_is_not_taken_out_of_texts() -> None:
    cls = attrs.make_class(
        "O", {"on": option(False, help="", secret=True), "name": option("guest", help="", secret=True)}
    )
    cls.__annotations__ = {"on": bool, "name": str}
    cls()
    build(cls, [Setting("sipdump_shop", "on", 1)])
    assert redaction.redacted("True guest") == "True guest"


def test_what_is_no_secret_is_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Options, [setting("table", 7)])
    assert '"table", 7)' in str(caught.value)


def test_no_error_log_or_state_shows_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    core = [
        Setting("sipdump", "mode", 512),
        Setting("sipdump", "enable", 1),
        Setting("sipdump", "folder", str(tmp_path)),
    ]
    plan = make_plan([*core, setting("dsn", SECRET)], [Driver("shop", "sipdump-shop", "1", Shop)])
    assert "hunter2" not in str(in_effect(plan, {})) + repr(plan)
    for style in (False, True):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        from sipdump_core.log import _JsonFormatter, _KeyValueFormatter

        handler.setFormatter(_JsonFormatter() if style else _KeyValueFormatter())
        log.addHandler(handler)
        try:
            with SipDump(plan=plan) as dump:
                dump.received(b"a", A, B)
                error = wait_for(lambda: dump.stats().backends["shop"].error)
                logging.getLogger("sipdump.shop").warning("cannot reach %s", SECRET)
            log.error(Event("failed", dsn=SECRET), exc_info=RuntimeError(SECRET))
        finally:
            log.removeHandler(handler)
        assert "refused" in error
        assert stream.getvalue().count("failed") >= 2
        assert "hunter2" not in error + stream.getvalue()


def test_the_python_interface_shows_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        SipDump(folder=tmp_path, backend_options={"text": {"dsn": SECRET}})
    assert "hunter2" not in str(caught.value)
