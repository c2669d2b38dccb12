"""Benchmarks, run by ``python -m bench``; docs/benchmarks.md says what they measure, and the results."""
