"""sipdumpd as it is without recvmmsg: it receives and decodes one by one. Run it by ``python -m bench.one_by_one``."""

import sys

from sipdump_core import daemon
from sipdump_core.sources import hep_datagrams

if __name__ == "__main__":
    hep_datagrams._recvmmsg = lambda: None
    sys.exit(daemon.main())
