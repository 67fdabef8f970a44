"""Named protocols for measuring an edit.  Numbers of different protocols have no common mean."""

from metrics.fluency import References, Snippet
from metrics.protocols.base import Material, Protocol, Value
from metrics.protocols.case import CaseScores, base_readings, evaluate_under
from metrics.protocols.registry import PROTOCOLS, get_protocol
from metrics.protocols.summary import summarise

__all__ = [
    "PROTOCOLS",
    "CaseScores",
    "Material",
    "Protocol",
    "References",
    "Snippet",
    "Value",
    "base_readings",
    "evaluate_under",
    "get_protocol",
    "summarise",
]
