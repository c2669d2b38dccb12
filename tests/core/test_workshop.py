"""The workshop: backends of a plan."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.deferred import DeferredBackend
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError, DriverError
from sipdump_core.plan import Plan, make_plan
from sipdump_core.settings.options import Setting, option
from sipdump_core.workshop import Workshop
from sipdump_text import TextBackend
from tests.core import support

TEXT = Driver("text", "sipdump", "1", TextBackend)
BROKEN = Driver("late", "sipdump-late", "1", error="broken")


@attrs.frozen
class LateOptions:
    size: int = option(1, help="a size")
    weight: int = option(1, help="a weight")


class Late(Backend):
    name = "late"
    options = LateOptions

    def write(self, batch: Any) -> None:
        """Store nothing."""


def plan(folder: Path, *settings: Setting, driver: Driver = BROKEN) -> Plan:
    common = [Setting("sipdump", "folder", str(folder)), Setting("sipdump", "backend", "late")]
    return make_plan([*common, *settings], [TEXT, driver])


def test_a_driver_that_can_be_loaded_now_is_in_the_workshop_and_not_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, Setting("sipdump_late", "size", 7, "k.cfg:7:1"))
    before = attrs.asdict(made, recurse=False)
    workshop = Workshop(made)
    late = next(backend for backend in workshop.backends(workshop.site()) if isinstance(backend, DeferredBackend))
    _, errors = workshop.keepers()
    assert ["cannot be used: broken" in str(error) for error in errors] == [True]
    monkeypatch.setattr("sipdump_core.workshop.reload", lambda *_: Driver("late", "sipdump-late", "2", Late))
    late.start()
    assert late.backend.opts == LateOptions(7)
    assert [driver.version for driver in workshop.chosen if driver.name == "late"] == ["2"]
    backends, errors = workshop.keepers()
    assert [backend.name for backend in backends] == ["text", "late"]
    assert errors == []
    assert attrs.asdict(made, recurse=False) == before


def test_a_driver_whose_flag_mode_lacks_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flagged(Late):
        flag = 512

    settings = [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "mode", 257)]
    workshop = Workshop(make_plan(settings, [TEXT, BROKEN]))
    (late,) = [b for b in workshop.backends(workshop.site()) if isinstance(b, DeferredBackend)]
    monkeypatch.setattr("sipdump_core.workshop.reload", lambda *_: Driver("late", "sipdump-late", "2", Flagged))
    with pytest.raises(DriverError, match="its flag 512 is not in mode"):
        late.start()


def test_an_error_of_a_constructor_names_the_first_setting(tmp_path: Path) -> None:
    class Refuses(Late):
        def __init__(self, options: Any, site: Any) -> None:
            raise ConfigError("size and weight contradict each other")

    driver = Driver("late", "sipdump-late", "1", Refuses)
    with pytest.raises(ConfigError, match=r"^k.cfg:7:1: size and weight"):
        Workshop(plan(tmp_path, Setting("sipdump_late", "size", 7, "k.cfg:7:1"), driver=driver)).check()
    with pytest.raises(ConfigError, match=r"^size and weight"):
        Workshop(plan(tmp_path, driver=driver)).check()


def test_an_error_of_a_constructor_that_begins_with_a_name_has_its_place(tmp_path: Path) -> None:
    class Refuses(Late):
        def __init__(self, options: Any, site: Any) -> None:
            raise ConfigError("weight: more than size allows")

    settings = [Setting("sipdump_late", name, 7, f"k.cfg:{row}:1") for row, name in enumerate(("size", "weight"), 7)]
    with pytest.raises(ConfigError, match=r"^k.cfg:8:1: weight: more"):
        Workshop(plan(tmp_path, *settings, driver=Driver("late", "sipdump-late", "1", Refuses))).check()


def test_one_backend_is_made_by_its_name_switched_on_or_not(tmp_path: Path) -> None:
    workshop = Workshop(plan(tmp_path))
    assert isinstance(workshop.backend("text", workshop.site(str(tmp_path), "p-")), TextBackend)
    with pytest.raises(ConfigError, match="no backend 'nosuch' is installed; there are: text"):
        workshop.backend("nosuch", workshop.site())


def test_files_are_looked_after_where_their_backend_is_off(tmp_path: Path) -> None:
    late = Driver("late", "sipdump-late", "1", Late)
    settings = [Setting("sipdump", "mode", 2), Setting("sipdump", "folder", str(tmp_path))]
    (text,) = Workshop(make_plan(settings, [TEXT, late])).keepers(prefix="p-")[0]
    assert (text.name, text.site.folder, text.site.prefix) == ("text", str(tmp_path), "p-")


def test_a_backend_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    why = "the backend unmade of sipdump-unmade 1 cannot be made: RuntimeError: no connection"
    made = support.plan(tmp_path, support.Unmade)
    with pytest.raises(DriverError, match=why):
        Workshop(made).check()
    alone = attrs.evolve(made, chosen=[support.driver(support.Unmade)])
    with pytest.raises(DriverError, match=why):
        Workshop(alone).backends(Site(str(tmp_path), ""))
