"""The terminal: calls as a list, as ladders, and their messages."""
