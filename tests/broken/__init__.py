"""Backends that are deliberately broken, and what must catch each: the contract kit's own test."""
