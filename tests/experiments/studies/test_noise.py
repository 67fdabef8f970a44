"""The same facts corrupted in several ways: comparisons by hand, and a run on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.studies import noise
from experiments.studies.noise import TOKEN, USUAL, averages_of, compared, ways_of
from experiments.studies.parts.known import Drawn
from tests.experiments.studies.made import known_facts, run_study
from tests.experiments.studies.test_average_effects import result
from tests.tiny import tiny_model
from tracing import AverageEffects, TraceConfig
from tracing.counterfactuals import Counterfactual


def made(curves: list[list[float]], prompts: list[str], corrupted: float) -> AverageEffects:
    """An average with these effects at the last subject token, [fact, layer]."""
    from experiments.cells.average import merged

    n, n_layers = len(curves), len(curves[0])
    grid = np.zeros((n, 6, n_layers), dtype=np.float32)
    grid[:, 2] = curves
    lows = np.full(n, corrupted, dtype=np.float32)
    changes = {"effects/resid_post": grid, "prompts": prompts, "corrupted": lows}
    return merged([result(0.0, n, **changes)], [TraceConfig()])


def test_ways_are_compared_with_the_usual_one() -> None:
    usual = made([[0.1, 0.5, 0.3], [0.7, 0.1, 0.0]], ["a", "b"], 0.1)  # mean 0.4, 0.3, 0.15
    weaker = made([[0.0, 0.1, 0.2], [0.0, 0.1, 0.2]], ["b", "c"], 0.7)  # mean 0, 0.1, 0.2
    table = compared({USUAL: usual, "weaker": weaker}).set_index("way")
    assert table.loc[USUAL, "ate"] == pytest.approx(0.8)
    assert table.loc["weaker", "ate"] == pytest.approx(0.2)
    assert table["peak_layer"].tolist() == [0, 2]
    assert table["peak"].tolist() == pytest.approx([0.4, 0.2])
    assert table.loc[USUAL, "same_shape"] == pytest.approx(1)
    # around their means: (.35, .05, -.40) / 3 and (-.1, 0, .1): -.075 / 3 / sqrt(.285 / 9 x .02)
    assert table.loc["weaker", "same_shape"] == pytest.approx(-0.025 / np.sqrt(0.285 / 9 * 0.02))
    # of the facts both have, "b" peaks at layer 0 usually and at 2 here
    assert table["same_peak"].tolist() == [1.0, 0.0]


def test_the_usual_level_is_always_among_them() -> None:
    ways = ways_of([3, 1])
    assert list(ways) == ["Gaussian, 1 x", USUAL, "uniform, 3 x", TOKEN, "mean embedding"]
    with pytest.raises(ValueError, match="put 3 among them"):
        ways_of([1, 2])


def test_a_study_of_noise_from_plan_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    facts = [fact for fact in known_facts(model, 6) if fact.subject == "Space Needle"][:3]
    monkeypatch.setattr(noise, "draw_facts", lambda *_: Drawn(tuple(facts), ("who?",)))
    others = dict(zip([fact.prompt for fact in facts], ["Rome city", None, "Rome city"], strict=True))

    def aligned(_: object, fact: object, limit: int) -> list[Counterfactual]:
        other = others[fact.prompt]  # type: ignore[attr-defined]  # a Fact
        return [] if other is None else [Counterfactual(other, "x", 0)]

    monkeypatch.setattr("tracing.suggest_counterfactuals", aligned, raising=False)
    words = ("--facts", "3", "--levels", "1", "3", "--samples", "2", "--block", "1")
    plan, ledger, record = run_study(model, "noise", tmp_path, *words)
    assert len(plan.cells) == 5 * 2
    assert record["found"]["n"] == 2
    assert record["about"]["unaligned"] == [facts[1].prompt]
    averages = averages_of(ledger, "noise")
    assert {average.prompts for average in averages.values()} == {(facts[0].prompt, facts[2].prompt)}
    assert "another subject" in averages[TOKEN].noise_source
    assert averages["mean embedding"].noise_source.startswith("the mean of")
    assert averages["Gaussian, 1 x"].noise_std == pytest.approx(averages[USUAL].noise_std / 3)
