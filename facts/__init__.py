"""The vocabulary the other packages share, and the bundled atlas of facts.  Standard library and pandas only."""

from facts.types import EditRequest, Fact, Probe

__all__ = ["EditRequest", "Fact", "Probe"]
