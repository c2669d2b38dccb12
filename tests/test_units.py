"""The examples that prune from outside: systemd and cron."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _prune_command(line: str, tmp_path: Path) -> None:
    """Run a command line of an example, with this test's folder and this installation's command."""
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(f'modparam("sipdump", "folder", "{tmp_path}")\n')
    old, young = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data", tmp_path / "other.data"
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    script = Path(sys.executable).with_name("sipdump-admin")
    command = shlex.join([str(script)] if script.exists() else [sys.executable, "-m", "sipdump_core.admin"])
    assert "/usr/local/bin/sipdump-admin" in line
    assert "/etc/sipdump/sipdumpd.cfg" in line
    line = line.replace("/usr/local/bin/sipdump-admin", command).replace("/etc/sipdump/sipdumpd.cfg", str(config))
    subprocess.run(["/bin/sh", "-c", line], check=True, timeout=60)
    assert not old.exists()
    assert young.exists()


def _unit(name: str) -> dict[str, str]:
    lines = (ROOT / "examples" / "systemd" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_systemd_timer_prunes(tmp_path: Path) -> None:
    timer, service = _unit("sipdump-prune.timer"), _unit("sipdump-prune.service")
    assert timer["WantedBy"] == "timers.target"
    assert timer["OnCalendar"]
    assert service["Type"] == "oneshot"
    daemon = _unit("sipdumpd.service")
    assert (service["User"], service["Group"]) == (daemon["User"], daemon["Group"])
    _prune_command(service["ExecStart"], tmp_path)


def test_the_cron_line_prunes(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "cron" / "sipdump-prune").read_text()
    (line,) = [line for line in text.splitlines() if line and line[0] in "*0123456789"]
    *when, user, command = line.split(None, 6)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in when)
    assert len(when) == 5
    assert user == "sipdump"
    assert "%" not in command
    assert text.endswith("\n")
    _prune_command(command, tmp_path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("sipdump-prune.service", "sipdump-prune.timer"):
        text = (ROOT / "examples" / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/sipdump-admin", "/bin/true"))  # it must exist
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "sipdump-prune.service", tmp_path / "sipdump-prune.timer"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
