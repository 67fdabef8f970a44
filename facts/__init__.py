"""The vocabulary the other packages share, and the bundled atlas of facts.  Standard library and pandas only."""

from facts.types import Case, EditRequest, Fact, Probe

__all__ = ["Case", "EditRequest", "Fact", "Probe"]
