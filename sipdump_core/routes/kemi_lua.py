"""KEMI scripts in Lua, run by lupa. Importing this module imports no lupa."""

import logging
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from sipdump_core.record import Record
from sipdump_core.routes import ksr
from sipdump_core.settings.options import Setting

__all__ = ["LuaScripts"]

_EXIT: Final = "~~ksr~exit~~"
"""The error that ends a callback, under Kamailio's name for it: a script that catches it may look at it."""

_TRACEBACK: Final = "\nstack traceback:"

# The table KSR, of functions in Lua around those of Python, so that type() says "function" of them and arguments are
# read as by Kamailio's app_lua 5.6.3: a number is a string where one is wanted, too few arguments are logged and give
# false, extra ones are ignored. A script's way out of the process ends its callback instead.
_PRELUDE: Final = b"""
local py = ...
local type, tostring, tonumber, select, error = type, tostring, tonumber, select, error

local function leave() error("~~ksr~exit~~", 0) end
local function str(value)
    if type(value) == "string" then return value end
    if type(value) == "number" then return tostring(value) end
end
local function with(count, name, func)
    return function(...)
        if select("#", ...) < count then
            py.log("err", "not enough parameters for: " .. name)
            return false
        end
        return func(...)
    end
end
local function logger(level)
    return with(1, level, function(text) py.log(level, str(text)) return false end)
end
local function get_or(name, default)
    local value = py.pv(str(name))
    if value == nil then return default end
    return value
end

KSR = {
    log = with(2, "log", function(level, text) py.log(str(level), str(text)) return false end),
    set_drop = function() py.set_drop() return false end,
    x = {
        exit = leave,
        drop = function() py.set_drop() leave() end,
    },
    pv = {
        get = with(1, "pv.get", function(name) return py.pv(str(name)) end),
        gete = with(1, "pv.gete", function(name) return get_or(name, "") end),
        getw = with(1, "pv.getw", function(name) return get_or(name, "<null>") end),
        getvs = with(2, "pv.getvs", function(name, default) return get_or(name, str(default)) end),
        getvn = with(2, "pv.getvn", function(name, default)
            local number = tonumber(default) or 0
            return get_or(name, number - math.fmod(number, 1))
        end),
        geti = with(1, "pv.geti", function(name) return py.geti(str(name)) end),
        is_null = with(1, "pv.is_null", function(name) return py.pv(str(name)) == nil end),
    },
    sipdump = {
        get_buf = py.get_buf,
        get_tag = py.get_tag,
        get_src_ip = py.get_src_ip,
        get_dst_ip = py.get_dst_ip,
        send = with(1, "sipdump.send", function(tag)
            local failure = py.send(str(tag))
            if failure then error("KSR.sipdump.send: " .. failure, 2) end
            return 1
        end),
    },
}
for _, level in ipairs{"dbg", "info", "notice", "warn", "err", "crit", "alert"} do KSR[level] = logger(level) end
for name, func in pairs(KSR.sipdump) do
    if name ~= "send" then KSR.sipdump[name] = function() return func() end end
end
os.exit = leave
python = nil
package.loaded.python = nil
"""


class LuaScripts:
    """One Lua, as app_lua has one for all its scripts: what a later script defines replaces what an earlier one did.

    Args:
        host: runs callbacks and knows the record at hand.
        setting: the first script's, for errors.

    Raises:
        ConfigError: lupa is not installed.
    """

    def __init__(self, host: ksr.Kemi, setting: Setting) -> None:
        try:
            self._lupa: Any = import_module("lupa.lua51")  # the Lua that Kamailio's packages are built with
        except ImportError as error:
            raise setting.error(f'Lua scripts need lupa: pip install "sipdump[lua]" ({error})') from error
        self._host = host
        # no encoding: strings of Lua are bytes
        lua = self._lupa.LuaRuntime(
            encoding=None, unpack_returned_tuples=True, register_eval=False, register_builtins=False
        )
        self._globals = lua.globals()
        self._globals[b"loadstring"](_PRELUDE, b"=KSR")(lua.table_from(_FUNCTIONS))

    def load(self, path: Path, setting: Setting) -> None:
        """Run a script's main chunk.

        Raises:
            ConfigError: a syntax error, or the script raised.
        """
        loaded = self._globals[b"loadfile"](bytes(path))
        if isinstance(loaded, tuple):
            raise setting.error(f"cannot load it: {_text(loaded[1])}")
        try:
            loaded()
        except self._lupa.LuaError as error:
            message = _message(error)
            raise setting.error(f"cannot load it: {'it calls exit' if message == _EXIT else message}") from error

    def callback(self, name: str) -> ksr.Handler | None:
        """Return the handler that runs the global function of this name, or None where there is none now."""
        function = self._globals[name.encode()]
        if function is None or self._lupa.lua_type(function) != "function":
            return None

        def run() -> None:
            try:
                function(ksr.EVENT.encode())
            except self._lupa.LuaError as error:
                message = _message(error)
                if message == _EXIT:
                    return
                if not message:
                    raise self._lupa.LuaError(f"{name} raised an error that is no string") from None
                raise

        return lambda record, send: self._host.run(record, send, run)


def _message(error: Exception) -> str:
    return str(error).split(_TRACEBACK, 1)[0]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


# lupa leaves out a nil at the end of the arguments, hence the defaults


def _log(level: bytes | None = None, text: bytes | None = None) -> None:
    if text is not None:
        name = _text(level or b"").lower()
        ksr.log_line(_LEVELS.get(name, logging.ERROR), _text(text))


def _pv(name: bytes | None = None) -> int | bytes | None:
    return ksr.get_pv(_text(name or b""))


def _geti(name: bytes | None = None) -> int:
    return ksr.get_int(_text(name or b""))


def _send(tag: bytes | None = None) -> bytes | None:
    """Return None, or why it failed: an error of Lua then names the script's line."""
    try:
        ksr.send(_text(tag or b""))
    except Exception as error:  # noqa: BLE001 - the script gets it
        return str(error).encode()
    return None


def _field(name: str) -> Any:
    def get() -> bytes | None:
        record: Record | None = ksr.current_record()
        value = getattr(record, name, None)
        return value.encode() if isinstance(value, str) else value

    return get


_LEVELS: Final = {**ksr.LEVELS, "alert": logging.CRITICAL}
_FUNCTIONS: Final = {
    b"log": _log,
    b"pv": _pv,
    b"geti": _geti,
    b"set_drop": ksr.set_drop,
    b"send": _send,
    **{f"get_{name}".encode(): _field(name) for name in ("buf", "tag", "src_ip", "dst_ip")},
}
