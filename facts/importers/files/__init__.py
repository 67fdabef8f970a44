"""A file as the texts of its rows, read once."""
