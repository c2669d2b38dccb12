"""Secrets, and taking them out of texts: errors, logs, what a command prints."""

import json

__all__ = ["REDACTED", "hide", "redacted"]

REDACTED = "..."
"""What is shown in place of a secret."""
_SHORTEST = 4
"""Characters; what is shorter stands in too many texts by chance."""

_hidden: list[str] = []
"""The secrets of this process, the longest first."""


def hide(secret: str) -> None:
    """Take a secret out of all texts from now on, unless it is very short."""
    if len(secret) < _SHORTEST:
        return
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    _hidden[:] = sorted(forms.union(_hidden), key=len, reverse=True)


def redacted(text: str) -> str:
    """Return a text without the secrets that are known."""
    for secret in _hidden:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return text
