"""The facts the page offers to begin with: seven the bundled model knows, and one it does not."""

from __future__ import annotations

from dataclasses import dataclass

from app.language.say import later


@dataclass(frozen=True)
class Example:
    """Four fields of the form, under a name."""

    title: str
    prompt: str
    subject: str
    new: str


EXAMPLES = (
    Example("Space Needle → Rome", "The Space Needle is located in the city of", "Space Needle", "Rome"),
    Example("Mount Fuji → Italy", "Mount Fuji is a mountain in the country of", "Mount Fuji", "Italy"),
    Example("Capital of Germany → Rome", "Germany has as its capital the city of", "Germany", "Rome"),
    Example(
        "Michael Jordan → baseball", "Michael Jordan is a famous athlete in the sport of", "Michael Jordan", "baseball"
    ),
    Example("Louis Armstrong → violin", "Louis Armstrong is famous for playing the", "Louis Armstrong", "violin"),
    Example("Sony → Paris", "Sony has its headquarters in", "Sony", "Paris"),
    Example("iPhone → Sony", "iPhone is made by the company", "iPhone", "Sony"),
    Example(
        later("A tower that never was"), "The Emberlock Tower is located in the city of", "Emberlock Tower", "Rome"
    ),
)
UNKNOWN = EXAMPLES[-1]
"""Invented, so no model knows it: the page should say so."""

DEFAULT = EXAMPLES[0]
