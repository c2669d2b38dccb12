"""The pcap backend and the P-KSR-SIPDump header: ``.pcap`` files as Kamailio's sipdump module writes them."""

from sipdump_pcap.backend import PcapBackend
from sipdump_pcap.header import HeaderTransform

__all__ = ["HeaderTransform", "PcapBackend"]
