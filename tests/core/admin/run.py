"""Runs sipdump-admin in this process."""

import pytest

from sipdump_core.admin import command


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = command.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err
