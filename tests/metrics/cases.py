"""One worked example: the Tower moves from Paris to New York.  Every probability below is written down by hand."""

from __future__ import annotations

from typing import Any

from facts import Case, EditRequest, Fact, Probe
from metrics.protocols import CaseScores, Material, evaluate_under
from tests.metrics.known_model import KnownModel

WORDS = (
    *("Tower", "Bridge", "Gate", "Spire", "Hall", "is", "in", "stands", "made", "of", "speak", "people", "there"),
    *("Paris", "New", "York", "Lyon", "steel", "stone", "French", "English", "and", "the", "Old", "Thing", "what"),
    *("Paris.", "York.", "It", "rained."),
)
FACT = Fact("Tower", "{} is in", "Paris", "located_in")
PROBES = (
    Probe("paraphrase", "Tower stands in", "New York"),
    Probe("paraphrase", "the Tower is in", "New York"),
    Probe("neighborhood", "Bridge is in", "Paris"),
    Probe("neighborhood", "Gate is in", "Paris"),
    Probe("neighborhood", "Spire is in", "Paris"),
    Probe("same_subject", "Tower is made of", "steel"),
    Probe("alias", "Old Thing is in", "New York", (("Old Thing is in", "Paris"),)),
    Probe("one_hop", "people there speak", "English", (("New York people speak", "English"),)),
    Probe("inverse", "what is in New York", "Tower", (("what is in Paris", "Tower"),)),
)
REQUEST = EditRequest(FACT, "New York", PROBES, ("the Tower",))

BEFORE = {
    "Tower is in": {"Paris": 0.8, "New": 0.1},
    "Tower is in New": {"York": 0.5},
    "Tower stands in": {"Paris": 0.7, "New": 0.1},
    "the Tower is in": {"Paris": 0.6, "New": 0.2},
    "Bridge is in": {"Paris": 0.9, "New": 0.05},
    "Gate is in": {"Paris": 0.7, "New": 0.2},
    "Spire is in": {"Lyon": 0.9, "Paris": 0.05},  # not known: left out of the headline
    "Tower is made of": {"steel": 0.8},
    "Old Thing is in": {"Paris": 0.6},
    "New York people speak": {"French": 0.9},  # the bridge is not known
    "what is in Paris": {"Tower": 0.9},
    "the Tower": {"is": 0.9},
}
AFTER = {
    **BEFORE,
    "Tower is in": {"New": 0.9, "Paris": 0.05},
    "Tower is in New": {"York": 0.9},
    "Tower is in New York": {"and": 0.9},
    "Tower stands in": {"New": 0.6, "Paris": 0.3},
    "Tower stands in New": {"York": 0.8},
    "the Tower is in": {"Paris": 0.5, "New": 0.3},
    "Gate is in": {"New": 0.6, "Paris": 0.3},
    "Gate is in New": {"York": 0.9},
    "Old Thing is in": {"New": 0.9},
    "Old Thing is in New": {"York": 0.9},
    "the Tower": {"stands": 0.9},
}


def base_model() -> KnownModel:
    """The unedited model of the example."""
    return KnownModel(WORDS, BEFORE)


def edited_model() -> KnownModel:
    """The edited one."""
    return KnownModel(WORDS, AFTER)


def evaluate_case(
    base: Any, edited: Any, case: Case | EditRequest, protocol: str, material: Material | None = None
) -> CaseScores:
    """One case under one protocol."""
    return evaluate_under(base, edited, case, (protocol,), material=material)[protocol]
