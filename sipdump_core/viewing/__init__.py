"""Viewing: what people look at: calls in a terminal and on a page, as they are stored and as they come."""
