"""The engine: how traces and averages are computed."""
