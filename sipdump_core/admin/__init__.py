"""The command sipdump-admin."""
