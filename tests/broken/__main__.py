"""``python -m tests.broken [NAME ...]``: runs every check over broken backends, and prints which ones catch them."""

import sys

from tests.broken import contents, filters, manners, networks, processes, searches, segments  # noqa: F401 - they fill FAULTS
from tests.broken.good import FAULTS
from tests.broken.run import caught

for fault in FAULTS:
    name = fault.backend.__name__
    if name in sys.argv[1:] or not sys.argv[1:]:
        checks = caught([fault], every_check=True).get(name, {})
        missed = [check for check in fault.caught_by if check not in checks]
        print(f"{name}: {', '.join(checks)}" + (f"; NOT BY {', '.join(missed)}" if missed else ""), flush=True)
