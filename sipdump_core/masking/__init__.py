"""Masking: takes secrets and users out of SIP messages, and leaves every other byte as it was."""
