"""Libraries that only some commands need, and that need not be installed."""

from collections.abc import Sequence
from importlib.util import find_spec

from sipdump_core.errors import ConfigError

__all__ = ["need"]


def need(command: str, extra: str, modules: Sequence[str]) -> None:
    """See to it that what a command needs is installed.

    Args:
        command: its name.
        extra: the extra of the distribution that has it.
        modules: the modules that it imports.

    Raises:
        ConfigError: one is missing; the message says what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names = f"{', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ConfigError(f"{command} needs {names}: pip install 'sipdump[{extra}]'")
