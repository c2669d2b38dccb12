"""A plan: settings, checked, frozen."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.config.reader import parse_config
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError
from sipdump_core.plan import Plan, make_plan
from sipdump_core.settings.core import Params
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.core.support import A, B, files

TEXT = Driver("text", "sipdump", "1", TextBackend)


def test_a_plan_cannot_be_changed(tmp_path: Path) -> None:
    plan = make_plan([Setting("sipdump", "folder", str(tmp_path))], [TEXT])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan.route = None  # type: ignore[misc]  # that is the point
    assert isinstance(plan.drivers, tuple)
    assert isinstance(plan.chosen, tuple)
    assert isinstance(plan.settings, tuple)
    for mapping in (plan.options, plan.modules):
        with pytest.raises(TypeError):
            mapping["x"] = 1  # type: ignore[index]  # as above


def test_a_callback_of_python_is_loaded_once_and_serves_every_dump(tmp_path: Path) -> None:
    (tmp_path / "cb.py").write_text("def drop_all(record): return False\n")
    (tmp_path / "k.cfg").write_text("")
    place = f"{tmp_path}/k.cfg:1:1"
    settings = [
        Setting("sipdump", "mode", 3, place),
        Setting("sipdump", "folder", str(tmp_path), place),
        Setting("sipdump", "event_callback", "cb.py:drop_all", place),
    ]
    route = make_plan(settings, [TEXT]).route
    assert route is not None
    assert route(lambda _record, _tag: None) is route(lambda _record, _tag: None)
    assert make_plan(settings, [TEXT], to_start=False).route is None


@pytest.mark.parametrize(
    ("mode", "name", "value", "notice"),
    [
        (1, "event_callback", "cb.py:f", "k.cfg:7:1: event_callback is not called: mode lacks the event route (2)"),
        (1, "load", "a.lua", "k.cfg:7:1: script is not loaded: no event_callback names a function of it"),
    ],
)
def test_a_script_that_will_not_run_is_noticed(tmp_path: Path, mode: int, name: str, value: str, notice: str) -> None:
    module = "sipdump_kemi" if name == "load" else "sipdump"
    settings = [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "mode", mode)]
    plan = make_plan([*settings, Setting(module, name, value, "k.cfg:7:1")], [TEXT])
    assert [str(each) for each in plan.notices] == [notice]


def test_a_folder_that_is_not_there_is_an_error_of_its_place() -> None:
    settings = [Setting("sipdump", "folder", "/nonexistent", "k.cfg:7:1")]
    with pytest.raises(ConfigError, match=r"^k.cfg:7:1: .*there is no such folder"):
        make_plan(settings, [TEXT])
    assert make_plan(settings, [TEXT], to_start=False).params.folder == "/nonexistent"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rotate": 0}, r"SipDump\(rotate=0\): modparam\(.*must be 1 to 2147483647"),
        ({"rotate": 9_999_999_999}, "must be 1 to 2147483647"),
        ({"fagex": "99999999d"}, "must be at most 2147483647 seconds"),
        ({"fprefix": "a\nb"}, "printable"),
        ({"rotate": "5"}, "must be an integer"),
        ({"fprefix": "a/b"}, "no slash"),
        ({"fprefix": "é" * 101}, "at most 200 bytes"),
        ({"mode": 8}, "invalid mode parameter: it switches on nothing that stores"),
        ({"mode": 0}, "invalid mode parameter"),
        ({"mode": 64}, r"no installed backend owns the flag 64; installed are the event route \(2\), header \(8\)"),
        ({"mode": 1 + 64 + 1024}, "no installed backend owns the flag 64, 1024"),
        ({"folder": "/nonexistent"}, "there is no such folder"),
        ({"folder": "/etc/passwd"}, "there is no such folder"),
        ({"folder": "/proc/self"}, "not writable"),
        ({"backend": ["nosuch"]}, "no such backend is installed"),
        ({"fagex": "2x"}, "units d, h, m, s"),
        ({"queue_full": "wait"}, "must be one of"),
        ({"file_mode": 0o1777}, "must be 0000 to 0777, octal with a leading 0"),
        ({"nosuch": 1}, "no such parameter"),
        ({"backend_options": {"nosuch": {"x": 1}}}, "no such module"),
        ({"backend_options": {"text": {"x": 1}}}, "no such parameter"),
    ],
)
def test_impossible_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SipDump(**{"folder": "/tmp", **params})


@pytest.mark.parametrize(
    "name", ["nocolon", "no.such.module:f", "json:nosuch", "json:__doc__", "/nonexistent/x.py:f", ":f", "json:"]
)
def test_a_wrong_event_callback(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="event_callback"):
        SipDump(mode=3, folder=tmp_path, event_callback=name)


def test_event_callback_names_a_function(tmp_path: Path) -> None:
    (tmp_path / "cb.py").write_text("def drop_all(record):\n    return False\n")
    (tmp_path / "k.cfg").write_text("")
    place = f"{tmp_path}/k.cfg:1:1"
    settings = [
        Setting("sipdump", "mode", 3, place),
        Setting("sipdump", "enable", 1, place),
        Setting("sipdump", "folder", str(tmp_path), place),
        Setting("sipdump", "event_callback", "cb.py:drop_all", place),
    ]
    with SipDump(settings) as dump:
        dump.received(b"a", A, B)
        assert dump.stats().route_dropped == 1


def test_a_backend_can_be_switched_on_by_name(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=1, backend=["pcap", "text"], folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert len(files(tmp_path, ".pcap")) == len(files(tmp_path, ".data")) == 1


def test_a_backend_can_be_switched_on_by_name_alone(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=0, backend=["pcap"], folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".meta", ".pcap"]


def test_params_object_is_what_was_given(tmp_path: Path) -> None:
    with SipDump(folder=tmp_path, rotate=5) as dump:
        assert dump.params == build(
            Params, [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "rotate", 5)]
        )
        assert attrs.has(type(dump.stats()))


def test_a_route_that_is_not_run_is_read_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def made(text: str, mode: int) -> Plan:
        config = parse_config(f"event_route[sipdump:msg] {{\n{text}\n}}\n", "k.cfg")
        settings = [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "mode", mode)]
        return make_plan(settings, event_routes=config.event_routes)

    with pytest.raises(ConfigError, match=r"^k\.cfg:2:"):
        made("nonsense nonsense", 1)
    assert made("drop;", 1).route is None
    SipDump(plan=made("drop;", 1)).close()
    assert "event_route is not run: mode lacks the event route (2)" in caplog.text
    assert made("drop;", 3).route is not None


def test_an_expression_for_kamailios_modules_sets_only_what_kamailio_has(tmp_path: Path) -> None:
    settings = [Setting("sip.*", "mode", 5), Setting("sipdump|tm", "folder", str(tmp_path))]
    assert make_plan(settings).params.mode == 5
    assert make_plan([*settings, Setting("sipdump_(hep|ctl)", "rcvbuf", 5000)][:2]).params.folder == str(tmp_path)
