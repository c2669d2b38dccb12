"""The text backend: ``.data`` files as Kamailio's sipdump module writes them."""

from sipdump_text.backend import TextBackend

__all__ = ["TextBackend"]
