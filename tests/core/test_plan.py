"""A plan: settings, checked, frozen."""

from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError
from sipdump_core.plan import make_plan
from sipdump_core.settings.options import Setting
from sipdump_text import TextBackend

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
