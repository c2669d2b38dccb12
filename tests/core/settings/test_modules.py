"""Which modules a setting is for."""

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.settings.modules import CORE, MODULES, refuse_unknown, resolve
from sipdump_core.settings.options import Setting

NAMES = [CORE, *MODULES, "sipdump_text"]


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("sipdump", ["sipdump"]),
        ("SIPDUMP", ["sipdump"]),
        ("sipdump|tm", ["sipdump"]),
        ("sip.*", ["sipdump"]),
        ("sipdump.*", ["sipdump"]),
        ("sipdump_(hep|ctl)", ["sipdump_hep", "sipdump_ctl"]),
        ("sipdump_.*", ["sipdump_hep", "sipdump_ksr", "sipdump_ctl", "sipdump_kemi", "sipdump_text"]),
        ("tm", []),
    ],
)
def test_a_setting_is_for_every_module_that_its_expression_matches(module: str, found: list[str]) -> None:
    setting = Setting(module, "x", 1, "k.cfg:7:1")
    assert [(s.module, s.name, s.value, s.place) for s in resolve([setting], NAMES)] == [
        (name, "x", 1, "k.cfg:7:1") for name in found
    ]


def test_a_module_of_ours_that_there_is_not_is_refused() -> None:
    refuse_unknown([Setting("sipdump", "x", 1), Setting("tm", "x", 1), Setting("sipdump|tm", "x", 1)], NAMES)
    with pytest.raises(ConfigError, match=r"^k.cfg:7:1: .*sipdump_hpe.*no such module; there are: sipdump, "):
        refuse_unknown([Setting("sipdump_hpe", "listen", "x", "k.cfg:7:1")], NAMES)
