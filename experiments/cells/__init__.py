"""The built-in kinds of cells."""
