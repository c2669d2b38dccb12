"""The Python examples of docs/query.md."""

import re
from pathlib import Path
from typing import Any

DOC = Path(__file__).parents[2] / "docs" / "query.md"


def example(heading: str, **names: Any) -> dict[str, Any]:
    """Run the example under a heading, and give the names it defines and those it was given."""
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    assert found, heading
    exec(found[1], names)
    return names
