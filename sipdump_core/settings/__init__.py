"""Options as attrs classes: their types, units, checks and defaults."""
