"""Finding drivers: conflicts, drivers that do not load, entry points of other distributions."""

import importlib
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.deferred import DeferredBackend
from sipdump_core.drivers.discovery import Driver, discover, select, take_stock
from sipdump_core.errors import ConfigError, DriverError
from sipdump_core.plan import make_plan
from sipdump_core.segment import Segment
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.options import Setting
from sipdump_core.version import VERSION
from sipdump_core.workshop import Workshop
from sipdump_parquet import ParquetBackend
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_redact import RedactFilter
from sipdump_s3 import S3Backend
from sipdump_text import TextBackend
from tests.support import wait_for


def install(folder: Path, distribution: str, code: str, entry: str) -> None:
    """Put a distribution with one module and one entry point into a folder of the Python path."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[sipdump.backends]\n{entry}\n")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("sipdump_bad", "sipdump_a", "sipdump_b", "sipdump_kafka", "sipdump_files", "sipdump_application"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


GOOD = "from sipdump_core import Backend\nclass B(Backend):\n    name = {name!r}\n    flag = {flag}\n"


def named(name: str) -> Driver:
    return next(driver for driver in discover() if driver.name == name)


def test_a_third_partys_driver(path: Path) -> None:
    install(path, "sipdump-kafka", GOOD.format(name="kafka", flag=256), "kafka = sipdump_kafka:B")
    found = named("kafka")
    assert (found.distribution, found.version, found.flag, found.error) == ("sipdump-kafka", "1.5", 256, "")


MARKED = "open({mark!r}, 'w').close()\n" + GOOD


def marked(folder: Path, name: str, flag: int, more: str = "") -> Path:
    """Install a driver whose import leaves a file, and return that file's path."""
    mark = folder / f"mark-{name}"
    code = MARKED.format(mark=str(mark), name=name, flag=flag) + more
    install(folder, f"sipdump-{name}", code, f"{name} = sipdump_{name}:B")
    return mark


@pytest.fixture
def many(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three drivers whose flags are known before their import, and one whose flag is not."""
    for name, flag in (("one", 256), ("two", 512), ("three", 0)):
        monkeypatch.delitem(sys.modules, f"sipdump_{name}", raising=False)
        marked(path, name, flag)
    monkeypatch.delitem(sys.modules, "sipdump_hidden", raising=False)
    marked(path, "hidden", 1024, "    flag = int('1024')\n")
    return path


@pytest.mark.parametrize(
    ("params", "imported"),
    [
        ({"mode": 1}, []),
        ({"mode": 3}, []),
        ({"mode": 257}, ["one"]),
        ({"mode": 1 + 256 + 512}, ["one", "two"]),
        ({"mode": 1, "backend": "three"}, ["three"]),
        ({"mode": 0, "backend": "two"}, ["two"]),
        ({"mode": 1025}, ["hidden"]),
        ({"mode": 257, "backend": "hidden"}, ["hidden", "one"]),
        ({"mode": 257, "block": "one"}, []),
        ({"mode": 257, "block": "sipdump-one"}, []),
        ({"mode": 1, "backend": "two", "block": "two"}, []),
    ],
)
def test_only_what_is_switched_on_is_imported(many: Path, params: dict[str, int | str], imported: list[str]) -> None:
    settings = [Setting("sipdump", name, value) for name, value in {"folder": str(many), **params}.items()]
    plan = make_plan(settings)
    assert sorted(path.name.removeprefix("mark-") for path in many.glob("mark-*")) == imported
    assert sorted({driver.name for driver in plan.chosen} - {"text"}) == imported
    Workshop(plan).keepers()
    Workshop(plan).check()
    assert sorted(path.name.removeprefix("mark-") for path in many.glob("mark-*")) == imported


def test_a_blocked_driver_is_told_where_it_is_switched_on(many: Path) -> None:
    settings = [Setting("sipdump", "mode", 257, "k:1"), Setting("sipdump", "backend", "two", "k:2")]
    settings += [Setting("sipdump", "block", name, f"k:{name}") for name in ("one", "two", "nosuch")]
    assert [str(notice) for notice in make_plan(settings, to_start=False).notices] == [
        "k:nosuch: block: no backend and no distribution 'nosuch' is installed",
        "k:2: backend: two is blocked, and not switched on",
        "k:1: mode has one (256), which is blocked, and not switched on",
    ]
    with pytest.raises(ConfigError, match=r"the backend one of sipdump-one 1\.5 cannot be used: it is blocked by"):
        make_plan([Setting("sipdump", "mode", 256), Setting("sipdump", "block", "one")], to_start=False)


def test_what_is_set_for_one_that_is_off_is_not_checked_and_that_is_told(many: Path) -> None:
    settings = [Setting("sipdump_two", "nosuch", 5, "k:1")]
    (notice,) = make_plan(settings, to_start=False).notices
    assert str(notice) == "k:1: two is not switched on: what is set for it is not checked"
    with pytest.raises(ConfigError, match="no such parameter"):
        make_plan([*settings, Setting("sipdump", "backend", "two")], to_start=False)
    with pytest.raises(ConfigError, match="no such parameter"):  # of our own it costs nothing
        make_plan([Setting("sipdump_parquet", "nosuch", 5)], to_start=False)


def test_one_that_is_off_is_imported_for_files_of_its_own_alone(many: Path) -> None:
    workshop = Workshop(make_plan([Setting("sipdump", "folder", str(many))]))
    text = Segment.starting("kamailio-sipdump-", 0)
    for suffix in (".data", ".meta", ".data.tmp"):
        (many / f"{text.stem}{suffix}").touch()
    install(many, "sipdump-files", FILES.format(mark=str(many / "mark-files")), "files = sipdump_files:B")
    workshop = Workshop(make_plan([Setting("sipdump", "folder", str(many))]))
    assert "files" not in [backend.name for backend in workshop.keepers()[0]]
    assert not list(many.glob("mark-*"))
    (many / f"{text.stem}.files").touch()
    backends, errors = workshop.keepers()
    assert ("files" in [backend.name for backend in backends], errors) == (True, [])
    assert [path.name for path in many.glob("mark-*")] == ["mark-files"]


FILES = """
open({mark!r}, 'w').close()
from sipdump_core import FolderBackend
class B(FolderBackend):
    name = "files"
    suffix = ".files"
"""


@pytest.mark.parametrize("first", ["kafka", "redis"])
@pytest.mark.parametrize(
    ("name", "flag", "suffix", "claim"),
    [("kafka", 512, ".k", "flag 512"), ("redis", 1024, ".k", "name redis"), ("kafka", 1024, ".r", "suffix .r")],
)
def test_two_third_parties_with_one_claim_disable_each_other(
    path: Path, name: str, flag: int, suffix: str, claim: str, first: str
) -> None:
    a = GOOD.format(name="redis", flag=512) + "    suffix = '.r'\n"
    b = GOOD.format(name=name, flag=flag) + f"    suffix = '{suffix}'\n"
    install(path, "sipdump-a", f"raise RuntimeError\n{a}", "redis = sipdump_a:B")
    install(path, "sipdump-b", f"raise RuntimeError\n{b}", f"{name} = sipdump_b:B")
    stock = take_stock()
    both = [driver for driver in (*stock.drivers, *stock.refused) if not driver.is_ours]
    assert len(both) == 2
    assert {driver.error.partition(": neither is used; uninstall one of them, or block one")[0] for driver in both} == {
        f"claims the {claim}, and so does {name} of sipdump-b 1.5",
        f"claims the {claim}, and so does redis of sipdump-a 1.5",
    }
    settings = [Setting("sipdump", "mode", 1 + 512), Setting("sipdump", "backend", first if name != "redis" else name)]
    plan = make_plan(settings, to_start=False)
    assert [driver.name for driver in plan.chosen if driver.cls] == ["text"]
    assert take_stock(["sipdump-a"]).drivers[-1].error == ""  # the other one is free
    with pytest.raises(ConfigError, match=f"cannot be used: claims the {claim}"):
        make_plan([Setting("sipdump", "mode", 0), settings[1]], to_start=False)


def test_one_distribution_with_a_name_twice_is_told_with_the_file(path: Path) -> None:
    install(path, "sipdump-bad", GOOD.format(name="bad", flag=256), "bad = sipdump_bad:B\nbad = sipdump_bad:C")
    stock = take_stock()
    place = path / "sipdump_bad-1.5.dist-info" / "entry_points.txt"
    errors = [driver.error for driver in (*stock.drivers, *stock.refused) if driver.name == "bad"]
    assert errors == [f"has several entry points of that name ({place}): none of them is used; install it again"] * 2


def test_a_clash_that_shows_only_after_the_import_disables_both(path: Path) -> None:
    for name in ("a", "b"):
        install(path, f"sipdump-{name}", GOOD.format(name=name, flag="int('256')"), f"{name} = sipdump_{name}:B")
    settings = [Setting("sipdump", "mode", 257), Setting("sipdump", "folder", str(path))]
    plan = make_plan(settings)
    assert [(driver.name, driver.error[:20]) for driver in plan.chosen] == [
        ("a", "claims the flag 256,"),
        ("b", "claims the flag 256,"),
        ("text", ""),
    ]
    workshop = Workshop(plan)
    (deferred, _) = [each for each in workshop.backends(workshop.site()) if isinstance(each, DeferredBackend)]
    with pytest.raises(DriverError, match="claims the flag 256"):
        deferred.start()


@pytest.mark.parametrize(
    ("name", "flag", "suffix", "error"),
    [
        ("text", 256, "", "claims the name text, which is sipdump's own"),
        ("bad", 256, ".pcap", "claims the suffix .pcap, which is sipdump's own"),
        ("bad", 256, ".parquet.wal", "claims the suffix .parquet, which is sipdump's own"),
        ("bad", 4, "", "declares the flag 4; third parties take 256 or more"),
    ],
)
def test_what_sipdump_claims_is_its_own(path: Path, name: str, flag: int, suffix: str, error: str) -> None:
    code = f"raise RuntimeError\n{GOOD.format(name=name, flag=flag)}    suffix = {suffix!r}\n"
    install(path, "sipdump-bad", code, f"{name} = sipdump_bad:B")
    stock = take_stock()
    (refused,) = (driver for driver in (*stock.drivers, *stock.refused) if driver.distribution == "sipdump-bad")
    assert error in refused.error
    plan = make_plan([Setting("sipdump", "mode", 5)], to_start=False)
    assert [driver.name for driver in plan.chosen if driver.cls] == ["pcap", "text"]
    assert all(driver.is_ours for driver in plan.chosen)
    told = [str(notice) for notice in plan.notices]
    assert [error in text for text in told] == ([True] if name == "text" else [])


def test_a_suffix_that_a_constructor_takes_from_another_driver_is_refused(path: Path) -> None:
    code = (
        "from sipdump_core import FolderBackend\nclass B(FolderBackend):\n    name = 'bad'\n"
        "    def __init__(self, options, site):\n        super().__init__(options, site)\n"
        "        self.suffix = '.parquet'\n"
    )
    install(path, "sipdump-bad", code, "bad = sipdump_bad:B")
    settings = [Setting("sipdump", "folder", str(path)), Setting("sipdump", "backend", "bad")]
    with pytest.raises(DriverError, match=r"it has the suffix \.parquet, which is that of parquet"):
        Workshop(make_plan(settings)).check()


@pytest.mark.parametrize("call", ["import", "constructor"])
def test_one_that_hangs_is_given_up_and_named(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setitem(sys.modules, "sipdump_free", free)
    hang = "import sys; sys.modules['sipdump_free'].wait(60)\n"
    code = (hang if call == "import" else "") + GOOD.format(name="stuck", flag=256)
    code += f"    def __init__(self, options, site):\n        {hang}" if call == "constructor" else ""
    install(path, "sipdump-bad", code, "stuck = sipdump_bad:B")
    settings = [Setting("sipdump", "mode", 257), Setting("sipdump", "folder", str(path))]
    workshop = Workshop(make_plan([*settings, Setting("sipdump", "load_timeout", 1)]))
    text, late = sorted(workshop.backends(workshop.site()), key=lambda backend: backend.name != "text")
    assert isinstance(text, TextBackend)
    with pytest.raises(DriverError, match=rf"stuck of sipdump-bad 1\.5 cannot be .*: its {call} has not returned for"):
        late.start()
    errors = workshop.keepers()[1]
    assert [f"its {call} has not returned" in str(error) for error in errors] == [True]
    free.set()
    wait_for(lambda: not [each for each in threading.enumerate() if each.name == f"sipdump-stuck-{call}"])
    if call == "import":  # it came late, and can be used
        late.start()


def test_a_package_may_make_a_sipdump_with_a_backend_of_its_own_while_it_is_imported(path: Path) -> None:
    package = path / "sipdump_application"
    package.mkdir()
    (package / "store.py").write_text(GOOD.format(name="own", flag=256))
    (package / "__init__.py").write_text(
        "from sipdump_core.drivers.discovery import load, take_stock\n"
        "(found,) = (load(each, 60) for each in take_stock().drivers if each.name == 'own')\n"
    )
    install(path, "sipdump-own", "", "own = sipdump_application.store:B")
    began = time.monotonic()
    application = importlib.import_module("sipdump_application")
    assert application.found.error == ""
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("B = 5", "is no subclass of"),
        ("class B: pass", "is no subclass of"),
        (GOOD.format(name="other", flag=256), "calls itself 'other', its entry point 'bad'"),
        (GOOD.format(name="bad", flag=300), "declares the flag 300, which is no power of two"),
        (GOOD.format(name="bad", flag=128), "declares the flag 128; third parties take 256 or more"),
        (
            GOOD.format(name="bad", flag=256) + "    api = 3\n",
            f"was made for version 3 of the backend interface, sipdump {VERSION} has version 2; "
            "install a newer sipdump, or an older release of the driver",
        ),
        (
            GOOD.format(name="bad", flag=256) + "    api = True\n",
            "was made for version True",
        ),
        (
            GOOD.format(name="bad", flag=256) + "    api = 0\n",
            "install a newer release of this driver, or an older release of sipdump",
        ),
        (GOOD.format(name="bad", flag=256) + "    api = '2'\n", "was made for version '2'"),
        (GOOD.format(name="bad", flag=256) + "    options = dict\n", "has options that are no attrs class"),
        (
            "import attrs\n@attrs.frozen\nclass O:\n    x: int\n"
            + GOOD.format(name="bad", flag=256)
            + "    options = O\n",
            "has options that cannot be used: TypeError",
        ),
        (
            "import attrs\n@attrs.frozen\nclass O:\n    x: bytes = b'x'\n"
            + GOOD.format(name="bad", flag=256)
            + "    options = O\n",
            "x is annotated <class 'bytes'>; an option is int, float, bool, str or tuple[str, ...]",
        ),
        (
            "import attrs\n@attrs.frozen\nclass O:\n    x: int = None\n"
            + GOOD.format(name="bad", flag=256)
            + "    options = O\n",
            "x is annotated <class 'int'>, and its default is None",
        ),
        (
            "import attrs\n@attrs.frozen\nclass O:\n    _x: int = 3\n"
            + GOOD.format(name="bad", flag=256)
            + "    options = O\n",
            "_x cannot be given to O by that name",
        ),
        (GOOD.format(name="bad", flag=True), "declares the flag True, which is no power of two"),
        (
            GOOD.format(name="bad", flag=256) + "    name = 'no name'\n",
            "has the name 'no name'; a name is of lower-case",
        ),
        (GOOD.format(name="bad", flag=256) + "    suffix = '/../x'\n", "declares the suffix '/../x'"),
        (
            GOOD.format(name="bad", flag=256) + "    requires = 'boto3'\n",
            "declares that it requires 'boto3', which is no tuple",
        ),
        (GOOD.format(name="bad", flag=256) + "    requires = (1,)\n", "declares that it requires (1,)"),
        (GOOD.format(name="bad", flag=256) + "    has_lifecycle = True\n", "overrides has_lifecycle()"),
        (
            "class E(int):\n    def __repr__(self): raise RuntimeError\n"
            + GOOD.format(name="bad", flag=256)
            + "    api = E()\n",
            "cannot be looked at: RuntimeError",
        ),
        ("class X(BaseException): pass\nraise X('gone')", "X: gone"),
        ("class X(Exception):\n    def __str__(self): raise RuntimeError\nraise X", "X ("),
    ],
)
def test_a_driver_that_cannot_be_used_is_told_and_stops_nobody(path: Path, code: str, error: str) -> None:
    install(path, "sipdump-bad", code, "bad = sipdump_bad:B")
    found = named("bad")
    assert error in found.error
    assert found.cls is None
    assert named("text").cls is TextBackend
    by_name = [Setting("sipdump", "backend", "bad")]
    assert [d.name for d in select(discover(), Setting("sipdump", "mode", 1), by_name)] == ["text", "bad"]
    # alone, it stores nothing: that is no start
    with pytest.raises(ConfigError, match=r"the backend bad of sipdump-bad 1.5 cannot be used: "):
        select([found], Setting("sipdump", "mode", 0), by_name)


@pytest.mark.parametrize("name", ["hep", "ksr", "ctl", "kemi"])
def test_a_name_with_parameters_of_sipdump_itself_is_refused(path: Path, name: str) -> None:
    install(path, "sipdump-bad", GOOD.format(name=name, flag=256), f"{name} = sipdump_bad:B")
    assert f"has the name {name}, and sipdump_{name} has parameters of sipdump itself" in named(name).error


def test_a_module_that_is_required_may_be_missing_with_its_package(path: Path) -> None:
    code = GOOD.format(name="bad", flag=256) + "    requires = ('json', 'nosuch.cloud.client')\n"
    install(path, "sipdump-bad", code, "bad = sipdump_bad:B")
    install_it = r"it needs the module nosuch.cloud.client, which is not installed; .* 'sipdump-bad\[bad\]'"
    assert re.search(install_it, named("bad").fault)


def test_a_flag_without_owner_is_taken_for_that_of_a_driver_that_cannot_be_loaded(path: Path) -> None:
    install(path, "sipdump-bad", "import nosuchmodule", "bad = sipdump_bad:B")
    assert [d.name for d in select(discover(), Setting("sipdump", "mode", 257), [])] == ["text", "bad"]
    with pytest.raises(ConfigError, match="no installed backend owns the flag 64"):
        select(discover(), Setting("sipdump", "mode", 65), [])


def test_first_party_drivers_come_through_entry_points() -> None:
    found = {driver.name: driver.cls for driver in discover()}
    assert found == {
        "header": HeaderTransform,
        "parquet": ParquetBackend,
        "pcap": PcapBackend,
        "redact": RedactFilter,
        "s3": S3Backend,
        "text": TextBackend,
    }


class Probe(Backend):
    name = "probe"
    flag = 256


ALL = [
    Driver("text", "sipdump", "1", TextBackend),
    Driver("pcap", "sipdump", "1", PcapBackend),
    Driver("header", "sipdump", "1", HeaderTransform),
    Driver("probe", "sipdump-probe", "1", Probe),
]


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (1, ["text"]),
        (2, []),
        (3, ["text"]),
        (4, ["pcap"]),
        (5, ["text", "pcap"]),
        (9, ["text", "header"]),
        (10, ["header"]),
        (13, ["text", "pcap", "header"]),
        (15, ["text", "pcap", "header"]),
        (256, ["probe"]),
        (257, ["text", "probe"]),
    ],
)
def test_modes(mode: int, names: list[str]) -> None:
    assert [driver.name for driver in select(ALL, Setting("sipdump", "mode", mode), [])] == names


def test_flags_are_kamailios() -> None:
    assert (TextBackend.flag, MODE_EVENT_ROUTE, PcapBackend.flag, HeaderTransform.flag) == (1, 2, 4, 8)


def test_the_wheel_holds_what_the_tree_holds(tmp_path: Path) -> None:
    """The wheel is built from the tree and compared with it: packages are listed by hand."""
    import zipfile

    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = [root / "sipdump_core", *(folder for folder in (root / "backends").glob("*/*") if folder.is_dir())]
    tree = {
        str(file.relative_to(package.parent))
        for package in packages
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so"
    }
    assert inside - {"sipdump_speedups/fields.so"} == tree  # that is built where there is a compiler
    assert len(packages) >= 3


FILTER = """
from sipdump_core import Filter
class B(Filter):
    name = 'bad'
    flag = 256
    api = 2
    def apply(self, records):
        return records
"""


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (FILTER + "import nosuchmodule", "it is a filter"),
        (FILTER + "    flag = 768", "it is a filter"),
        ("import nosuchmodule\nfrom sipdump_core import Filter\nB = make(Filter)", "it may be a filter"),
        (FILTER + "    api = 3", "it is a filter"),
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
def test_nothing_is_stored_without_a_filter_that_is_switched_on(
    path: Path, code: str, what: str, by_name: bool
) -> None:
    install(path, "sipdump-bad", code, "bad = sipdump_bad:B")
    settings = [Setting("sipdump", "folder", str(path)), Setting("sipdump", "mode", 1 if by_name else 257)]
    settings += [Setting("sipdump", "backend", "bad", "k.cfg:3:1")] * by_name
    with pytest.raises(ConfigError, match=rf"bad of sipdump-bad 1\.5 cannot be used: .*; {what}, and nothing"):
        make_plan(settings)


def test_a_filter_that_is_blocked_and_switched_on_refuses_the_start(path: Path) -> None:
    install(path, "sipdump-bad", FILTER, "bad = sipdump_bad:B")
    settings = [Setting("sipdump", "folder", str(path)), Setting("sipdump", "block", "bad")]
    with pytest.raises(ConfigError, match=r"it is blocked by .* it is a filter, and nothing is stored without it"):
        make_plan([*settings, Setting("sipdump", "mode", 257)])
    assert make_plan([*settings, Setting("sipdump", "mode", 1)]).chosen


def test_a_filter_that_claims_what_another_claims_refuses_the_start(path: Path) -> None:
    install(path, "sipdump-bad", FILTER, "bad = sipdump_bad:B")
    install(path, "sipdump-a", GOOD.format(name="a", flag=256), "a = sipdump_a:B")
    with pytest.raises(ConfigError, match=r"claims the flag 256, and so does a of .*; it is a filter, and nothing"):
        make_plan([Setting("sipdump", "folder", str(path)), Setting("sipdump", "mode", 257)])
