"""Viewing: what a terminal and a page show of any store, and what both share. They know calls, never backends."""
