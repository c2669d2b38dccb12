"""Runs sipdump-read in this process."""

import json
from typing import Any

import pytest

from sipdump_core.reading.command import main


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    try:
        code = main([str(arg) for arg in args])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def found(capsys: pytest.CaptureFixture[str], *args: object) -> list[str]:
    """Return the Call-IDs that ``find`` lists."""
    code, out, err = run(capsys, "find", *args, "--json")
    calls: list[dict[str, Any]] = json.loads(out)
    assert code == (0 if calls else 1), err
    return [call["call_id"] for call in calls]
