"""How a trace is computed."""
