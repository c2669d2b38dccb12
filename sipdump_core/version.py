"""The version of sipdump; the build reads it from here."""

VERSION = "0.1.0"
