"""The web page: trace a fact, pick a layer, rewrite the fact, read five metrics.  Start it with `python -m app`."""
