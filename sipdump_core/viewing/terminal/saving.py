"""Saving calls: asks for a file's name, and never replaces one without asking."""

from collections.abc import Sequence

from sipdump_core.reading.lines import counted
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.view import View
from sipdump_core.viewing.terminal.wire import Refused, Report, Saved

__all__ = ["ask_where"]

_FORMS = ".pcap .pcapng .txt .html .data .jsonl"


def ask_where(view: View, board: Board, call_ids: Sequence[str], *, legs: bool, path: str = "calls.pcap") -> None:
    """Ask where calls are to be saved, and save them.

    Args:
        view: where it is asked.
        board: what is known.
        call_ids: the calls.
        legs: whether their other legs are saved too.
        path: what is proposed; its ending says the format.
    """
    if not call_ids:
        view.tell("there is no call to save", error=True)
        return
    label = f"Save {counted(len(call_ids), 'call')} ({_FORMS}):"
    view.ask(label, path, lambda answer: _save(view, board, call_ids, answer.strip(), legs=legs, replace=False))


def _save(view: View, board: Board, call_ids: Sequence[str], path: str, *, legs: bool, replace: bool) -> None:
    if not path:
        return

    def answered(report: Report) -> None:
        if isinstance(report, Saved):
            missing = (
                f"; {counted(report.missing, 'call is', 'calls are')} not stored any more" if report.missing else ""
            )
            view.tell(f"{counted(report.calls, 'call')} saved{missing}: {report.path}")
        elif isinstance(report, Refused) and report.exists:
            view.confirm(
                f"{report.error}. Replace it?", lambda: _save(view, board, call_ids, path, legs=legs, replace=True)
            )
        elif isinstance(report, Refused):
            view.tell(report.error, error=True)

    view.tell(f"saving {path} ...")
    board.save(call_ids, path, answered, legs=legs, replace=replace)
