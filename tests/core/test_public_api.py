"""The public interface: its names and signatures are pinned here, and documented."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import sipdump_core
import sipdump_core.testing

DOCS = Path(__file__).parents[2] / "docs"

# A name less, or another signature, breaks what others have written: that takes a new API_VERSION.
NAMES = {
    "API_VERSION", "Backend", "Batch", "ClosedError", "Config", "ConfigError", "DROP", "DriverError", "Filter", "Flow",
    "FolderBackend", "FormatError", "Given", "NoOptions", "PartialWriteError", "Query", "Record", "RecordError",
    "RouteBlock", "Segment", "SegmentExistsError", "SegmentLostError", "SipDump", "SipDumpError", "Site",
    "SpoolOptions", "Stats",
    "StorageError", "StorageFullError", "Store",
    "StoredSegment", "Transform", "__version__", "at_least", "in_range", "one_of", "option", "read_config",
    "tap_datagram", "tap_streams",
}  # fmt: skip
TESTING = {"Contract", "FaultProxy", "FilterContract", "does_not_apply", "not_checked", "promise", "record"}
METHODS = {
    "Backend": {
        "__init__": "(self, options, site)",
        "bufs": "(self, batch)",
        "check": "(self)",
        "close": "(self)",
        "delete": "(self, stored)",
        "delete_many": "(self, chunk)",
        "flush": "(self)",
        "forget": "(self)",
        "has_lifecycle": "(cls)",
        "health": "(self)",
        "open": "(self, segment)",
        "read": "(self, stored)",
        "record_size": "(self, record)",
        "segments": "(self)",
        "start": "(self)",
        "stats": "(self)",
        "stop": "(self)",
        "write": "(self, batch)",
    },
    "FolderBackend": {
        "check": "(self)",
        "close": "(self)",
        "count_records": "(self, file)",
        "decode": "(self, file)",
        "delete": "(self, stored)",
        "encode": "(self, batch)",
        "forget": "(self)",
        "health": "(self)",
        "merge": "(self, paths, target)",
        "open": "(self, segment)",
        "preamble": "(self)",
        "read": "(self, stored)",
        "rewrite": "(self, stored, change)",
        "rewrite_file": "(self, file, draft, change)",
        "segments": "(self)",
        "write": "(self, batch)",
    },
    "Filter": {"__init__": "(self, options)", "apply": "(self, records)", "stats": "(self)"},
    "Transform": {"__init__": "(self, options)", "apply": "(self, batch, bufs)"},
    "StorageError": {
        "__init__": "(self, operation, target, reason, hint='')",
        "from_os": "(operation, target, error)",
    },
    "SegmentLostError": {"__init__": "(self, operation, target, reason, records, hint='')"},
    "PartialWriteError": {"__init__": "(self, operation, target, reason, failed, hint='')"},
    "RecordError": {"__init__": "(self, operation, target, reason, refused, hint='', *, others_stored=False)"},
    "Batch": {"part": "(self, places)"},
}
ATTRIBUTES = {
    "Backend": {
        "api": 1, "batch_records": 0, "batch_seconds": 0.0, "flag": 0, "forgeable": False, "longest": 0, "loses": (),
        "name": "", "options": sipdump_core.NoOptions, "remote": False, "requires": (), "stop_seconds": 5.0,
        "suffix": "", "transformed": False,
    },
    "Filter": {
        "api": 1, "before_route": True, "flag": 0, "name": "", "options": sipdump_core.NoOptions, "prompt": False,
        "seconds": 5.0,
    },
    "Transform": {"api": 1, "flag": 0, "name": "", "options": sipdump_core.NoOptions},
}  # fmt: skip
FIELDS = {
    "Site": ["folder", "prefix", "file_mode", "meta", "transforms", "rotate", "distribution", "make", "sync", "node"],
    "StoredSegment": ["segment", "size", "modified", "sealed", "records", "location", "pending"],
    "Segment": ["prefix", "stamp", "sequence", "suffix"],
    "Flow": ["tag", "pid", "procno", "proto", "af", "src_ip", "src_port", "dst_ip", "dst_port", "node"],
    "Record": ["time_us", "flow", "buf"],
    "SpoolOptions": ["spool", "spool_max_bytes"],
    "Given": ["value", "setting"],
}


STORE = {
    "open": "(cls, *, configs=(), defines=(), folders=(), fprefix=None, files=(), urls=(), rules=None)",
    "find": "(self, query, searched=None, *, around=600.0, legs=True, with_legs=False, most=0)",
    "call": "(self, call_id, searched=None, *, legs=True)",
    "records": "(self, query, searched=None)",
}
QUERY = {
    "since_us", "until_us", "call_ids", "users", "from_users", "to_users", "endpoints", "methods", "statuses", "agents",
    "nodes", "tags", "protos", "greps", "correlations", "states", "kinds",
}  # fmt: skip


def signature(function: Any) -> str:
    plain = inspect.signature(function)
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in plain.parameters.values()]
    return str(plain.replace(parameters=parameters, return_annotation=plain.empty))


def own(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if not name.startswith("_") or name == "__init__":
            yield name, getattr(value, "__func__", value)  # of a class method or static method


def test_the_names_are_these() -> None:
    assert set(sipdump_core.__all__) == NAMES
    assert set(sipdump_core.testing.__all__) == TESTING
    assert all(getattr(sipdump_core, name) is not None for name in NAMES)
    assert all(getattr(sipdump_core.testing, name) is not None for name in TESTING)
    assert sipdump_core.API_VERSION == 2


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_have_these_signatures(name: str) -> None:
    found = {name: signature(value) for name, value in own(getattr(sipdump_core, name)) if inspect.isfunction(value)}
    assert found == METHODS[name]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_attributes_have_these_defaults(name: str) -> None:
    found = {name: value for name, value in own(getattr(sipdump_core, name)) if not inspect.isfunction(value)}
    assert found == ATTRIBUTES[name]


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_are_these_and_new_ones_have_a_default(name: str) -> None:
    fields = attrs.fields(getattr(sipdump_core, name))
    assert [field.name for field in fields][: len(FIELDS[name])] == FIELDS[name]
    assert all(field.default is not attrs.NOTHING for field in fields[len(FIELDS[name]) :])


def test_a_store_is_asked_by_these_methods() -> None:
    methods = dict(own(sipdump_core.Store))
    assert {name: signature(methods[name]) for name in STORE} == STORE
    assert lacking(set(STORE), r"`(Store\.)?NAME\(", "python.md") == set()
    opening = set(inspect.signature(sipdump_core.Store.open).parameters)
    assert lacking({*opening, "searched"}, r"`NAME`", "python.md") == set()


def test_a_question_has_these_fields_by_name() -> None:
    fields = attrs.fields(sipdump_core.Query)
    assert {field.name for field in fields} == QUERY
    assert all(field.kw_only and field.default is not attrs.NOTHING for field in fields)
    assert lacking(QUERY, r"`NAME`", "python.md") == set()


def test_the_helpers_have_these_signatures() -> None:
    assert signature(sipdump_core.option) == "(default, *, help, unit='', check=None, parse=None, secret=False)"
    assert signature(sipdump_core.at_least) == "(low)"
    assert signature(sipdump_core.in_range) == "(low, high)"
    assert signature(sipdump_core.one_of) == "(*allowed)"


def lacking(names: set[str], form: str, *pages: str) -> set[str]:
    """Return the names that these pages have nowhere in this form."""
    text = "\n".join((DOCS / page).read_text() for page in pages)
    return {name for name in names if not re.search(form.replace("NAME", name), text, re.MULTILINE)}


def test_every_public_name_is_documented() -> None:
    assert (
        lacking(NAMES, r"`NAME[`(.]|^from sipdump_core import.*\bNAME\b|\bNAME\(", "backends.md", "python.md") == set()
    )
    assert lacking(TESTING, r"`NAME[`(]", "backends.md", "contract.md") == set()


@pytest.mark.parametrize("name", sorted({*METHODS, *FIELDS, *ATTRIBUTES}))
def test_every_method_attribute_and_field_is_documented(name: str) -> None:
    cls = getattr(sipdump_core, name)
    members = {name: value for name, value in own(cls) if name != "__init__"}
    methods = {name for name, value in members.items() if inspect.isfunction(value)}
    values = {name for name in members if name not in methods}
    values |= {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
    assert lacking(methods, r"`(\w+\.)?NAME\(", "backends.md", "python.md") == set()
    assert lacking(values, r"`NAME`", "backends.md", "python.md") == set()


def test_every_argument_of_option_is_documented() -> None:
    arguments = set(inspect.signature(sipdump_core.option).parameters)
    assert lacking(arguments, r"^\| `NAME` \|", "backends.md") == set()
