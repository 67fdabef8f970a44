"""The page Runs: what this session did, and two runs side by side."""
