"""What is not installed."""

import re

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.viewing.extras import need


def test_a_command_says_what_to_install() -> None:
    need("tui", "tui", ["attrs"])
    message = "tui needs nosuch_library, which is not installed: pip install 'sipdump[tui]'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        need("tui", "tui", ["attrs", "nosuch_library"])
    with pytest.raises(ConfigError, match="nosuch_library, nosuch_other, which are not installed"):
        need("tui", "tui", ["nosuch_library", "nosuch_other"])
