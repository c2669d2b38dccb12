"""Rotation, retention, and the process table's file."""
