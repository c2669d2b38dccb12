"""Coverage-guided fuzzing of what reads bytes from strangers, or files that people write: see ``__main__``."""
