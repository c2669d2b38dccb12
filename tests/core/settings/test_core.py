"""The parameters of modparam("sipdump", ...)."""

from sipdump_core.settings.core import Params
from sipdump_core.settings.options import Setting, build, describe


def test_the_core_parameters_have_kamailios_defaults() -> None:
    params = build(Params, [])
    assert (params.enable, params.mode, params.wait, params.rotate) == (0, 1, 100, 7200)
    assert (params.folder, params.fprefix, params.fage) == ("/tmp", "kamailio-sipdump-", 0)
    assert (params.event_callback, params.wait_mode, params.fagex, params.parse_call_id) == ("", 0, "", 0)


def test_fagex_overrides_fage() -> None:
    assert build(Params, [Setting("sipdump", "fage", 5)]).retention == 5
    both = [Setting("sipdump", "fagex", "1m"), Setting("sipdump", "fage", 5)]
    assert build(Params, both).retention == 60


def test_every_parameter_has_a_help() -> None:
    assert all(row["help"] for row in describe(Params))
