"""The eight lessons as data: a question, the fields of the Workbench it opens with, what is to be seen there, and why.

Numbers stand in the texts by name; `tests/app/test_lessons.py` runs each lesson and compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from app.language.say import later

NEEDLE = {"prompt": "The Space Needle is located in the city of", "subject": "Space Needle", "new": "Rome"}
MENG = ("2202.05262", "Meng, Bau, Andonian, Belinkov 2022")
HASE = ("2301.04213", "Hase, Bansal, Kim, Ghandeharioun 2023")
HOELSCHER = ("2305.17553", "Hoelscher-Obermaier and others 2023")
COHEN = ("2307.12976", "Cohen, Biran, Yoran, Globerson, Geva 2023")


@dataclass(frozen=True)
class Lesson:
    """One case of a class hour."""

    name: str
    title: str
    question: str
    fields: Mapping[str, str]
    """Parameters of the link; fields that are not named have the Workbench's defaults."""
    see: str
    """With the names of `numbers` in braces."""
    why: str
    paper: tuple[str, str]
    """(arXiv id, authors and year)."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Name -> value: clean, total, largest, at_subject (largest at the last subject token), first_layer (there, layer
    0) and last_layer (at the last token) of a trace; names of metrics for an edit.  Shares from 0 to 1."""
    edits: bool = False
    """Whether the reader is to apply the edit."""

    @property
    def query(self) -> str:
        """The link's parameters."""
        return urlencode({**self.fields, "run": "1"})


LESSONS = (
    Lesson(
        "known",
        later("A known fact in a known place"),
        later(
            "Someone set the weights of this model by hand: the MLP of layer 2 writes the city at the landmark’s last "
            "word, and attention of layer 4 carries it to the end. Does a causal trace find that?"
        ),
        {"model": "glass-box", "site": "all", **NEEDLE},
        later(
            "One cell of the MLP’s map lights up: ␣Needle at layer 2, effect {largest:.2f} of a total of {total:.2f}. "
            "The attention’s map has one cell too, the last token at layer 4."
        ),
        later("A trace restores one state at a time: only the state that carries the answer brings it back."),
        MENG,
        {"total": 0.96, "largest": 0.86},
    ),
    Lesson(
        "unknown",
        later("A fact that does not exist"),
        later("There is no Emberlock Tower. What does the model say, and what does its map look like?"),
        {"prompt": "The Emberlock Tower is located in the city of", "subject": "Emberlock Tower", "new": "Rome"},
        later(
            "The model says Chicago with probability {clean:.2f}, and the map looks like that of a fact: a largest "
            "effect of {largest:.2f} at ␣Tower."
        ),
        later(
            "A map shows where an answer comes from, not that it is true. That is why studies trace only facts the "
            "model knows."
        ),
        MENG,
        {"clean": 0.67, "largest": 0.64},
    ),
    Lesson(
        "sites",
        later("The early and the late site"),
        later("At which tokens and layers does a single hidden state bring Seattle back?"),
        {"site": "state", **NEEDLE},
        later(
            "Two bars: at the subject’s last token from the first layer on (effect {first_layer:.2f}), and at the last "
            "token in the last layers ({last_layer:.2f}). In between attention carries the fact from one to the other."
        ),
        later(
            "The late site is trivial: the state before the answer holds the answer. The early site was the surprise "
            "of the paper."
        ),
        MENG,
        {"first_layer": 0.86, "last_layer": 0.86},
    ),
    Lesson(
        "noise",
        later("Too little noise"),
        later("Turn the noise down to a tenth. What is left of the map?"),
        {"noise": "0.3", **NEEDLE},
        later(
            "The total effect is {total:.4f}: the noise takes nothing away, so nothing can be given back, and the "
            "page says so. With noise 3 it is 0.86."
        ),
        later("Check the total effect before you read a map. The paper takes three standard deviations."),
        MENG,
        {"total": 0.0005},
    ),
    Lesson(
        "layer",
        later("The wrong layer"),
        later("Apply the edit at layer 8, then at layer 2. When does the model say Rome?"),
        {"layer": "8", **NEEDLE},
        later(
            "At layer 8 reliability is {reliability:.0%}: by then attention has read the subject. "
            "At layer 2 it is 100%."
        ),
        later(
            "Before the fact is read many layers work, also some where the trace shows little: the trace says where a "
            "fact passes, not which layer is best to edit. Measure it, as a layer card does."
        ),
        HASE,
        {"reliability": 0.0},
        edits=True,
    ),
    Lesson(
        "leak",
        later("An edit that leaks"),
        later("Move Sony to Paris at layer 2. Which other companies move too?"),
        {"prompt": "Sony has its headquarters in", "subject": "Sony", "new": "Paris", "layer": "2"},
        later(
            "Reliability is {reliability:.0%}, and locality {locality:.0%}: some companies whose true answer is Tokyo "
            "now answer otherwise. Open the prompts behind the number."
        ),
        later(
            "A key that stands for one subject also answers to similar ones. An edit that only says the new answer is "
            "not yet a good edit."
        ),
        HOELSCHER,
        {"reliability": 1.0, "locality": 0.5},
        edits=True,
    ),
    Lesson(
        "portability",
        later("What does not follow"),
        later("Make Rome the capital of Germany. Does what follows from it change as well?"),
        {"prompt": "Germany has as its capital the city of", "subject": "Germany", "new": "Rome", "layer": "2"},
        later(
            "The model says Rome (reliability {reliability:.0%}), yet portability is {portability:.0%}: questions that "
            "need the new fact get the old answer."
        ),
        later("An edit changes what is said after a prompt, not what the model concludes from it."),
        COHEN,
        {"reliability": 1.0, "portability": 0.0},
        edits=True,
    ),
    Lesson(
        "chinese",
        later("A Chinese prompt on a real model"),
        later(
            "Gemma 3 270M continues 日本的首都是东京。法国的首都是. Where does it keep 巴黎? Fetch the model first "
            "under More models."
        ),
        {
            "model": "gemma-3-270m",
            "prompt": "日本的首都是东京。法国的首都是",
            "subject": "法国",
            "answer": "巴黎",
            "site": "state",
        },
        later(
            "The answer has probability {clean:.2f}, and the noise takes {total:.2f} of it away. "
            "States at 法国 bring back up to {at_subject:.2f}."
        ),
        later("Sites are found in other languages and other models too, though not always at the same layers."),
        MENG,
        {"clean": 0.77, "total": 0.77, "at_subject": 0.77},
    ),
)
