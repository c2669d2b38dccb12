"""``python -m sipdump_core.reading``."""

import sys

from sipdump_core.reading.command import main

if __name__ == "__main__":
    sys.exit(main())
