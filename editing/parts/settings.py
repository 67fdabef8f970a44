"""Groups of settings that several methods share.

`RankOneConfig` explains the defaults of the value search.  A method's config inherits the groups it needs and overrides
the defaults that differ in its own paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from editing.parts.keys import FACT_TOKENS, NUMBERED, FactToken
from editing.parts.values import ValueSettings


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of the value search (`editing.parts.values`)."""

    fact_token: FactToken = field(
        default="subject_last",
        metadata={
            "help": "Token at which the fact is looked up; subject:K is token K of the subject, counted from 0.",
            "choices": FACT_TOKENS,
            "pattern": (NUMBERED, "subject:K"),
        },
    )
    steps: int = field(default=40, metadata={"help": "Most steps of the search for the value.", "min": 1, "max": 500})
    learning_rate: float = field(
        default=0.3,
        metadata={
            "help": "Of Adam, in the search, in units of the residual's root mean square at the edited token.",
            "min": 1e-4,
            "max": 10.0,
        },
    )
    norm_limit: float = field(
        default=4.0,
        metadata={
            "help": "Longest change of the value, in units of the residual's norm at the edited token.",
            "min": 0.01,
            "max": 1000.0,
        },
    )
    weight_decay: float = field(
        default=0.0,
        metadata={"help": "Penalty on the squared change of the value, relative to the reference norm.", "min": 0.0},
    )
    kl_factor: float = field(
        default=0.0625, metadata={"help": "Weight of keeping what the model says the subject is.", "min": 0.0}
    )
    stop_loss: float = field(default=0.1, metadata={"help": "The search stops below this loss.", "min": 0.0})
    prefixes: int = field(
        default=2,
        metadata={
            "help": "Generated texts put before the prompt, so that the edit holds anywhere.",
            "min": 0,
            "max": 50,
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the generated texts.", "min": 0, "max": 2**31 - 1})

    @property
    def value_settings(self) -> ValueSettings:
        """The settings of the value search alone."""
        mine = {knob.name for knob in fields(self)}
        shared = [knob.name for knob in fields(ValueSettings) if knob.name in mine]
        return ValueSettings(**{name: getattr(self, name) for name in shared})


@dataclass(frozen=True, kw_only=True)
class MomentSettings:
    """Source of the second moment of the keys (`editing.parts.moments`)."""

    second_moment: Literal["estimate", "identity"] = field(
        default="estimate",
        metadata={
            "help": "Keys the edit should not disturb: estimated from a corpus, or all alike (C = I).",
            "choices": ("estimate", "identity"),
        },
    )
    moment_tokens: int = field(
        default=20_000, metadata={"help": "Tokens of the corpus used for the second moment.", "min": 100, "max": 10**7}
    )
    ridge: float = field(
        default=1e-4,
        metadata={"help": "Added to the second moment, times its mean eigenvalue, so it can be inverted.", "min": 0.0},
    )
    corpus: str = field(
        default="",
        metadata={"help": "Text file for the second moment, a document a line; empty for the bundled corpus."},
    )


@dataclass(frozen=True, kw_only=True)
class RangeSettings:
    """The layers that share a change, as in MEMIT: `depth` of them, ending at `layer`.

    The usual ones are those of `editing.parts.suggest.suggest_layers`.
    """

    layer: int = field(  # type: ignore[assignment]  # None until the model is known: `editing.method.settled`
        default=None,
        metadata={"help": "Last layer whose MLP is changed, counted from 0; the usual one if not given.", "min": 0},
    )
    depth: int = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Layers that share the change, ending at that layer, fewer near the start; as many as usual if not "
            "given.",
            "min": 1,
        },
    )

    @property
    def layers(self) -> tuple[int, ...]:
        """From the first to the last layer changed."""
        return tuple(range(max(0, self.layer - self.depth + 1), self.layer + 1))
