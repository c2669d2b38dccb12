"""Captures of a network, as tcpdump and Wireshark write them, turned into records."""
