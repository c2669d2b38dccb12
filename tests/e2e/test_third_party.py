"""Backends of other distributions, as an operator installs them and as an author writes them.

There is no network here: wheels are built from the tree, and what sipdump depends on is borrowed from the environment
that runs the tests, by a folder of links on PYTHONPATH. sipdump itself is not among it: it comes from its wheel.
"""

import ast
import contextlib
import importlib.metadata
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from packaging.requirements import Requirement

import sipdump_core
import sipdump_core.testing
from tests.e2e.peers import Stage, request
from tests.e2e.test_daemon import send

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # they build wheels and install them
GUIDE = ROOT / "docs" / "backends.md"
EXAMPLES = ["jsonl", "sqlite"]


def run(argv: Sequence[str | Path], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and give its output."""
    done = subprocess.run(
        argv, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def borrow(folder: Path, *names: str) -> Path:
    """Link installed distributions, with all that they depend on, into a folder."""
    folder.mkdir()
    todo, known = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name in known:
            continue
        known.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))))
        for text in distribution.requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                todo.append(wanted.name)
    assert not (folder / "sipdump_core").exists()
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheels of sipdump and of the examples."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, *(ROOT / "examples" / f"sipdump-{name}" for name in EXAMPLES)):
        run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source])
    return folder


@attrs.frozen
class Fresh:
    """A fresh virtual environment with the wheels in it."""

    bin: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def fresh(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", *wheels.glob("*.whl")])
    names = ("attrs", "google-re2", "lark", "stevedore", "tqdm", "zstandard", "pytest", "hypothesis")
    fresh = Fresh(python.parent, {"PYTHONPATH": str(borrow(folder / "borrowed", *names))})
    where = run([python, "-c", "import sipdump_core; print(sipdump_core.__file__)"], env=fresh.env, cwd=folder)
    assert Path(where).is_relative_to(folder / "venv")
    return fresh


def test_the_daemon_stores_through_installed_backends_and_prune_prunes_them(
    fresh: Fresh, stage: Stage, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(
        f"""
        modparam("sipdump", "enable", 1)
        modparam("sipdump", "mode", {1 + 256 + 512})
        modparam("sipdump", "folder", "{folder}")
        modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")
        modparam("sipdump_jsonl", "compression", "zstd")
        modparam("sipdump_sqlite", "path", "{folder}/calls.sqlite")
        """
    )

    def admin(*args: str) -> str:
        return run([fresh.bin / "sipdump-admin", *args], env=fresh.env)

    daemon = stage.run([fresh.bin / "sipdumpd", "-f", config], "sipdumpd", fresh.env)
    daemon.says("sipdumpd started")
    (port,) = map(int, re.findall(r"listening for HEP\b.*port=(\d+)", daemon.output()))
    for number in range(20):
        send(port, request(number=number))

    def asked(query: str) -> tuple[int, ...]:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/calls.sqlite?mode=rw", uri=True)) as database, database:
            return database.execute(query).fetchone() or ()

    def in_the_database() -> bool:
        try:
            return asked("SELECT count(*) FROM records") == (20,)
        except sqlite3.OperationalError:  # there is no database yet
            return False

    daemon.until(in_the_database, "20 records in the database")
    listed = json.loads(admin("list", "-f", str(config), "--json"))
    assert {row["backend"]: row["state"] for row in listed} == dict.fromkeys(("text", "jsonl", "sqlite"), "open")
    assert daemon.stop() == 0

    listed = json.loads(admin("list", "-f", str(config), "--json", "--count"))
    assert {row["backend"]: (row["state"], row["records"]) for row in listed} == dict.fromkeys(
        ("text", "jsonl", "sqlite"), ("sealed", 20)
    )
    (packed,) = folder.glob("kamailio-sipdump-*.jsonl.zst")
    assert packed.read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    assert asked("SELECT count(*), count(DISTINCT call_id) FROM records WHERE proto = 'udp'") == (20, 20)

    assert "sqlite: 0 segments pruned" in admin("prune", "-f", str(config), "--fage", "172800")
    three_days_ago = time.time() - 259_200
    for path in folder.glob("kamailio-sipdump-*"):
        os.utime(path, (three_days_ago,) * 2)
    asked(f"UPDATE segments SET modified = {three_days_ago}")
    out = admin("prune", "-f", str(config), "--fage", "172800")
    assert all(f"{name}: 1 segments pruned" in out for name in ("text", "jsonl", "sqlite"))
    assert asked("SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM segments)") == (0, 0)
    assert list(folder.glob("kamailio-sipdump-*")) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_own_tests_pass_over_its_wheel(fresh: Fresh, tmp_path: Path, name: str) -> None:
    example = ROOT / "examples" / f"sipdump-{name}"
    (tmp_path / "tests").symlink_to(example / "tests")
    (tmp_path / "pyproject.toml").symlink_to(example / "pyproject.toml")  # and not the package beside them
    python = fresh.bin / "python"
    # once is enough for the checks that take longest
    once = "not (TestCompressed and (search or memory or disk or long or told_apart or however_many or two_processes))"
    out = run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", once, "tests"], env=fresh.env, cwd=tmp_path
    )
    assert int(re.findall(r"(\d+) passed", out)[0]) > 50


def test_the_options_are_shown_without_code_in_core(fresh: Fresh) -> None:
    out = run([fresh.bin / "sipdump-admin", "backends", "--verbose"], env=fresh.env)
    assert re.search(r"^jsonl +backend +256 +\.jsonl +sipdump-jsonl +0\.1\.0 +loaded$", out, re.MULTILINE)
    assert 'modparam("sipdump_sqlite", NAME, VALUE)' in out
    assert re.search(r"^busy_timeout +int +milliseconds +2000 +how long to wait for another writer$", out, re.MULTILINE)
    told = json.loads(run([fresh.bin / "sipdump-admin", "backends", "--json"], env=fresh.env))
    (options,) = (row["options"] for row in told if row["name"] == "jsonl")
    assert options[0] == {
        "name": "compression",
        "type": "str",
        "unit": "",
        "default": "none",
        "help": "how files are compressed: none or zstd",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_uses_public_names_only(name: str) -> None:
    public = {"sipdump_core": set(sipdump_core.__all__), "sipdump_core.testing": set(sipdump_core.testing.__all__)}
    used = 0
    for path in (ROOT / "examples" / f"sipdump-{name}").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("sipdump_")
                and node.module != f"sipdump_{name}"
            ):
                assert {alias.name for alias in node.names} <= public[node.module or ""], path
                used += 1
            elif isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("sipdump_core")], path
    assert used >= 3


def blocks() -> list[tuple[str, str]]:
    """Return the language and the text of each block of the guide."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_smallest_useful_backend_has_fifteen_lines_at_the_most() -> None:
    text = next(text for language, text in blocks() if language == "python")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert "class LinesBackend" in text
    assert len(lines) <= 15


def test_the_guide_can_be_followed_word_for_word(wheels: Path, tmp_path: Path, mypy_cache: Path) -> None:
    script = ["set -euxo pipefail"]
    for language, text in blocks():
        name = re.match(r"# (\S+\.\w+)\n", text)
        if name:
            script.append(f"mkdir -p $(dirname {name[1]})\ncat > {name[1]} <<'END-OF-FILE'\n{text}END-OF-FILE")
        elif language == "sh":
            script.append(text)
        else:
            assert language == "console", text
    script.append("python options.py\npython server.py\npython transform.py")
    place = tmp_path / "place"
    place.mkdir()
    names = (
        "attrs",
        "google-re2",
        "lark",
        "stevedore",
        "tqdm",
        "hatchling",
        "editables",
        "pytest",
        "mypy",
        "ruff",
        "build",
    )
    env = {
        "PYTHONPATH": str(borrow(tmp_path / "borrowed", *names)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # for ruff, which is no Python program
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_BUILD_ISOLATION": "0",  # which means: no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MYPY_CACHE_DIR": str(mypy_cache),
        # without the checks that take longest: the tests of the scaffold run all of them over the same files
        "PYTEST_ADDOPTS": "-k 'not (long or told_apart or however_many or fail or crash or fork or search or memory"
        " or disk or two_processes or left_as or others or piles)'",
    }
    out = run(["bash", "-c", "\n".join(script)], env=env, cwd=place)
    assert re.search(r"^lines +backend +256 +\.lines +sipdump-lines +0\.1\.0 +loaded$", out, re.MULTILINE)
    assert re.search(r"^\d+ 192\.0\.2\.1 OPTIONS sip:bob@example\.com SIP/2\.0$", out, re.MULTILINE)
    assert re.search(r"^lines +\S+ +\d+ +1 +sealed +kamailio-sipdump-\S+\.lines$", out, re.MULTILINE)
    assert "lines: 0 segments pruned" in out
    assert 'modparam("sipdump_kafka", NAME, VALUE)' in out
    assert len(re.findall(r"\d+ passed", out)) == 4
    certificate = json.loads((place / "notes.json").read_text())
    assert certificate["contracts"][0]["backend"]["distribution"] == "sipdump-notes"
    assert certificate["contracts"][0]["counts"]["broken"] == 0
