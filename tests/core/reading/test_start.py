"""``sipdump-read`` starts fast: it loads nothing that it does not need."""

import subprocess
import sys

import pytest

from sipdump_core.reading.command import COMMANDS

SLOW = {"asyncio", "boto3", "duckdb", "lark", "pyarrow", "tqdm"}
STORES = {"stevedore", "sipdump_core.plan", "sipdump_core.reading.store", "sipdump_text", "sipdump_parquet"}


def loaded(*arguments: str) -> set[str]:
    """Return the modules that a command loads."""
    script = (
        "import sys\nfrom sipdump_core.reading.command import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, sep=chr(10), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage: sipdump-read" in done.stdout
    return set(done.stderr.split())


def test_the_list_of_commands_loads_next_to_nothing() -> None:
    assert loaded("--help") & {*SLOW, *STORES, "attrs", "sipdump_core.reading.find"} == set()


def test_help_of_find_loads_nothing_that_reads_a_store() -> None:
    assert loaded("find", "--help") & {*SLOW, *STORES} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_slow(command: str) -> None:
    assert loaded(command, "--help") & SLOW == set()
