"""The parts of the page, named by what they let the reader do."""
