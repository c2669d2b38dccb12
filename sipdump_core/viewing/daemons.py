"""Daemons: what those say of their backends whose configurations were named, where they run."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sipdump_core.config.reader import read_config
from sipdump_core.control.binrpc import call
from sipdump_core.control.client import control_socket
from sipdump_core.errors import RpcError, SipDumpError
from sipdump_core.settings.modules import CORE, MODULES, resolve

__all__ = ["Daemon", "Lane", "ask", "daemons"]

_PATIENCE = 0.9
"""Seconds that all daemons together may take to answer."""
_LEAST = 0.05


@attrs.frozen
class Daemon:
    """A daemon that can be asked."""

    config: str
    """Its configuration."""
    socket: str
    """The address of its control socket."""


@attrs.frozen
class Lane:
    """What a daemon says of one of its backends."""

    config: str
    backend: str
    state: str
    since: str
    """Since when, as the daemon has it."""
    error: str
    stored: int
    """Records that it has stored since its start."""
    backlog: int
    """Records that wait."""
    refused: int
    dropped: int


def daemons(configs: Sequence[str], defines: Sequence[str]) -> list[Daemon]:
    """Return the daemons of some configurations; those that name no control socket cannot be asked, and are left out.

    Raises:
        ConfigError: a configuration is wrong.
    """
    found = []
    for config in configs:
        socket = control_socket(resolve(read_config(config, defines).settings, [CORE, *MODULES]))
        if socket:
            found.append(Daemon(config, socket))
    return found


def ask(known: Sequence[Daemon], patience: float = _PATIENCE) -> tuple[list[Lane], list[str]]:
    """Ask daemons for the states of their backends.

    Args:
        known: who is asked.
        patience: seconds that it may take; who has not answered by then is left out.

    Returns:
        A lane for each backend, and for each daemon that did not answer why. One that does not run is no news.
    """
    end = time.monotonic() + patience
    lanes: list[Lane] = []
    problems = []
    for daemon in known:
        try:
            # connecting and waiting for the answer may take as long each
            (stats,) = call(daemon.socket, "sipdump.stats", timeout=round(max((end - time.monotonic()) / 2, _LEAST), 2))
            lanes += _lanes(daemon, stats)
        except RpcError as error:
            if not isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                problems.append(f"{daemon.config}: {error}")
        except (SipDumpError, ValueError, TypeError, KeyError, AttributeError):
            problems.append(f"{daemon.config}: what answers at {daemon.socket} is no sipdumpd")
    return lanes, problems


def _lanes(daemon: Daemon, stats: Any) -> list[Lane]:
    backends: Mapping[str, Mapping[str, Any]] = stats["backends"]
    return [
        Lane(
            config=daemon.config,
            backend=name,
            state=str(lane["state"]),
            since=str(lane["since"]),
            error=str(lane["error"]),
            stored=int(lane["stored"]),
            backlog=int(lane["backlog"]),
            refused=int(lane["refused"]),
            dropped=int(lane["dropped"]),
        )
        for name, lane in backends.items()
    ]
