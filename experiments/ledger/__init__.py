"""The SQLite file that keeps every result."""
