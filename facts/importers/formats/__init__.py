"""One file for each dataset format."""
