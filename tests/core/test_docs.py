"""The documentation names what there is."""

import re
from pathlib import Path

import attrs
import pytest

import sipdump_core
from bench import scale
from sipdump_core.config.reader import read_config
from sipdump_core.plan import make_plan
from sipdump_core.settings.core import Params
from sipdump_core.settings.modules import MODULES
from sipdump_core.settings.options import Setting
from sipdump_parquet.options import ParquetOptions
from sipdump_redact import RedactOptions
from sipdump_s3 import S3Options
from tests.core.test_rooms import ORDER

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TABLE = re.compile(r"^\| `(\w+)` \| (int|str)[^|]* \|([^|]*)\|", re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "cls"),
    [
        ("sipdump", Params),
        *MODULES.items(),
        ("sipdump_s3", S3Options),
        ("sipdump_parquet", ParquetOptions),
        ("sipdump_redact", RedactOptions),
    ],
)
def test_every_parameter_is_documented_with_its_default(module: str, cls: type) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    section = text.partition(f"\n## `{module}`\n")[2].partition("\n## ")[0]
    documented = {name: (kind, default.strip()) for name, kind, default in TABLE.findall(section)}
    for field in attrs.fields(cls):
        kind, default = documented[field.name]
        if kind == "int":
            assert int(default, 8 if default.startswith("0") else 10) == field.default
        else:
            assert default.strip('"') == ("".join(field.default))
    assert documented.keys() == {field.name for field in attrs.fields(cls)}


def test_the_example_configuration_is_good(tmp_path: Path) -> None:
    settings = read_config(ROOT / "examples" / "sipdumpd.cfg").settings
    shown = {(s.module, s.name): s.value for s in settings}
    assert shown["sipdump", "mode"] == 13
    plan = make_plan([*settings, Setting("sipdump", "folder", str(tmp_path))])
    assert plan.params.retention == 172800


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_document_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in DOCS if f"docs/{path.name}" not in readme] == []


def test_the_index_lists_every_page_once_in_its_four_groups() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    groups = ["Tutorial", "How-to", "Reference", "Explanation"]
    assert re.findall(r"^## (.*)$", index, re.MULTILINE) == groups
    listed = re.findall(r"^- \[(\S+)\]\(\1\): \S", index, re.MULTILINE)
    assert sorted(listed) == [path.name for path in DOCS if path.name != "README.md"]


def test_the_picture_of_the_house_has_every_room_in_order() -> None:
    section = (ROOT / "docs" / "architecture.md").read_text().partition("\n## The rooms\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!room|-)(.*?) \| (.*) \|$", section, re.MULTILINE)
    *rooms, ground = [re.findall(r"`(\w+)`", what if name == "ground" else name) for name, what in rows]
    assert [room for row in rooms for room in row] == [room for line in ORDER[:-1] for room in line]
    assert tuple(ground) == ORDER[-1]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS], ids=lambda path: path.name)
def test_prose_is_no_wider_than_120_columns(path: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    wide = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "    "))]
    assert wide == []


def test_public_names_are_there() -> None:
    for name in sipdump_core.__all__:
        assert getattr(sipdump_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = sipdump_core.nosuch


@pytest.mark.parametrize("table", [scale.by_collectors(scale.Inputs()), scale.by_rotation(scale.Inputs(), 1000)])
def test_the_sums_of_the_scale_document_are_those_of_its_inputs(table: list[str]) -> None:
    assert "\n".join(table) in (ROOT / "docs" / "scale.md").read_text()
