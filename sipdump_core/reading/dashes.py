"""Arguments whose values begin with a dash."""

import re
from collections.abc import Sequence

__all__ = ["join_dashes"]

_TAKES_DASH = {"--since": r"-\d", "--until": r"-\d", "--sort": r"-[a-z_]"}


def join_dashes(argv: Sequence[str]) -> list[str]:
    """Join ``--since -15m`` into one argument: argparse would take its value for an option."""
    joined: list[str] = []
    for each in argv:
        if joined and re.match(_TAKES_DASH.get(joined[-1], "$."), each):
            joined[-1] += f"={each}"
        else:
            joined.append(each)
    return joined
