"""Templates for new backends."""
