"""The optional library in C: it is built or left out, it finds what Python finds, and it reads nothing else."""

import ctypes
import logging
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from array import array
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sipdump_speedups
from sipdump_core.pipeline.journal import Columns
from sipdump_parquet.fields import Puller
from sipdump_parquet.native import NATIVE_FIELDS, NativePuller, best_puller, packed_names
from sipdump_parquet.options import ParquetOptions
from sipdump_parquet.table import Builder
from sipdump_speedups import LIBRARY, SOURCE, load
from sipdump_speedups.build import build
from tests.backends.parquet.exact import Exact
from tests.backends.parquet.sanitized import PIECES, changed, differences, samples
from tests.backends.parquet.support import make
from tests.e2e.peers import lacking
from tests.flows import FLOWS
from tests.support import OPTIONS

ROOT = Path(__file__).parents[3]
CID = OPTIONS.replace(b"\r\n\r\n", b"\r\nX-CID: other\r\n\r\n")
"""A message that is left to Python."""
SAMPLES = samples()


@pytest.fixture
def used(speedups: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The library, as if it had been built at the installation."""
    monkeypatch.setattr(sipdump_speedups, "library", lambda: speedups)
    return speedups


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sipdump_speedups, "library", lambda: None)


# what it finds


def test_usual_messages_are_not_left_to_python(speedups: ctypes.CDLL) -> None:
    exact = Exact(speedups, Puller())
    usual = [record.buf for flow in FLOWS for record in flow.records]
    odd = [message for message in usual if exact.fields(message) is None]
    assert len(odd) < len(usual) / 10


@pytest.mark.parametrize(
    "message",
    [
        b"INVITE sip:b SIP/2.0\r\n\r\n",
        b"INVITE sips:a@b SIP/2.0\nFrom: <sip:h>;tag=1\nTo:A B <sips:a@b>\n\n",
        b"SIP/2.0 200 \r\ni:\r\nCSEQ \t: 007 ACK \r\nv: SIP/2.0/UDP h;rport;branch=1 , x\r\nserver: a b\r\n",
        b"SIP/2.0 200",
        b"SIP/2.0 200\r\nUser-Agent: \r\nServer: b",
        b'BYE sip:a@b SIP/2.0\r\nf: "\xc3\xa4, <;" <sip:a@b>;tag=1;x=\xff\r\nVia: x;branch=1;y="\xff',
        b"BYE sip:a@b SIP/2.0\r\nCall-ID: 1\r\nCall-ID: \xff\r\n 2\r\nX: 1\r\n folded\r\n\r\nX-CID: body",
    ],
)
def test_forms_that_c_understands(speedups: ctypes.CDLL, message: bytes) -> None:
    exact, puller = Exact(speedups, Puller()), Puller()
    assert exact.fields(message) is not None
    assert list(differences(exact, puller, iter([message]))) == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\nINVITE sip:b SIP/2.0\r\n\r\n",
        b"invite sip:b SIP/2.0\r\n\r\n",
        b"INVITE tel:1 SIP/2.0\r\n\r\n",
        b"SIP/2.0 2000 x\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nCall-ID: 1\r\n 2\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nCall-ID: 1  2\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nCall-ID: \xc3\xa4\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nCSeq: 1234567890123456789 BYE\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nFrom: sip:a@b;tag=1\r\n\r\n",
        b'BYE sip:b SIP/2.0\r\nFrom: "\\"" <sip:a@b>;tag=1\r\n\r\n',
        b"BYE sip:b SIP/2.0\r\nFrom: <sip:a@b>;x;tag=1\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nVia: x, y;branch=1\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nVia: x;branch=a=b\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nSession-ID: 1\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nx-cid : 1\r\n\r\n",
    ],
)
def test_forms_that_are_left_to_python(speedups: ctypes.CDLL, message: bytes) -> None:
    assert Exact(speedups, Puller()).fields(message) is None


@given(
    st.sampled_from(SAMPLES),
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 9), st.one_of(st.sampled_from(PIECES), st.binary(max_size=3))),
        max_size=4,
    ),
)
def test_changed_messages_give_in_c_what_they_give_in_python(
    speedups: ctypes.CDLL, message: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for at, size, piece in changes:
        message = message[:at] + piece + message[at + size :]
    puller = Puller({"contact": "Contact"}, ["Subject"])
    assert list(differences(Exact(speedups, puller), puller, iter([message]))) == []


def test_a_batch_of_both_kinds_gives_the_same_table(used: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    messages = [changed(draw.choice(SAMPLES), draw) for _ in range(500)] + [CID, OPTIONS, b""]
    draw.shuffle(messages)
    options = ParquetOptions(header=("Contact", "Subject"), correlate=("Max-Forwards",))
    flows = ["x\t1\t1\tudp\tipv4\t192.0.2.1\t5060\t192.0.2.2\t5060\tn"]
    ids = [draw.choice(("", "id")) for _ in messages]
    columns = Columns(
        [], flows, array("q", range(len(messages))), array("I", [0] * len(messages)), array("I", map(len, messages)),
        b"xyz" + b"".join(messages), 3, ids,
    )  # fmt: skip
    native = Builder(options).table(columns, 7)
    monkeypatch.setattr(sipdump_speedups, "library", lambda: None)
    python = Builder(options).table(columns, 7)
    native.validate(full=True)
    assert native.schema == python.schema
    assert native.to_pylist() == python.to_pylist()


def test_no_messages_are_a_batch_too(speedups: ctypes.CDLL) -> None:
    for data in (b"", b"xyz"):
        pulled = NativePuller(Puller(), speedups).pull(data, [len(data)])
        assert {len(values) for values in pulled.values()} == {0}


@pytest.mark.parametrize(("usual", "kind"), [(1, list), (2, pa.Array)])
def test_python_takes_all_where_nearly_all_are_odd(speedups: ctypes.CDLL, usual: int, kind: type) -> None:
    messages = [OPTIONS] * usual + [CID] * (20 - usual)
    found = NativePuller(Puller(), speedups).pull(b"".join(messages), list(accumulate(map(len, messages), initial=0)))
    assert isinstance(found["call_id"], kind)
    assert found["correlation"] == [None] * usual + [["other"]] * (20 - usual)


def test_what_32_bits_cannot_count_is_left_to_python(speedups: ctypes.CDLL) -> None:
    assert NativePuller(Puller(), speedups).pull(b"", [1 << 31])["call_id"] == []


def test_headers_that_are_wanted_as_they_are_leave_all_to_python(used: ctypes.CDLL) -> None:
    assert isinstance(best_puller({}, ["X-My-Id"]), NativePuller)
    assert isinstance(best_puller({"from": "f"}, []), Puller)
    assert isinstance(best_puller({f"x_{number}": f"X-{number}" for number in range(60)}, []), Puller)
    assert isinstance(best_puller({"x": "X" * 256}, []), Puller)


def test_the_longest_names_fit(speedups: ctypes.CDLL) -> None:
    puller = Puller({"x": "X" * 255} | {f"x_{number}": f"X-{number}" for number in range(40)})
    exact = Exact(speedups, puller)
    assert exact.fields(OPTIONS) is not None
    assert exact.fields(OPTIONS.replace(b"\r\n\r\n", b"\r\n" + b"x" * 255 + b": 1\r\n\r\n")) is None
    assert exact.fields(OPTIONS.replace(b"\r\n\r\n", b"\r\n" + b"x" * 254 + b": 1\r\n\r\n")) is not None


# what it reads


@pytest.mark.parametrize("offsets", [[0, 9], [-1, 3], [2, 1], [0, 3, 2], [3, 4]])
def test_offsets_outside_the_data_are_refused(speedups: ctypes.CDLL, offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must ascend, and lie within the data"):
        NativePuller(Puller(), speedups).pull(b"abc", offsets)


@pytest.mark.parametrize("names", [b"\1", b"\1\0", b"\2\0a", b"\0\0a", b"\1\7a", b"\1\0a\1", b"\1\0a" * 65], ids=repr)
def test_names_that_are_none_are_refused(speedups: ctypes.CDLL, names: bytes) -> None:
    spans, sizes, odd = (ctypes.c_int32 * 24)(), (ctypes.c_int64 * 12)(), ctypes.c_uint8()
    offsets = (ctypes.c_int32 * 2)(0, 1)
    assert speedups.sipdump_scan(b"x", 1, offsets, 1, names, len(names), spans, sizes, ctypes.byref(odd)) == -1


@pytest.mark.parametrize(
    ("span", "capacity", "answer"),
    [
        ((0, 3), 3, 0),
        ((3, 0), 3, 0),
        ((0, -1), 3, 1),
        ((1, 3), 3, -1),
        ((-1, 2), 3, -1),
        ((0, 3), 2, -1),
        ((9, 0), 3, -1),
    ],
)
def test_spans_outside_the_data_are_refused(
    speedups: ctypes.CDLL, span: tuple[int, int], capacity: int, answer: int
) -> None:
    offsets, valid, values = (ctypes.c_int32 * 2)(), ctypes.c_uint8(), ctypes.create_string_buffer(3)
    one = (ctypes.c_int32 * 2)(*span)
    found = speedups.sipdump_gather(b"abc", 3, one, 1, offsets, ctypes.byref(valid), values, capacity)
    assert found == answer


def test_memory_is_given_back(speedups: ctypes.CDLL) -> None:
    messages = [message for message in (OPTIONS, CID) for _ in range(500)]
    data, offsets = b"".join(messages), list(accumulate(map(len, messages), initial=0))
    puller = NativePuller(Puller(), speedups)

    def rounds(count: int) -> tuple[int, int]:
        for _ in range(count):
            puller.pull(data, offsets)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), sys.getrefcount(data)

    pool = pa.total_allocated_bytes()
    before, references = rounds(10)
    after = rounds(40)
    assert after[1] == references
    assert pa.total_allocated_bytes() == pool
    assert after[0] - before < 4 << 20  # a round takes 300 kB


@pytest.fixture(scope="module")
def sanitizer() -> str:
    """The runtime of gcc's address sanitizer, which must be loaded before all else."""
    try:
        found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    except OSError:
        lacking("no gcc")
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        lacking("gcc has no libasan")
    return str(path.resolve())


def sanitized(sanitizer: str, library: Path, count: int) -> subprocess.CompletedProcess[str]:
    settings = {"LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    return subprocess.run(
        [sys.executable, "-m", "tests.backends.parquet.sanitized", str(library), str(count)],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def test_sanitizers_see_nothing(sanitizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc")
    library = tmp_path / "fields.so"
    assert build(library, SANITIZERS) == ""
    done = sanitized(sanitizer, library, 8000)
    assert (done.returncode, done.stdout) == (0, "8000 messages\n"), done.stderr


def test_sanitizers_see_a_byte_too_many(sanitizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc")
    text = SOURCE.read_text()
    bounded = "return !is_empty(part) && classes[*part.at] & class;"
    assert bounded in text
    source = tmp_path / "fields.c"
    source.write_text(text.replace(bounded, "return part.at <= part.end && classes[*part.at] & class;"))
    library = tmp_path / "fields.so"
    flags = ["-shared", "-fPIC", f"-DSIPDUMP_SOURCE={sipdump_speedups.checksum()}u", *SANITIZERS]
    subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
    done = sanitized(sanitizer, library, 2000)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


# whether it is there


def test_it_is_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, is_wanted in (("", True), ("0", True), ("1", False), ("yes", False)):
        monkeypatch.setenv("SIPDUMP_PURE", value)
        assert sipdump_speedups.is_wanted() == is_wanted
    monkeypatch.delenv("SIPDUMP_PURE")
    assert sipdump_speedups.is_wanted()
    run = [sys.executable, "-c", "import sipdump_speedups; print(sipdump_speedups.library())"]
    done = subprocess.run(run, env=os.environ | {"SIPDUMP_PURE": "1"}, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_a_library_of_another_source_is_not_used(
    speedups: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fields.so"
    assert build(path) == ""
    assert load(path)
    other = tmp_path / "fields.c"
    other.write_bytes(SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(sipdump_speedups, "SOURCE", other)
    assert load(path) is None


def test_what_is_no_library_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "fields.so"
    assert load(path) is None
    path.write_bytes(b"\x7fELF, or so it seems")
    assert load(path) is None


def test_a_python_without_ctypes_does_without_it() -> None:
    code = "import sys; sys.modules['ctypes'] = None; import sipdump_parquet.native as n; print(n.best_puller({}, ()))"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=os.environ | {"SIPDUMP_PURE": ""}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<sipdump_parquet.fields.Puller object")


@pytest.mark.parametrize("compiler", ["/nonexistent", "false"])
def test_without_a_compiler_the_reason_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert compiler in build(tmp_path / "fields.so")
    assert list(tmp_path.iterdir()) == []


def test_the_start_says_what_pulls_the_fields(
    used: ctypes.CDLL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    started(tmp_path)
    assert "fields=native" in caplog.text


def test_the_start_says_that_it_is_python(unused: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    started(tmp_path)
    assert "fields=python" in caplog.text


def started(folder: Path) -> None:
    backend = make(folder)
    backend.start()
    backend.stop()


# how it gets there


def built(target: Path, source: Path, what: str, **environment: str) -> Path:
    """Build a distribution, and return its file."""
    command = [sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("sdist"), ROOT, "sdist")


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    """The sources that a build needs."""
    with tarfile.open(sdist) as archive:
        wanted = [each for each in archive.getmembers() if not re.match(r"[^/]+/(tests|bench|examples)/", each.name)]
        archive.extractall(tmp_path / "unpacked", wanted, filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    return folder


def test_the_sources_are_in_the_sdist_and_nothing_built(unpacked: Path) -> None:
    assert (unpacked / "hatch_build.py").is_file()
    folder = unpacked / "backends/parquet/sipdump_speedups"
    assert {path.name for path in folder.iterdir()} == {"__init__.py", "build.py", "fields.c", "py.typed"}


def test_with_a_compiler_the_wheel_is_of_this_platform(speedups: ctypes.CDLL, unpacked: Path, tmp_path: Path) -> None:
    wheel = built(tmp_path / "wheel", unpacked, "wheel", SIPDUMP_PURE="")
    assert wheel.name.partition("-py3-none-")[2] not in ("", "any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract("sipdump_speedups/fields.so", tmp_path)
        text = archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))).decode()
    assert load(tmp_path / "sipdump_speedups" / LIBRARY.name)
    assert "Root-Is-Purelib: false" in text
    assert not (unpacked / "backends/parquet/sipdump_speedups/fields.so").exists()


def test_an_editable_installation_has_it_in_the_tree(speedups: ctypes.CDLL, unpacked: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-c", "import sys, hatchling.build as b; b.build_editable(sys.argv[1])", str(tmp_path)]
    subprocess.run(run, cwd=unpacked, env=os.environ | {"SIPDUMP_PURE": ""}, check=True, capture_output=True)
    assert load(unpacked / "backends/parquet/sipdump_speedups/fields.so")
    wheel = built(tmp_path / "wheel", unpacked, "wheel", CC="/nonexistent")  # and what was built so gets into no wheel
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


@pytest.mark.parametrize("variable", [("CC", "/nonexistent"), ("SIPDUMP_PURE", "1")])
def test_without_a_compiler_the_wheel_is_of_python_alone(
    unpacked: Path, tmp_path: Path, variable: tuple[str, str]
) -> None:
    wheel = built(tmp_path / "wheel", unpacked, "wheel", **dict([variable]))
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("sipdump_speedups/")]
        archive.extractall(tmp_path / "installed")
    assert set(names) == {f"sipdump_speedups/{name}" for name in ("__init__.py", "build.py", "fields.c", "py.typed")}
    run = [sys.executable, "-c", "import sipdump_speedups as s; print(s.__file__, s.library())"]
    done = subprocess.run(
        run, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/installed/sipdump_speedups/__init__.py None\n"


def test_names_are_packed_in_the_order_of_c() -> None:
    (fields,) = (line for line in SOURCE.read_text().splitlines() if line.endswith("AGENT, FIELDS };"))
    assert fields.count(",") == len(NATIVE_FIELDS)
    assert packed_names(Puller()).count(b"\7\0call-id") == 1
