"""In-memory views kept true by the log."""
