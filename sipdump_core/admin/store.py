"""What the commands of upkeep work on: the backends that a command line and a configuration name."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sipdump_core.admin.output import Output
from sipdump_core.config.reader import override, read_config
from sipdump_core.drivers.capabilities import Ability, can
from sipdump_core.errors import SipDumpError
from sipdump_core.plan import make_plan
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["Store"]

A = TypeVar("A", bound=Ability)


class Store:
    """The backends whose segments are to be listed, pruned and so on.

    Args:
        args: of :func:`~sipdump_core.admin.arguments.add_store`.
        output: gets an error for each backend that cannot be made.

    Raises:
        ConfigError: the configuration is wrong, or a switched-on backend cannot be used.
    """

    def __init__(self, args: argparse.Namespace, output: Output) -> None:
        given = [
            Setting(CORE, name, value, f"--{name}")
            for name, value in (("folder", args.folder), ("fprefix", args.fprefix))
            if value is not None
        ]
        settings = read_config(args.config, args.defines).settings if args.config else []
        plan = make_plan(override(settings, given), to_start=False)
        self.params = plan.params
        self.backends, errors = Workshop(plan).keepers()
        for error in errors:
            output.error(error)

    def able(self, ability: type[A]) -> list[A]:
        """Return the backends that have an ability."""
        return [backend for backend in self.backends if can(backend, ability)]

    @staticmethod
    @contextmanager
    def guarded(backend: Ability, failed: Callable[[object], None]) -> Iterator[None]:
        """Report what one backend raises, so that the others have their turn."""
        try:
            yield
        except ImportError as error:
            failed(f"{backend.name}: {error}; install it with: pip install 'sipdump[{backend.name}]'")
        except SipDumpError as error:
            failed(f"{backend.name}: {error}")
