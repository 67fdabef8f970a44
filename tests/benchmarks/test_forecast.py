"""The benchmarks of forecasts and of layer cards: what they count, on tiny models, and that a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import forecast, layer_cards
from benchmarks.parts.journal import journaled
from editing.forecast import Forecaster
from facts import EditRequest, Fact
from tests.experiments.studies.made import known_facts, requests_of
from tests.tiny import tiny_model
from tracing import measure_noise


def test_a_journal_goes_on_and_refuses_what_it_is_not_about(tmp_path: Path) -> None:
    path, made = tmp_path / "new" / "lines.jsonl", []

    def measure(index: int) -> dict[str, int]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(index)
        return {"square": index**2}

    with pytest.raises(KeyboardInterrupt):
        journaled(path, {"model": "m"}, ["a", "b", "c"], measure)
    made.clear()
    lines = journaled(path, {"model": "m"}, ["a", "b", "c"], measure)
    assert made == [2]
    assert [line["square"] for line in lines] == [0, 1, 4]
    for about, keys in (({"model": "other"}, ["a"]), ({"model": "m"}, ["b"])):
        with pytest.raises(ValueError, match="remove it"):
            journaled(path, about, keys, measure)


def test_shared_words() -> None:
    assert forecast.shared_words("The capital of Chad is", "The capital of Peru is") == pytest.approx(4 / 6)
    assert forecast.shared_words("a b", "c d") == 0


def test_an_edit_is_ranked_against_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    facts = [Fact.from_prompt(f"{name} is a city in", name, "Denmark", "country") for name in ("Rome", "Oslo", "Paris")]
    facts.append(Fact.from_prompt("the Space Needle is big in", "Space Needle", "Seattle", "city"))
    request = EditRequest(Fact.from_prompt("Rome is a city in", "Rome", "Italy", "country"), "Denmark")
    monkeypatch.setattr(forecast, "METHOD", "rome")
    monkeypatch.setattr(
        forecast, "make_edit", lambda model, requests, method, config: _quick(model, requests, method, config)
    )
    line = forecast.measured(Forecaster(model, [fact.prompt for fact in facts]), request, facts, 1)
    assert line["n"] == 3  # without the edited subject's own fact
    assert set(line["rho"]) == set(forecast.RANKINGS)
    assert -1 <= line["rho"]["keys"] <= 1
    assert line["hits"] == 3  # of three prompts all are among the ten
    assert line["lift"] == pytest.approx(1)


def _quick(model, requests, method, config):  # type: ignore[no-untyped-def]
    from editing import make_edit

    return make_edit(model, requests, method, {**config, "second_moment": "identity", "steps": 2, "prefixes": 0})


def test_one_fact_at_three_layers() -> None:
    model = tiny_model("gpt2")
    (request, *_) = requests_of(known_facts(model, 2))
    level = measure_noise(model, [request.fact.subject])
    settings = {"second_moment": "identity", "steps": 2, "prefixes": 0}
    line = layer_cards.measured(model, request, 2, settings, level)
    assert line["ways"]["card"]["layer"] == 2
    assert 0 <= line["ways"]["trace"]["layer"] < model.n_layers
    same = [way for way in line["ways"].values() if way["layer"] == 2]
    assert all(way == same[0] for way in same)
    lines = [line] * 3
    text = layer_cards.table(model, lines)
    assert f"| {model.name} | the card's layer | 2 | 3 | {line['ways']['card']['score']:.2f}" in text
    assert np.isfinite(line["ways"]["card"]["score"])
