"""Averages over facts in many cells: the same numbers as in one piece, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.cells import average as average_cells
from experiments.kinds import get_kind
from experiments.ledger.records import Entry, entries
from experiments.studies import get_study
from experiments.studies.average_effects import average_of, peaks_table, work_of
from experiments.studies.parts import output
from experiments.studies.parts.known import draw_facts, draw_requests, first_known
from facts import Fact
from tests.experiments.studies.made import known_facts, options_of, run_study, write_facts
from tests.tiny import tiny_model
from tracing import AverageEffects, TraceConfig, average_effects, measure_noise


def result(effect: float, n: int, **changes: Any) -> dict[str, Any]:
    """A cell's result with `n` facts whose effect is the same in all of 6 categories x 2 layers."""
    return {
        "model_name": "made",
        "revision": "0",
        "noise_std": 0.5,
        "noise_source": "noise",
        "prompts": [f"{effect} {index}" for index in range(n)],
        "unknown": [],
        "unaligned": [],
        "clean": np.full(n, 0.9, dtype=np.float32),
        "corrupted": np.full(n, 0.1, dtype=np.float32),
        "effects/resid_post": np.full((n, 6, 2), effect, dtype=np.float32),
        **changes,
    }


def test_cells_are_averaged_fact_by_fact() -> None:
    found = average_cells.merged(
        [result(0.1, 3), result(0.5, 1, unknown=["who?"])], [TraceConfig()], unknown=["what?"], unaligned=["where?"]
    )
    # four facts of which three have 0.1: each fact weighs the same, not each cell
    np.testing.assert_allclose(found.mean("resid_post", "last_subject"), [0.2, 0.2], atol=1e-7)
    # t(3) = 3.182, standard deviation 0.2: 0.2 +- 3.182 x 0.2 / 2
    low, high = found.ci("resid_post", "last_subject")
    np.testing.assert_allclose([low[0], high[0]], [0.2 - 0.3182, 0.2 + 0.3182], atol=1e-4)
    assert found.ate == pytest.approx(0.8)
    assert (found.n_facts, found.unknown, found.unaligned) == (4, ("what?", "who?"), ("where?",))
    with pytest.raises(ValueError, match="no cell is finished"):
        average_cells.merged([], [])


def test_the_best_layer_of_each_kind_of_token() -> None:
    grid = np.full((3, 6, 2), np.nan, dtype=np.float32)
    grid[:, 2] = [[0.1, 0.3], [0.3, 0.2], [0.2, 0.25]]
    average: AverageEffects = average_cells.merged([result(0.0, 3, **{"effects/resid_post": grid})], [TraceConfig()])
    # means 0.2 and 0.25; t(2) = 4.303, standard deviation of (0.3, 0.2, 0.25) is 0.05: 0.25 +- 4.303 x 0.02887
    assert peaks_table(average).splitlines()[2:] == [
        "| residual stream | Last subject token | 3 | 1 | 0.250 (0.126 to 0.374) | 67 % |"
    ]


def test_work_is_counted_from_the_first_cell_to_the_last() -> None:
    def entry(states: int, finished: float, seconds: float) -> Entry:
        from experiments.ledger.payload import encode

        notes = {"seconds": seconds, "cpu_seconds": seconds / 2}
        return Entry(0, "", "average", 1, {}, "done", 0, "", encode({"states": states}), notes, finished)

    work = work_of([entry(30, 110.0, 10.0), entry(50, 116.0, 8.0)])
    assert work == {
        "states": 80,
        "worker_seconds": 18.0,
        "cpu_seconds": 9.0,
        "wall_seconds": 16.0,
        "states_per_second": 5.0,
    }


def maps(seed: int) -> list[TraceConfig]:
    """What the study asks for of a cell."""
    shared = TraceConfig(samples=2, seed=seed)
    return [
        shared,
        replace(shared, site="mlp_out", window=3),
        replace(shared, site="attn_out", window=3),
        replace(shared, severed="mlp_out"),
        replace(shared, severed="attn_out"),
    ]


def test_a_run_finds_what_one_call_finds(tmp_path: Path) -> None:
    model = tiny_model("gpt_neo")
    facts = known_facts(model, 3)
    unknown = Fact.from_prompt("the Space Needle is in Oslo", "Space Needle", "Copenhagen")
    source = write_facts(tmp_path / "facts.json", [*facts, unknown])
    words = ("--facts", "3", "--samples", "2", "--block", "2", "--source", str(source), "--window", "3")
    plan, ledger, record = run_study(model, "average-effects", tmp_path / "run", *words)
    assert len(plan.cells) == 2
    average = average_of(list(entries(ledger, "average-effects")), record["about"]["unknown"])
    assert set(average.prompts) == {fact.prompt for fact in facts}
    order = [next(fact for fact in facts if fact.prompt == prompt) for prompt in average.prompts]
    level = measure_noise(model, [fact.subject for fact in order])
    parts = [average_effects(model, some, maps(seed), level=level) for seed, some in enumerate((order[:2], order[2:]))]
    assert list(average.effects) == list(parts[0].effects)
    for name in average.effects:
        effects = np.concatenate([part.effects[name] for part in parts])
        np.testing.assert_allclose(average.effects[name], effects, atol=1e-6)
    found = record["found"]
    assert found["n"] == 3
    assert found["n_unknown"] == len(record["about"]["unknown"])
    totals = np.concatenate([part.clean - part.corrupted for part in parts])
    assert found["ate"] == pytest.approx(totals.mean(), abs=1e-6)
    half = 4.3027 * totals.std(ddof=1) / np.sqrt(3)  # t of 2 degrees
    assert found["ate_ci"] == pytest.approx([totals.mean() - half, totals.mean() + half], abs=1e-4)
    tokens = sum(len(model.encode(fact.prompt)) for fact in facts)
    assert found["work"]["states"] == 5 * model.n_layers * tokens
    table = pd.read_csv(tmp_path / "run" / "out" / "average-effects.csv")
    assert len(table) == 5 * 6 * model.n_layers
    assert "3 facts it knows" in (tmp_path / "run" / "out" / "average-effects.md").read_text(encoding="utf-8")


def test_two_facts_have_files_and_no_interval(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    source = str(write_facts(tmp_path / "facts.json", known_facts(model, 2)))
    words = ("--facts", "2", "--source", source, "--samples", "2", "--window", "2")
    _, _, record = run_study(model, "average-effects", tmp_path / "run", *words)
    assert (record["found"]["n"], record["found"]["ate_ci"]) == (2, [None, None])


@pytest.mark.parametrize("study", ["layer-card", "layer-sweep"])
def test_layers_are_not_compared_over_one_fact(study: str) -> None:
    with pytest.raises(ValueError, match=r"1 facts were asked for; expected at least [23]"):
        get_study(study).plan(options_of(study, "--facts", "1"), tiny_model("gpt2"))


def test_facts_the_model_does_not_know_are_passed_over_and_counted() -> None:
    facts = [Fact(str(number), "{} is", "x") for number in range(6)]
    drawn = first_known(facts, 2, lambda fact: int(fact.subject) % 2 == 1)
    assert [fact.subject for fact in drawn.items] == ["1", "3"]
    assert drawn.unknown == ("0 is", "2 is")  # those behind the last one needed were never asked
    with pytest.raises(ValueError, match="4 facts were asked for and the model knows 3 of 6; ask for fewer"):
        first_known(facts, 4, lambda fact: int(fact.subject) % 2 == 1)
    with pytest.raises(ValueError, match="expected at least 1"):
        first_known(facts, 0, lambda fact: True)


@pytest.mark.parametrize("draw", [draw_facts, draw_requests])
def test_a_file_without_true_answers_is_named_as_such(draw: Callable[..., Any], tmp_path: Path) -> None:
    """Not as one of which the model knows nothing; where some rows have an answer, the others are counted."""
    path = tmp_path / "asked.csv"
    model = tiny_model("gpt2")
    (known,) = known_facts(model, 1)
    head, untold = "subject,prompt,target_new,target_true\n", "Rome,Rome is in,France,\n"
    path.write_text(head + untold, encoding="utf-8")
    with pytest.raises(ValueError, match=r"asked\.csv states no true answer"):
        draw(model, str(path), 1, 0)
    path.write_text(f"{head}{untold}{known.subject},{known.prompt},nowhere,{known.target_true}\n", encoding="utf-8")
    drawn = draw(model, str(path), 1, 0)
    assert drawn.about == {"unknown": [], "rejected_rows": 0, "no_true_answer": 1}


def test_a_cell_checks_its_settings() -> None:
    kind = get_kind("average")
    fact = {"subject": "Rome", "template": "{} is in", "target_true": "Italy", "relation": ""}
    spec = {"facts": [fact], "configs": [{"site": "mlp_out"}], "level": {"sigma": 0.1, "source": "x"}}
    (config,) = kind.complete(spec)["configs"]
    assert (config["site"], config["samples"], config["noise"]) == ("mlp_out", 10, 3.0)
    with pytest.raises(ValueError, match="has no setting 'sites'; choose from additive"):
        kind.complete(spec | {"configs": [{"sites": "mlp_out"}]})
    with pytest.raises(ValueError, match="it needs level"):
        kind.complete({name: value for name, value in spec.items() if name != "level"})
    with pytest.raises(ValueError, match="it has no setting 'seed'"):
        kind.complete(spec | {"seed": 1})
    with pytest.raises(ValueError, match="1 facts have 2 counterfactuals"):
        kind.complete(spec | {"counterfactuals": ["a", "b"]})


def test_the_window_is_the_papers_share_of_the_layers(tmp_path: Path) -> None:
    from experiments.studies.average_effects import plan

    model = tiny_model("gpt_neo")
    source = str(write_facts(tmp_path / "facts.json", known_facts(model, 1)))
    options = options_of("average-effects", "--facts", "1", "--source", source)
    cell = plan(options, model).cells[0]
    assert [config.get("window") for config in cell.spec["configs"]] == [None, 1, 1, None, None]  # 10 of 48 of 4


def test_numbers_are_written_with_their_intervals() -> None:
    assert output.between(0.5, 0.25, 0.75) == "0.500 (0.250 to 0.750)"
    assert output.between(-0.00001, -0.01, 0.01) == "0.000 (-0.010 to 0.010)"
    assert output.between(0.5, None, None, 1) == "0.5"
    assert output.between(None, None, None) == "–"
    assert output.between(float("nan"), 0.0, 1.0) == "–"
    assert output.markdown(("a", "b"), [("x|y", 1)]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |\n"
