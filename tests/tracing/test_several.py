"""Facts that share a sweep get the numbers they would get alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from facts import Fact
from facts.watch import Watch
from models import FAMILIES
from tests.tiny import HYBRIDS, REPLAYED, tiny_model
from tests.tracing.agreement import LEVEL, assert_agrees, cells_of
from tracing import TraceConfig, trace_facts
from tracing.engine import plan, several
from tracing.engine.tracer import trace_all
from tracing.types import TraceResult

FACTS = [
    Fact.from_prompt("the Space Needle is in", "Space Needle"),
    Fact.from_prompt("Paris is in", "Paris", "Rome and Oslo"),  # another length, and an answer of several tokens
    Fact.from_prompt("in the city of Berlin the river is", "Berlin"),
]
CONFIGS = [
    TraceConfig(site=site, window=window, severed=severed, direction=direction, samples=2)
    for (site, window), severed, direction in (
        (("resid_post", 1), None, "denoising"),
        (("mlp_out", 3), "attn_out", "denoising"),
        (("attn_heads", 1), "mlp_out", "noising"),
    )
]


def assert_same(one: TraceResult, other: TraceResult, atol: float = 1e-6) -> None:
    assert (one.prompt, one.answer_ids, one.predicted) == (other.prompt, other.answer_ids, other.predicted)
    for measure in ("probability", "log_probability", "kl"):
        left, right = one.by(measure), other.by(measure)
        np.testing.assert_allclose(left.restored, right.restored, atol=atol if measure == "probability" else 1e-4)
        np.testing.assert_allclose(left.corrupted, right.corrupted, atol=atol if measure == "probability" else 1e-4)
    np.testing.assert_array_equal(one.by("rank").restored, other.by("rank").restored)


@pytest.mark.parametrize("family", FAMILIES)
def test_together_as_alone_on_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PACK_LIMIT", 100.0)
    model = tiny_model(family)
    configs = CONFIGS[:2] if family in HYBRIDS else CONFIGS
    found = list(trace_facts(model, FACTS, configs, level=LEVEL, together=3))
    for number, (fact, together) in enumerate(zip(FACTS, found, strict=True)):
        alone = trace_all(model, fact, configs, level=LEVEL)
        for one, other in zip(together, alone, strict=True):
            assert one.engine == ("replay" if family in REPLAYED else "packed")
            assert_same(one, other)
            assert_agrees(model, fact, one, cells_of(one, 1, seed=number))


@pytest.mark.parametrize(("limit", "batch_size"), [*product((0.0, 0.5, 100.0), (1, 7, None))])
def test_neither_packs_nor_passes_change_a_number(
    limit: float, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PACK_LIMIT", limit)
    monkeypatch.setattr(plan, "PASS_POSITIONS", 0)
    model, config = tiny_model("gpt_neo"), TraceConfig(samples=3, batch_size=batch_size)
    found = trace_facts(model, FACTS * 2, [config], level=LEVEL, together=4)
    for fact, (one,) in zip(FACTS * 2, found, strict=True):
        assert_same(one, trace_all(model, fact, [TraceConfig(samples=3)], level=LEVEL)[0])


def test_a_few_positions_share_a_sweep_and_a_whole_map_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = tiny_model("gpt2"), []
    monkeypatch.setattr(plan, "PACK_LIMIT", 9 / model.d_model)  # a pack of nine positions
    engine = several.Engine

    def noted(*arguments: object) -> object:
        sizes.append(len(arguments[1]))  # type: ignore[arg-type]
        return engine(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(several, "Engine", noted)
    told: list[tuple[int, int]] = []
    facts, config = [FACTS[0]] * 5, TraceConfig(samples=2)
    last = list(
        trace_facts(
            model, facts, [config], level=LEVEL, positions=["last_token"], watch=Watch(lambda *at: told.append(at[:2]))
        )
    )
    assert sizes == [5]
    assert told == [(number, 5) for number in range(1, 6)]
    assert np.isnan(last[0][0].restored[:, :-1]).any()
    sizes.clear()
    list(trace_facts(model, facts, [config], level=LEVEL))
    assert sizes == [1] * 5


def test_other_subjects_have_their_own_answers() -> None:
    model, facts = tiny_model("llama"), [FACTS[1], Fact.from_prompt("the city of Berlin is in", "Berlin")]
    others = ["Berlin", "Paris"]
    config = TraceConfig(corruption="token", counterfactual="chosen for each")
    found = list(trace_facts(model, facts, [config], counterfactuals=others, level=LEVEL, together=2))
    for fact, other, (one,) in zip(facts, others, found, strict=True):
        own = TraceConfig(corruption="token", counterfactual=other)
        alone = trace_all(model, fact, [own], level=LEVEL)[0]
        assert one.config.counterfactual == other
        assert one.against == alone.against
        assert_same(one, alone)


def test_what_cannot_be_asked() -> None:
    model, config = tiny_model("gpt2"), TraceConfig(samples=1)
    with pytest.raises(ValueError, match="together is 0; expected 1 or more facts to a sweep"):
        next(trace_facts(model, FACTS, [config], together=0))
    with pytest.raises(ValueError, match="1 counterfactuals for 3 facts; give one for each"):
        next(trace_facts(model, FACTS, [config], counterfactuals=["Oslo"]))
