"""The backend that ``pytest --sipdump-backend=NAME`` names, with the options of the command line."""

import re
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Filter
from sipdump_core.drivers.discovery import load, take_stock
from sipdump_core.errors import SipDumpError
from sipdump_core.settings.options import Setting, build, describe
from sipdump_core.testing.proxy import FaultProxy

__all__ = ["Chosen", "choose"]

_ADDRESS = re.compile(r"(?P<before>(?:.*@|.*//|))(?P<host>[^:/@]+|\[[^\]]+\]):(?P<port>\d{1,5})(?P<after>(?:/.*)?)")
"""``host:port``, or a URL that has that in it."""


@attrs.frozen
class Chosen:
    """The class of a backend or a filter, and its options as they were given."""

    cls: type[Backend] | type[Filter]
    options: Any
    settings: Sequence[Setting]
    proxied: str = ""
    """The option that has the address of its store; empty: no proxy is wanted."""

    @property
    def stores(self) -> bool:
        """Whether it is a backend."""
        return issubclass(self.cls, Backend)

    def proxy(self) -> FaultProxy:
        """Return a proxy to the store, not yet started."""
        host, port = self._address()
        return FaultProxy(port, host)

    def through(self, proxy: FaultProxy) -> Any:
        """Return the options with which the backend reaches its store through a proxy."""
        values = {self.proxied: self._rewritten(proxy.port)}
        if isinstance(self._value(self.proxied), int) and self._value("host"):
            values["host"] = "127.0.0.1"
        module = f"sipdump_{self.cls.name}"
        others = [one for one in self.settings if one.name not in values]
        return build(self.cls.options, [*others, *(Setting(module, name, value) for name, value in values.items())])

    def _value(self, name: str) -> Any:
        given = [one.value for one in self.settings if one.name == name]
        defaults = {told["name"]: told["default"] for told in describe(self.cls.options)}
        return given[-1] if given else defaults.get(name)

    def _address(self) -> tuple[str, int]:
        value = self._value(self.proxied)
        if isinstance(value, int):
            return str(self._value("host") or "127.0.0.1"), value
        found = _ADDRESS.fullmatch(str(value))
        if not found:
            raise pytest.UsageError(f"--sipdump-proxy: {self.proxied} must be a port, host:port or URL, not {value!r}")
        return found["host"].strip("[]"), int(found["port"])

    def _rewritten(self, port: int) -> int | str:
        value = self._value(self.proxied)
        if isinstance(value, int):
            return port
        return _ADDRESS.sub(rf"\g<before>127.0.0.1:{port}\g<after>", str(value))


def choose(name: str, given: Sequence[str], proxied: str) -> Chosen:
    """Find an installed backend.

    Args:
        name: the backend's.
        given: options, each as NAME=VALUE.
        proxied: see :class:`Chosen`.

    Raises:
        pytest.UsageError: there is no such backend, or an option is wrong.
    """
    try:
        cls = _find(name)
        types = {told["name"]: told["type"] for told in describe(cls.options)}
        settings = [_setting(name, types, each) for each in given]
        if proxied and proxied not in types:
            raise pytest.UsageError(f"--sipdump-proxy: {name} has no option {proxied}; there are: {', '.join(types)}")
        chosen = Chosen(cls, build(cls.options, settings), settings, proxied)
    except SipDumpError as error:
        raise pytest.UsageError(str(error)) from error
    if proxied:
        chosen._address()
    return chosen


def _find(name: str) -> type[Backend] | type[Filter]:
    drivers = take_stock().drivers
    driver = next((driver for driver in drivers if driver.name == name), None)
    if driver is None:
        known = ", ".join(driver.name for driver in drivers if driver.kind != "transform")
        raise pytest.UsageError(f"--sipdump-backend: no backend {name} is installed; there are: {known}")
    driver = load(driver)
    if driver.error:
        raise pytest.UsageError(f"--sipdump-backend: {name} of {driver.distribution}: {driver.error}")
    if not (driver.cls and issubclass(driver.cls, (Backend, Filter))):
        raise pytest.UsageError(f"--sipdump-backend: {name} is a transform, no backend")
    return driver.cls


def _setting(name: str, types: dict[str, str], given: str) -> Setting:
    option, equals, text = given.partition("=")
    if not equals:
        raise pytest.UsageError(f"--sipdump-option {given}: must be NAME=VALUE")
    a_number = types.get(option) in ("int", "bool") and text.lstrip("-").isdecimal()
    return Setting(f"sipdump_{name}", option, int(text) if a_number else text, f"--sipdump-option {given}")
