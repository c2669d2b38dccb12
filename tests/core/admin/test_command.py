"""sipdump-admin's command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from sipdump_core.admin import command


@pytest.mark.parametrize("args", [[], ["nosuch"], ["prune", "--fage", "x"], ["prune", "--fage", "1", "--fagex", "2d"]])
def test_a_wrong_command_line(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(args)
    assert caught.value.code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sipdump_core.admin import command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'attrs', 'attr', 'stevedore', 'lark', 'asyncio', 'pyarrow', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prune" in done.stdout


def test_the_core_loads_no_backend_pyarrow_or_boto3() -> None:
    code = (
        "import sys, sipdump_core\n"
        "for name in sipdump_core.__all__: getattr(sipdump_core, name)\n"
        "import sipdump_core.daemon, sipdump_core.admin.command\n"
        "heavy = {'pyarrow', 'boto3', 'sipdump_text', 'sipdump_pcap'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m sipdump_core.admin list --folder {folder} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
