"""What -c prints, and what a start warns of."""

from pathlib import Path

import pytest

from sipdump_core.checkup import in_effect, notices, trial
from sipdump_core.config.reader import parse_config
from sipdump_core.plan import make_plan


def warned(folder: Path, text: str) -> list[str]:
    """Return the notices on a configuration, without those that a good one would avoid."""
    good = 'modparam("sipdump", "enable", 1) modparam("sipdump", "fagex", "30d")\n'
    return raw(f'modparam("sipdump", "folder", "{folder}") {good}{text}')


def raw(text: str) -> list[str]:
    config = parse_config(text, "k.cfg")
    plan = make_plan(config.settings, event_routes=config.event_routes)
    return [str(notice) for notice in notices(plan, config)]


def test_a_good_configuration_has_no_notice(tmp_path: Path) -> None:
    assert warned(tmp_path, 'modparam("sipdump", "mode", 13) modparam("sipdump", "file_mode", 0640)') == []


@pytest.mark.parametrize(
    ("line", "notice"),
    [
        ('modparm("sipdump", "mode", 4)', 'k.cfg:2:1: modparm("sipdump" is not a statement; did you mean modparam?'),
        ('MODPARAM("sipdump_hep", "tag", "x")', 'k.cfg:2:1: MODPARAM("sipdump_hep" is not a statement'),
        ('mod_param ( "sipdmup", "mode", 4)', 'k.cfg:2:1: mod_param("sipdmup" is not a statement'),
        (
            "event_rout[sipdump:msg] { drop; }",
            "event_rout[sipdump is not a statement; did you mean event_route",
        ),
        (
            "event_route[sipdmp:msg] { drop; }",
            "event_route[sipdmp:msg] is never run here; did you mean event_r",
        ),
        (
            'modparam("sipdmup", "mode", 4)',
            'modparam("sipdmup", ...) sets nothing here; did you mean "sipdump"?',
        ),
        ('modparam("sipdump-hep", "tag", "x")', '"sipdump-hep", ...) sets nothing here; did you mean "sipdump_hep"?'),
        ('modparam("sip_dump_ctl", "mode", 1)', '...) sets nothing here; did you mean "sipdump_ctl"?'),
        ('modparam("sipdump", "mode", 9)', "k.cfg:2:1: mode has header (8), but no backend that uses it; add pcap (4)"),
        ('modparam("sipdump", "mode", 3)', "k.cfg:2:1: mode has the event route (2), but there is no event_route[sip"),
        ('modparam("sipdump", "enable", 0)', "k.cfg:2:1: enable is 0: nothing will be stored; to store: set modparam("),
        ('modparam("sipdump", "fagex", "")', "nothing is ever deleted: fage is 0; to keep 30 days, set modparam("),
        ('modparam("sipdump", "file_mode", 440)', "k.cfg:2:1: file_mode 440 is decimal, in octal 0670; write 0440 for"),
        ('modparam("sipdump_ksr", "mode", 400)', "k.cfg:2:1: mode 400 is decimal, in octal 0620; write 0400 for"),
        (
            'modparam("sipdump_ctl", "binrpc", "unix:/nonexistent/ctl")',
            "k.cfg:2:1: there is no folder /nonexistent for the socket /nonexistent/ctl; create it",
        ),
        ('modparam("sipdump_ctl", "jsonrpc", "fifo:/nonexistent/f")', "k.cfg:2:1: there is no folder /nonexistent for"),
        ('modparam("sipdump_ksr", "listen", "unix:/nonexistent/k")', "k.cfg:2:1: there is no folder /nonexistent for"),
        (
            'modparam("sipdump_ctl", "jsonrpc", "fifo:/tmp/f") '
            'modparam("sipdump_ctl", "fifo_reply_dir", "/nonexistent")',
            "k.cfg:2:51: there is no folder /nonexistent (fifo_reply_dir) for the answers; create it",
        ),
        (
            'modparam("sipdump_hep", "listen", "off")',
            "k.cfg:2:1: nothing brings messages: HEP is off, and sipdump_ksr has no",
        ),
        (
            'modparam("sipdump_ctl", "binrpc", "unix:/etc/passwd/ctl")',
            "k.cfg:2:1: /etc/passwd is a file, so that the socket /etc/passwd/ctl cannot be made in it; name a folder",
        ),
        (
            'modparam("sipdump_ctl", "binrpc", "unixd:/etc/passwd")',
            "k.cfg:2:1: there is a file /etc/passwd that is no socket; move it away, or name another",
        ),
        ('modparam("sipdump_ctl", "jsonrpc", "fifo:/etc/passwd")', "a file /etc/passwd that is no fifo; move it away"),
        (
            'modparam("sipdump", "rotate_align", 1) modparam("sipdump", "rotate", 7000)',
            "k.cfg:2:40: rotate_align: a day is no multiple of rotate (1h56m40s), so segments end at other times each",
        ),
        (
            "#!ifexp A ==\n#!endif\n",
            "k.cfg:2:1: the expression A == has no value, and counts as false: an operand is missing at the end",
        ),
        ('modparm "sipdump", "mode", 4', 'k.cfg:2:1: modparm "sipdump" is not a statement; did you mean modparam?'),
        ('modparam("sipdump_kemi", "load", "a.py")', "k.cfg:2:1: script is not loaded: no event_callback names"),
    ],
)
def test_what_is_probably_a_mistake(tmp_path: Path, line: str, notice: str) -> None:
    (found,) = warned(tmp_path, line)
    assert notice in found


@pytest.mark.parametrize(
    "line",
    [
        'modparam("siputils", "x", 1) modparam("siptrace", "x", 1) modparam("sipcapture", "x", 1)',
        'loadmodule "sipdump.so"',
        'request_route { xlog("sipdump"); param("x"); }',
        "event_route[siptrace:msg] { exit; }",
        '# modparm("sipdump", "mode", 4)',
        'modparam("sip.*", "mode", 1) modparam("sipdump|tm", "mode", 1)',
        'modparam("sipdump_ctl", "binrpc", "tcp:127.0.0.1:2046")',
        'modparam("sipdump", "file_mode", 0440)',
    ],
)
def test_what_is_none(tmp_path: Path, line: str) -> None:
    assert warned(tmp_path, line) == []


def test_a_configuration_of_others_alone_is_noticed() -> None:
    found = raw('#!ifdef WITH_SIPDUMP\nmodparam("sipdump", "mode", 4)\n#!endif\nmodparam("tm", "x", 1)')
    assert "the configuration has 1 modparams, and none is for sipdump; its defaults are in effect" in found


def test_enable_0_names_the_command_that_stores(tmp_path: Path) -> None:
    (found,) = warned(
        tmp_path, f'modparam("sipdump", "enable", 0) modparam("sipdump_ctl", "binrpc", "unix:{tmp_path}/ctl")'
    )
    assert f"kamcmd -s unix:{tmp_path}/ctl sipdump.enable 1, or" in found


def test_a_folder_that_is_not_writable_takes_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.checkup.os.access", lambda *_: False)  # as for root nothing is
    config = parse_config(f'modparam("sipdump_ksr", "listen", "unix:{tmp_path}/k")', "k.cfg")
    found = [str(notice) for notice in notices(make_plan(config.settings, to_start=False), config)]
    assert (
        f"k.cfg:1:1: the folder {tmp_path} of the socket {tmp_path}/k is not writable for this user; change"
        in "".join(found)
    )


@pytest.mark.parametrize("rotate", [900, 3600, 86400, 604800])
def test_a_clock_of_even_times_is_no_mistake(tmp_path: Path, rotate: int) -> None:
    assert warned(tmp_path, f'modparam("sipdump", "rotate_align", 1) modparam("sipdump", "rotate", {rotate})') == []


def test_what_is_in_effect(tmp_path: Path) -> None:
    config = parse_config(
        f'''modparam("sipdump", "folder", "{tmp_path}")
        modparam("sipdump", "mode", 15)
        modparam("sipdump", "backend", "s3")
        modparam("sipdump", "fage", 196830)
        modparam("sipdump", "rotate_records", 5) modparam("sipdump", "rotate_align", 1)
        modparam("sipdump_hep", "listen", "tcp:127.0.0.1:9060")
        modparam("sipdump_hep", "auth_key", "geheim")
        modparam("sipdump_ctl", "binrpc", "unix:{tmp_path}/ctl")
        modparam("sipdump_ctl", "jsonrpc", "http:127.0.0.1:8080")
        modparam("sipdump_s3", "bucket", "calls")
        modparam("sipdump_s3", "endpoint_url", "https://me:geheim@s3.example.com")
        event_route[sipdump:msg] {{ drop; }}''',
        "k.cfg",
    )
    lines = in_effect(make_plan(config.settings, event_routes=config.event_routes), config.event_routes)
    shown = [f"{heading}: {line}" for heading, line in lines]
    assert [line for line in shown if "sipdump 0" not in line] == [
        f"folder: {tmp_path}, files begin with 'kamailio-sipdump-'",
        "mode: 15: text (1), event route (2), pcap (4), header (8)",
        "enable: 0: stores nothing until it is enabled",
        "rotation: a segment is sealed when the local clock shows a multiple of 2h, or when it is 5 records long",
        "retention: deleted when 2d6h40m30s old",
        "event route: event_route[sipdump:msg] at k.cfg:12:35",
        "HEP: tcp:127.0.0.1:9060",
        "Kamailio: off",
        f"control: unix:{tmp_path}/ctl (binrpc), http:127.0.0.1:8080 (jsonrpc)",
    ]
    assert any(line.endswith(": bucket=calls, endpoint_url=https://...@s3.example.com") for line in shown)
    assert "geheim" not in str(shown)


@pytest.mark.parametrize(
    ("line", "notice"),
    [
        ('modparam("sipdump_hep", "listen", "udp:192.0.2.1:9060")', "cannot listen on udp:192.0.2.1:9060: "),
        ('modparam("sipdump_ctl", "jsonrpc", "http:192.0.2.1:80")', "cannot listen on http:192.0.2.1:80: "),
        ('modparam("sipdump_ctl", "binrpc", "tcp:192.0.2.1:80")', "cannot listen on tcp:192.0.2.1:80: "),
        ('modparam("sipdump_ctl", "user", "nosuchuser")', "there is no user 'nosuchuser'"),
        ('modparam("sipdump_ksr", "group", "nosuchgroup")', "there is no group 'nosuchgroup'"),
    ],
)
def test_what_a_start_would_find_out(tmp_path: Path, line: str, notice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.checkup.ask_for_buffer", lambda _sock, size: size)
    text = f'modparam("sipdump", "folder", "{tmp_path}")\n{line}'
    (found,) = trial(make_plan(parse_config(text, "k.cfg").settings))
    assert str(found).startswith(f"k.cfg:2:1: {notice}")


@pytest.mark.parametrize(("listen", "count"), [("udp:127.0.0.1:0", 1), ("tcp:127.0.0.1:0", 0)])
def test_a_small_receive_buffer(tmp_path: Path, listen: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.checkup.ask_for_buffer", lambda _sock, _size: 4096)
    text = f'modparam("sipdump", "folder", "{tmp_path}") modparam("sipdump_hep", "listen", "{listen}")'
    found = [str(notice) for notice in trial(make_plan(parse_config(text, "k.cfg").settings))]
    wanted = (
        "small receive buffer: the kernel grants 4096 bytes, not 33554432; run: sysctl -w net.core.rmem_max=33554432"
    )
    assert found == [wanted] * count
