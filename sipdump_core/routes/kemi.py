"""KEMI: event callbacks in Python and Lua scripts that were written for Kamailio."""

from collections.abc import Sequence

from sipdump_core.routes.event_route import Route, locate
from sipdump_core.routes.kemi_lua import LuaScripts
from sipdump_core.routes.kemi_python import load_python
from sipdump_core.routes.ksr import Handler, Kemi
from sipdump_core.settings.options import Setting

__all__ = ["load_kemi"]


def load_kemi(loads: Sequence[Setting], function: Setting, *, parse_call_id: bool) -> Route:
    """Load scripts, and return the route that runs the function of that name in them.

    Args:
        loads: the scripts, each a file beside the configuration that names it; where several have the function, the
            last one's runs.
        function: the name, and where it was said.
        parse_call_id: whether ``$sipdump(call_id)`` has a value.

    Returns:
        A route. Its callback may be called from several threads; the scripts run one call at a time, as
        in a process of Kamailio.

    Raises:
        ConfigError: a script is missing or does not load, none has the function, or lupa is missing.
    """
    kemi = Kemi(parse_call_id)
    name = str(function.value)
    found: Handler | None = None
    lua: LuaScripts | None = None
    for load in loads:
        path = locate(str(load.value), load)
        if not path.is_file():
            raise load.error(f"no such file: {path}")
        if path.suffix == ".py":
            found = load_python(kemi, path, load, name) or found
            continue
        if lua is None:
            lua = LuaScripts(kemi, load)
        lua.load(path, load)
        found = lua.callback(name) or found
    if found is None:
        scripts = ", ".join(str(load.value) for load in loads)
        raise function.error(f"no such function in {scripts}")
    handler = found
    return lambda send: lambda record: handler(record, send)
