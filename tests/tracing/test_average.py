"""Averages by kind of token: hand-worked positions, agreement with single traces, unknown facts left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facts import Fact
from facts.watch import Cancelled, Watch
from models import LanguageModel
from tests.tiny import tiny_model
from tests.tracing.made import made_result
from tracing import TraceConfig, average_effects, causal_trace, measure_noise
from tracing.average import AverageEffects, by_category, category_positions, map_name
from tracing.engine.several import trace_facts
from tracing.types import CATEGORIES

PROMPTS = (("the Space Needle is in", "Space Needle"), ("in Rome", "Rome"), ("so x is in the city of", "x"))
CONFIGS = [TraceConfig(samples=2), TraceConfig(site="mlp_out", window=3, samples=2)]


def known_facts(model: LanguageModel) -> list[Fact]:
    """Facts whose answer is what the random model says anyway, where that is a word."""
    facts = []
    for prompt, subject in PROMPTS:
        for extra in ("", " old", " big", " new", " Oslo", " tall", " 7"):
            start = prompt + extra
            token = int(model.logits(torch.tensor([model.encode(start)]))[0, -1].argmax())
            word = model.token_strings([token])[0]
            if word.startswith(" ") and word.strip() and word.isprintable():
                facts.append(Fact.from_prompt(start, subject, word.strip()))
    return facts


def test_the_kinds_of_tokens() -> None:
    tokens = tuple("abcdefgh")
    restored = np.zeros((2, 8, 3), dtype=np.float32)
    long = made_result(tokens=tokens, subject_span=(1, 4), restored=restored)
    assert [list(group) for group in category_positions(long)] == [[1], [2], [3], [4], [5, 6], [7]]
    single = made_result(tokens=tokens, subject_span=(6, 7), restored=restored)
    assert [list(group) for group in category_positions(single)] == [[6], [], [6], [], [], [7]]
    at_the_end = made_result(tokens=tokens, subject_span=(6, 8), restored=restored)
    assert [list(group) for group in category_positions(at_the_end)] == [[6], [], [7], [], [], [7]]


def test_a_category_is_the_mean_of_its_tokens() -> None:
    effects = by_category(made_result())  # subject 1..2 of 4 tokens
    assert effects.shape == (6, 3)
    np.testing.assert_allclose(effects[CATEGORIES.index("last_subject")], [0.2, 0.5, 0.4], atol=1e-7)
    assert np.isnan(effects[CATEGORIES.index("middle_subject")]).all()


def test_averages_equal_the_mean_of_single_traces() -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model)
    assert len(facts) >= 3, "the tiny model should say a word after some of the prompts"
    unknown = Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen")
    seen: list[tuple[int, int]] = []
    average = average_effects(model, [*facts, unknown], CONFIGS, watch=Watch(lambda *done: seen.append(done[:2])))
    level = measure_noise(model, [fact.subject for fact in [*facts, unknown]])
    assert (average.n_facts, average.n_unknown) == (len(facts), 1)
    assert seen[-1] == (len(facts) + 1, len(facts) + 1)
    traces = [causal_trace(model, fact, CONFIGS[1], level=level) for fact in facts]
    by_hand = np.mean([trace.indirect_effect[trace.subject_span[1] - 1] for trace in traces], axis=0)
    np.testing.assert_allclose(average.last_subject("mlp_out"), by_hand, atol=1e-6)
    by_hand = np.mean([trace.indirect_effect[-1] for trace in traces], axis=0)
    np.testing.assert_allclose(average.last_token("mlp_out"), by_hand, atol=1e-6)
    assert average.ate == pytest.approx(np.mean([trace.total_effect for trace in traces]), abs=1e-6)
    low, high = average.ate_ci()
    assert low <= average.ate <= high
    frame = average.to_frame()
    assert len(frame) == 2 * 6 * model.n_layers
    assert set(frame["site"]) == {"resid_post", "mlp_out"}
    json.dumps(average.to_dict(), allow_nan=False)
    assert average.unknown == (unknown.prompt,)
    assert average.prompts == tuple(fact.prompt for fact in facts)


def test_two_positions_are_enough_for_two_categories() -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model)
    whole = average_effects(model, facts, CONFIGS)
    part = average_effects(model, facts, CONFIGS, positions=("last_subject", "last_token"))
    np.testing.assert_allclose(part.last_subject(), whole.last_subject(), atol=1e-6)
    np.testing.assert_allclose(part.last_token(), whole.last_token(), atol=1e-6)
    assert np.isnan(part.mean("resid_post", "first_subject")).all()
    assert part.n("resid_post", "further_tokens") == 0


def made_average(effects: np.ndarray, **changes: object) -> AverageEffects:
    """[fact, category, layer] effects of states, of facts with clean 0.9 and corrupted 0.1."""
    n = len(effects)
    average = AverageEffects(
        configs=(TraceConfig(),),
        model_name="made",
        revision="0",
        noise_std=0.1,
        noise_source="a test",
        prompts=tuple(f"fact {number}" for number in range(n)),
        unknown=(),
        unaligned=(),
        clean=np.full(n, 0.9, dtype=np.float32),
        corrupted=np.full(n, 0.1, dtype=np.float32),
        effects={"resid_post": effects.astype(np.float32)},
    )
    return replace(average, **changes)  # type: ignore[arg-type]


def test_the_distribution_stands_beside_the_mean() -> None:
    grid = np.full((5, 6, 3), np.nan)
    grid[:, 2] = [[0.0, 0.5, -0.1], [0.1, 0.5, -0.1], [0.2, 0.5, -0.1], [0.3, 0.5, -0.1], [0.9, 0.4, -0.1]]
    grid[:2, 4] = 0.1
    average = made_average(grid)
    np.testing.assert_allclose(average.mean("resid_post", "last_subject"), [0.3, 0.48, -0.1], atol=1e-6)  # unclipped
    np.testing.assert_allclose(average.quantiles("resid_post", "last_subject", (0.0, 0.5))[:, 0], [0.0, 0.2], atol=1e-6)
    np.testing.assert_array_equal(average.peaks("resid_post"), [1, 4, 0])
    np.testing.assert_array_equal(average.peaks("resid_post", "middle_subject"), [0, 0, 0])
    assert average.n("resid_post", "further_tokens") == 2
    assert average.ate == pytest.approx(0.8)
    marked = average.significant("resid_post")
    np.testing.assert_array_equal(marked[2], [False, True, True])
    np.testing.assert_array_equal(marked[0], [False, False, False])  # not measured
    # with two facts only, these cells are flat: any size is then beyond chance
    np.testing.assert_array_equal(marked[4], [True, True, True])
    frame = average.to_frame()
    row = frame[(frame["category"] == "last_subject") & (frame["layer"] == 0)].iloc[0]
    assert (row["n"], row["q50"], row["significant"]) == (5, pytest.approx(0.2), False)
    each = average.per_fact()
    assert len(each) == 5 * 3 + 2 * 3
    cell = each[(each["prompt"] == "fact 4") & (each["layer"] == 0)]
    assert cell["effect"].tolist() == [pytest.approx(0.9)]


def test_an_average_is_a_file(tmp_path: Path) -> None:
    grid = np.full((2, 6, 3), 0.25)
    grid[0, 1] = np.nan
    average = made_average(grid, configs=(TraceConfig(), TraceConfig(severed="mlp_out")), unknown=("who?",))
    average.effects["resid_post, mlp_out severed"] = average.effects["resid_post"] / 2
    average.save(tmp_path / "average.npz")
    again = AverageEffects.load(tmp_path / "average.npz")
    assert again.configs == average.configs
    assert (again.prompts, again.unknown, again.n_unknown) == (average.prompts, ("who?",), 1)
    assert list(again.effects) == list(average.effects)
    for name, effects in average.effects.items():
        np.testing.assert_array_equal(again.effects[name], effects)


def test_severed_variants_are_maps_of_their_own() -> None:
    model = tiny_model("gpt2")
    facts = known_facts(model)[:2]
    severed = TraceConfig(samples=2, severed="mlp_out")
    average = average_effects(model, facts, [CONFIGS[0], severed, CONFIGS[1]])
    assert list(average.effects) == ["resid_post", "resid_post, mlp_out severed", "mlp_out"]
    level = measure_noise(model, [fact.subject for fact in facts])
    by_hand = [by_category(causal_trace(model, fact, severed, level=level)) for fact in facts]
    np.testing.assert_allclose(average.effects[map_name(severed)], by_hand, atol=1e-6)
    assert not np.allclose(average.last_subject(map_name(severed)), average.last_subject())
    with pytest.raises(ValueError, match="give one config for each map"):
        average_effects(model, facts, [severed, severed])


def test_heads_are_averaged_too() -> None:
    model = tiny_model("gpt2")
    facts = known_facts(model)[:2]
    average = average_effects(model, facts, [TraceConfig(site="attn_heads", samples=2)])
    assert average.effects["attn_heads"].shape == (len(facts), 6, model.n_layers, model.n_heads)
    assert average.mean("attn_heads", "last_token").shape == (model.n_layers, model.n_heads)
    assert set(average.to_frame()["head"]) == set(range(model.n_heads))
    assert average.peaks("attn_heads", "last_token").sum() == len(facts)
    assert average.n("attn_heads", "last_token") == len(facts)


def test_every_fact_gets_its_own_counterfactual() -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model)[:3]
    stand_in = TraceConfig(corruption="token", counterfactual="chosen for each fact")
    with pytest.raises(ValueError, match=r"takes \d+ tokens where the subject"):
        average_effects(model, facts, [stand_in], counterfactual=lambda fact: "Space Needle Tower")
    names = [fact.prompt for fact in facts]
    chosen = dict(zip(names, ["Rome city", None, "Space"], strict=True))
    average = average_effects(model, facts, [stand_in], counterfactual=lambda fact: chosen[fact.prompt])
    assert average.unaligned == (facts[1].prompt,)
    assert average.n_facts == 2
    assert average.noise_source == "another subject of as many tokens for each fact"
    by_hand = []
    for fact, other in ((facts[0], "Rome city"), (facts[2], "Space")):
        own = TraceConfig(corruption="token", counterfactual=other)
        by_hand.append(by_category(causal_trace(model, fact, own)))
    np.testing.assert_allclose(average.effects["resid_post"], by_hand, atol=1e-6)


def test_a_stopped_run_resumes_from_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    unknown = Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen")
    facts = [unknown, *known_facts(model)[:3]]
    whole = average_effects(model, facts, CONFIGS)
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(Cancelled):
        average_effects(model, facts, CONFIGS, journal=journal, watch=Watch(cancelled=lambda: len(lines(journal)) == 3))
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "torn')
    traced: list[str] = []

    def noting(model: LanguageModel, facts: list[Fact], *rest: Any, **more: Any) -> Any:
        traced.extend(fact.prompt for fact in facts)
        return trace_facts(model, facts, *rest, **more)

    monkeypatch.setattr("tracing.engine.averaging.trace_facts", noting)
    resumed = average_effects(model, facts, CONFIGS, journal=journal)
    assert traced == [fact.prompt for fact in facts[2:]]
    assert len(lines(journal)) == 5
    again = average_effects(model, facts, CONFIGS, journal=journal)
    assert len(traced) == 2
    for average in (resumed, again):
        assert (average.unknown, average.prompts) == (whole.unknown, whole.prompts)
        assert (average.noise_std, average.noise_source) == (whole.noise_std, whole.noise_source)
        for name, effects in whole.effects.items():
            np.testing.assert_allclose(average.effects[name], effects, atol=1e-6)
    with pytest.raises(ValueError, match="is of a run with other configs; name a new file"):
        average_effects(model, facts, [TraceConfig(samples=3)], journal=journal)
    with pytest.raises(ValueError, match="is of a run with other revision"):
        average_effects(tiny_model("gpt2"), facts, CONFIGS, journal=journal)
    journal.write_text(journal.read_text(encoding="utf-8").replace("{", '{"chat": true, ', 1), encoding="utf-8")
    with pytest.raises(ValueError, match="is of a run with other chat"):
        average_effects(model, facts, CONFIGS, journal=journal)
    journal.write_text("a diary\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a journal of average_effects"):
        average_effects(model, facts, CONFIGS, journal=journal)


def test_one_prompt_with_another_subject_is_another_fact(tmp_path: Path) -> None:
    model = tiny_model("gpt_neo")
    first = known_facts(model)[0]
    second = Fact.from_prompt(first.prompt, first.subject.split()[-1], first.target_true)
    assert (first.prompt, first.template) != (second.prompt, second.template)
    journal = tmp_path / "journal.jsonl"
    level = measure_noise(model, [first.subject])
    for fact in (first, second):
        kept = average_effects(model, [fact], CONFIGS, level=level, journal=journal)
        alone = average_effects(model, [fact], CONFIGS, level=level)
        np.testing.assert_array_equal(kept.corrupted, alone.corrupted)
    assert len(lines(journal)) == 3


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_what_cannot_be_averaged_is_said() -> None:
    model = tiny_model("gpt_neo")
    unknown = Fact.from_prompt("the Space Needle is in", "Space Needle", "Copenhagen")
    with pytest.raises(ValueError, match="answers none of the 1 facts"):
        average_effects(model, [unknown], CONFIGS)
    with pytest.raises(ValueError, match="has no true answer"):
        average_effects(model, [Fact.from_prompt("Rome is in", "Rome")], CONFIGS)
    with pytest.raises(Cancelled):
        average_effects(model, [unknown], CONFIGS, watch=Watch(cancelled=lambda: True))
    average = average_effects(model, known_facts(model)[:1], CONFIGS[:1])
    with pytest.raises(ValueError, match="'attn_out' was not traced"):
        average.mean("attn_out", "last_token")
    with pytest.raises(ValueError, match="unknown token category"):
        average.mean("resid_post", "verb")  # type: ignore[arg-type]
