"""What a driver declares is read from its source; nothing of it runs."""

import sys
from pathlib import Path

import pytest

from sipdump_core.drivers.declared import Declared, declared

HEAD = "from sipdump_core import Backend, Filter, FolderBackend, Transform\nraise RuntimeError('it was run')\n"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("class B(Backend):\n flag = 256\n suffix = '.b'", Declared(256, ".b", False, "backend")),
        ("class B(Backend):\n flag: int = 0x200", Declared(512, "", False, "backend")),
        ("class B(FolderBackend):\n flag = 1 << 10\n suffix = '.b'", Declared(1024, ".b", False, "backend")),
        ("FLAG = 2 ** 9\nclass B(Backend):\n flag = FLAG\n transformed = True", Declared(512, "", True, "backend")),
        ("class B(Backend): pass", Declared(0, "", False, "backend")),
        ("class B(Transform):\n flag = 256", Declared(256, "", False, "transform")),
        ("class B(Filter):\n flag = 256", Declared(256, "", False, "filter")),
        ("class A(Filter): pass\nclass B(A): pass", Declared(0, "", False, "filter")),
        ("class A(Backend):\n flag = 8; suffix = '.a'\nclass B(A): suffix = '.b'", Declared(8, ".b", False, "backend")),
        ("class Mixin(Backend): pass\nclass B(Mixin, Transform): pass", Declared(0, "", False, "transform")),
        ("class C(Backend):\n flag = 256\nB = C", Declared()),
        ("class B(Backend):\n flag = 256\nB.flag = 512", Declared(None, "", False, "backend")),
        ("class B(Backend):\n suffix = '.b'\n def go(self): self.suffix = 'c'", Declared(0, None, False, "backend")),
        ("class B(Backend):\n flag = int('256')", Declared(None, "", False, "backend")),
        ("class B(Backend):\n flag = 'x'\n suffix = 5", Declared(None, None, False, "backend")),
        ("class B(Backend):\n if True:\n  flag = 256", Declared(None, "", False, "backend")),
        ("class B(made()):\n flag = 256", Declared(256, None, None, None)),
        ("class B(Nowhere):\n flag = 256", Declared(256, None, None, None)),
        ("class B(B):\n flag = 256", Declared(256, None, None, None)),
        ("X = Y\nY = X\nclass B(Backend):\n flag = X", Declared(None, "", False, "backend")),
        ("class B:\n flag = 256", Declared()),
        ("class Other(Backend): pass", Declared()),
        ("class B(Backend:", Declared()),
        ("\0", Declared()),
        ("from sipdump_nosuch import B", Declared()),
    ],
)  # fmt: skip
def test_what_is_declared_is_known_without_an_import(path: Path, code: str, known: Declared) -> None:
    (path / "sipdump_declaring.py").write_text(HEAD + code)
    assert declared("sipdump_declaring", "B") == known
    assert "sipdump_declaring" not in sys.modules


@pytest.mark.parametrize(
    ("code", "may_filter"),
    [
        ("from sipdump_core import Filter\nclass B(Filter): pass", True),
        ("from sipdump_core import Backend\nclass B(Backend): pass  # no Filter", False),
        ("import nosuchmodule", False),
        ("import sipdump_core\nB = type('B', (sipdump_core.Filter,), {})", True),
        ("class B(", False),
        ("from sipdump_core import Filter\nclass B(", True),
    ],
)
def test_what_may_be_a_filter_is_known_where_the_class_is_not(path: Path, code: str, may_filter: bool) -> None:
    (path / "sipdump_filtering.py").write_text(code)
    assert declared("sipdump_filtering", "B").may_filter is may_filter
    assert declared("sipdump_gone", "B").may_filter


def test_a_class_is_followed_to_where_it_is_written(path: Path) -> None:
    package = path / "sipdump_followed"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError\nfrom .inner.store import Store as B\n")
    (package / "inner").mkdir()
    (package / "inner" / "__init__.py").write_text("raise RuntimeError\n")
    (package / "inner" / "store.py").write_text("from ..base import Base\nclass Store(Base):\n    flag = 256\n")
    (package / "base.py").write_text("from sipdump_text import TextBackend\nclass Base(TextBackend): pass\n")
    assert declared("sipdump_followed", "B") == Declared(256, ".data", False, "backend")
    assert not [name for name in sys.modules if name.startswith("sipdump_followed")]


def test_a_source_that_was_changed_is_read_again(path: Path) -> None:
    for flag in (256, 1024):
        (path / "sipdump_changing.py").write_text(f"{HEAD}class B(Backend):\n    flag = {flag}\n")
        assert declared("sipdump_changing", "B").flag == flag


def test_what_is_no_source_is_not_known() -> None:
    assert declared("math", "B") == declared("nosuchmodule.nosuch", "B") == Declared()
