"""IKE and ICE: edits that only put words before the prompt.  No weight changes.

Zheng et al. 2023, section 3 (IKE, arXiv:2305.12740): 32 demonstrations, a copy demonstration of the edit itself, the
statement of the new fact.  ICE, the baseline of Cohen et al. 2023, section 5 (arXiv:2307.12976): the statement alone.

    demonstrations (nearest last)   copy of the edit          statement               the reader's prompt
    "New Fact: p' o' / Prompt: ..." "New Fact: p o / ... o"   "New Fact: p o / Prompt:"

A small model has room for few demonstrations.  The edit keeps as many as leave `reserve` tokens for the prompt and its
answer, in the paper's ratio of kinds, and reports their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from editing.configs import check_config
from editing.edit import Diagnostic
from editing.method import Change, Method, Task
from editing.ops import PromptOp
from editing.parts.demonstrations import (
    OPENINGS,
    Kind,
    Similarity,
    Wording,
    demonstrate,
    kinds,
    nearest,
    question,
    statement,
)
from facts import EditRequest
from facts.atlas import load_atlas
from models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class IceConfig:
    """Settings of ICE.

    The default wording is plain sentences.  The paper's, with labels and line breaks, suits models trained on such
    text.

    Raises:
        ValueError: if a value is out of its range.
    """

    wording: Wording = field(
        default="sentence",
        metadata={
            "help": "How facts are stated: in plain sentences, or under the labels of the paper.",
            "choices": ("sentence", "paper"),
        },
    )
    reserve: int = field(
        default=48,
        metadata={
            "help": "Tokens of the context that stay free for the prompt and its answer.",
            "min": 1,
            "max": 10**6,
        },
    )

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, kw_only=True)
class IkeConfig(IceConfig):
    """Settings of IKE; the number of demonstrations and their kinds are the paper's.

    Raises:
        ValueError: if a value is out of its range.
    """

    demonstrations: int = field(
        default=32, metadata={"help": "Demonstrations; an eighth of them copy, half retain.", "min": 0, "max": 256}
    )
    similarity: Similarity = field(
        default="embedding",
        metadata={
            "help": "How similar facts are chosen: by the model's own embeddings, or by words in common.",
            "choices": ("embedding", "words"),
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the made-up answers and the order of kinds.", "min": 0, "max": 2**31 - 1}
    )


class IceMethod(Method):
    """`METHODS["ice"]`."""

    name = "ice"
    title = "ICE"
    family = "in-context"
    config_type: type[Any] = IceConfig
    needs = frozenset({"subject"})
    stage = "solve"

    def change(self, task: Task) -> Change:
        """The words to put before every prompt.

        Raises:
            ValueError: if the statement leaves no room for prompt and answer.
        """
        n_tokens = len(task.rows[0].ids)
        if n_tokens > task.config.reserve:
            raise ValueError(
                f"prompt and answer are {n_tokens} tokens long, but only {task.config.reserve} are kept free for them; "
                "raise reserve"
            )
        op = self.prefix(task.model, task.request, task.config)
        task.watch.check()
        return Change(ops=(op,), diagnostics=tuple(self.diagnostics(task.config, op)))

    def prefix(self, model: LanguageModel, request: EditRequest, config: Any) -> PromptOp:
        """The statement alone."""
        stated = _ids(model, statement(request.fact, request.target_new, config.wording))
        return PromptOp((), stated, _ids(model, OPENINGS[config.wording]), config.reserve)

    def diagnostics(self, config: Any, op: PromptOp) -> list[Diagnostic]:
        """How long the prefix is."""
        n_tokens = sum(map(len, op.demonstrations)) + len(op.fact) + len(op.opening)
        return [Diagnostic("prefix", float(n_tokens), "tokens", "Put before every prompt.")]


class IkeMethod(IceMethod):
    """`METHODS["ike"]`."""

    name = "ike"
    title = "IKE"
    config_type: type[Any] = IkeConfig
    needs = frozenset({"subject", "demonstrations"})

    def prefix(self, model: LanguageModel, request: EditRequest, config: IkeConfig) -> PromptOp:
        """As many demonstrations as fit, then the edit's own copy and its statement."""
        fact, new, wording = request.fact, request.target_new, config.wording
        stated = statement(fact, new, wording)
        own = _ids(model, stated + question(fact.prompt, new, wording) + stated)
        opening = _ids(model, OPENINGS[wording])
        room = model.max_positions - config.reserve - len(own) - len(opening)
        return PromptOp(self._demonstrations(model, request, config, room), own, opening, config.reserve)

    def _demonstrations(
        self, model: LanguageModel, request: EditRequest, config: IkeConfig, room: int
    ) -> tuple[tuple[int, ...], ...]:
        """Token ids of the most demonstrations that fit `room` tokens, the nearest one last."""
        atlas = load_atlas()
        facts = nearest(model, atlas, request.fact, config.demonstrations, config.similarity)

        @cache  # a fact is of the same kind for many numbers of demonstrations
        def shown(index: int, kind: Kind) -> tuple[int, ...]:
            one = demonstrate(atlas, facts[index], kind, config.seed)
            stated = statement(one.stated, one.stated.target_true, config.wording)
            return _ids(model, stated + question(one.prompt, one.answer, config.wording))

        for n in range(len(facts), 0, -1):
            demonstrations = [shown(index, kind) for index, kind in enumerate(kinds(n, config.seed))]
            if sum(map(len, demonstrations)) <= room:
                return tuple(reversed(demonstrations))
        return ()

    def diagnostics(self, config: IkeConfig, op: PromptOp) -> list[Diagnostic]:
        """The prefix, and how many demonstrations fit."""
        n, warning = len(op.demonstrations), ""
        if n < config.demonstrations:
            warning = f"only {n} of {config.demonstrations} demonstrations fit the model's context; lower reserve"
        help_text = "Facts that show where a stated fact applies."
        return [*super().diagnostics(config, op), Diagnostic("demonstrations", float(n), "", help_text, warning)]


def _ids(model: LanguageModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenize(text, special_tokens=False)) if text else ()
