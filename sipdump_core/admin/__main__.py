"""``python -m sipdump_core.admin``."""

import sys

from sipdump_core.admin.command import main

if __name__ == "__main__":
    sys.exit(main())
