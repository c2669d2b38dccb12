"""The options of KEMI scripts, apart from them so that checking a configuration runs no script."""

import attrs

from sipdump_core.settings.options import option

__all__ = ["KemiOptions"]


def _script(value: str) -> str | None:
    return None if value.endswith((".py", ".lua")) else 'must be a script whose name ends in ".py" or ".lua"'


@attrs.frozen
class KemiOptions:
    """Options of KEMI scripts: ``modparam("sipdump_kemi", ...)``."""

    load: tuple[str, ...] = option(
        (),
        help="a script in Python (.py) or Lua (.lua) that has the function named by event_callback",
        check=_script,
    )
