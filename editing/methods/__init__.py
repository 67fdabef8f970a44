"""One file for each editing method."""
