"""Finding drivers: conflicts, drivers that do not load, entry points of other distributions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.discovery import Driver, discover, select
from sipdump_core.errors import ConfigError, DriverError
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.options import Setting
from sipdump_core.version import VERSION
from sipdump_parquet import ParquetBackend
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_s3 import S3Backend
from sipdump_text import TextBackend


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
    for module in ("sipdump_bad", "sipdump_a", "sipdump_b", "sipdump_kafka"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


GOOD = "from sipdump_core import Backend\nclass B(Backend):\n    name = {name!r}\n    flag = {flag}\n"


def named(name: str) -> Driver:
    return next(driver for driver in discover() if driver.name == name)


def test_a_third_partys_driver(path: Path) -> None:
    install(path, "sipdump-kafka", GOOD.format(name="kafka", flag=256), "kafka = sipdump_kafka:B")
    found = named("kafka")
    assert (found.distribution, found.version, found.flag, found.error) == ("sipdump-kafka", "1.5", 256, "")


@pytest.mark.parametrize(("name", "flag", "claim"), [("kafka", 512, "flag 512"), ("redis", 1024, "name redis")])
def test_two_drivers_with_one_claim_are_an_error_that_names_both(path: Path, name: str, flag: int, claim: str) -> None:
    install(path, "sipdump-a", GOOD.format(name="redis", flag=512), "redis = sipdump_a:B")
    install(path, "sipdump-b", GOOD.format(name=name, flag=flag), f"{name} = sipdump_b:B")
    with pytest.raises(DriverError, match=f"two drivers claim the {claim}: .*sipdump-.*sipdump-.*uninstall one"):
        discover()


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
        select([found], Setting("sipdump", "mode", 8192), by_name)


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
    with pytest.raises(ConfigError, match="no installed backend owns the flag 128"):
        select(discover(), Setting("sipdump", "mode", 129), [])


def test_first_party_drivers_come_through_entry_points() -> None:
    found = {driver.name: driver.cls for driver in discover()}
    assert found == {
        "header": HeaderTransform,
        "parquet": ParquetBackend,
        "pcap": PcapBackend,
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
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert inside == tree
    assert len(packages) >= 3
