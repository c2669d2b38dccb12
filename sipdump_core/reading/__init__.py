"""Reading: a question, the stores that may hold its answer, records in order of time, and the calls they make."""
