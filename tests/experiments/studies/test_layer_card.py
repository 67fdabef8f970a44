"""Layer cards: scores and the rule by hand, gradients against autograd, and a run on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.cells.gradients import mlp_gradients
from experiments.cells.scored import answered
from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.runner import execute
from experiments.studies import layer_card
from experiments.studies.parts.card_numbers import correlations, curve, recommend, score_of
from experiments.studies.parts.known import Drawn
from experiments.workers.inline import Inline
from models import join
from models.cards import read_card
from tests.experiments.studies.made import known_facts, requests_of, run_study
from tests.tiny import tiny_model


def test_a_score_by_hand() -> None:
    result = {"reliability": [1], "paraphrase": [1, 0], "neighborhood": [1, 1, 0, 0], "perplexity_ratio": 1.0}
    assert score_of(result) == pytest.approx(3 / (1 + 2 + 2))
    assert score_of(result | {"perplexity_ratio": 1.1}) == pytest.approx(0.6)
    assert score_of(result | {"perplexity_ratio": 2.2}) == pytest.approx(0.3)
    assert score_of(result | {"neighborhood": []}) == pytest.approx(2 / (1 + 2))
    assert score_of(result | {"reliability": [0]}) == 0
    assert score_of(result | {"perplexity_ratio": None}) == 0
    assert score_of({"refused": "the MLP is silent"}) == 0


def test_a_layer_stands_out_or_the_middle_of_the_tied_ones_is_taken() -> None:
    draw = np.random.default_rng(0)
    clear = np.stack([draw.uniform(0.0, 0.2, 20), draw.uniform(0.7, 0.9, 20), draw.uniform(0.3, 0.5, 20)], axis=1)
    best = recommend([2, 5, 8], clear)
    assert (best["layer"], best["stands_out"], best["tied"]) == (5, True, [5])
    assert best["score"] == pytest.approx(clear[:, 1].mean())
    assert best["against_best"][1] == [0, 0]
    up = np.tile([0.4, 0.6], 10)
    even = np.stack([up, up[::-1], up, up - 0.4], axis=1)  # nothing between the first three
    best = recommend([2, 5, 8, 11], even)
    assert (best["layer"], best["stands_out"], best["tied"]) == (5, False, [2, 5, 8])
    pair = even[:, [0, 3, 1]]  # the lower one of two that lie apart
    assert recommend([2, 5, 8], pair)["layer"] == 2


def test_orders_of_layers_by_hand() -> None:
    scores = dict.fromkeys("ab", np.array([0.1, 0.5, 0.9]))
    effects = {
        "resid_post": dict.fromkeys("ab", np.array([9.0, 0.0, 5.0, 1.0])),
        "mlp_out": dict.fromkeys("ab", np.ones(4)),
    }
    rows = {(one["first"], one["second"]): one for one in correlations([0, 2, 3], scores, effects)}
    assert rows["edit", "resid_post"]["rho"] == -1
    assert rows["edit", "resid_post"]["n_layers"] == 3
    assert rows["edit", "mlp_out"]["rho"] is None  # effects that do not vary order nothing


def test_orders_are_compared_over_the_same_facts() -> None:
    """A fact that could not be traced is left out of both, whatever stands first."""
    draw = np.random.default_rng(0)
    scores = dict(zip("abcdef", draw.random((6, 3)), strict=True))
    traced = {fact: scores[fact] for fact in "fedcb"}
    (row,) = correlations([0, 1, 2], scores, {"resid_post": traced})
    assert row["rho"] == 1
    assert row["interval"] == [1, 1]


def test_too_few_facts_have_no_interval_and_no_card() -> None:
    with pytest.raises(ValueError, match="2 of the facts could be traced; a card needs at least 3"):
        curve(np.array([[0.0], [1.0]]))
    assert curve(np.array([[0.0], [1.0], [0.5]]))["mean"] == [0.5]


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "opt", "falcon"])
def test_gradients_are_those_of_the_weight(family: str) -> None:
    model = tiny_model(family)
    ids, n_prompt = join(model, "the Space Needle is in", "Paris")
    names = [model.architecture.key_weight_name(layer) for layer in range(model.n_layers)]
    weights = [model.weight(name).detach().clone().requires_grad_(True) for name in names]
    rows = torch.tensor([ids])
    logits = torch.func.functional_call(
        model.module, dict(zip(names, weights, strict=True)), kwargs={"input_ids": rows, "use_cache": False}
    ).logits[0, n_prompt - 1 : -1]
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, rows[0, n_prompt:]), weights)
    found = mlp_gradients(model, "the Space Needle is in", "Paris")
    assert len(found) == model.n_layers
    for (keys, slopes), dense, weight in zip(found, expected, weights, strict=True):
        mine = (slopes.T @ keys).float()
        mine = mine if mine.shape == weight.shape and family != "gpt2" else mine.T
        torch.testing.assert_close(mine, dense, rtol=1e-4, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_only_neighbours_that_the_model_answers_count() -> None:
    model = tiny_model("gpt_neo")
    (request, *_) = requests_of(known_facts(model, 2))
    shares = answered(model, model, request)
    assert shares["reliability"] == [0]  # the unedited model does not say the new answer
    assert shares["paraphrase"] == [0]
    assert all(shares["neighborhood"])


def test_a_card_from_plan_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    model = tiny_model("gpt_neo")
    requests = tuple(requests_of(known_facts(model, 3)))
    monkeypatch.setattr(layer_card, "draw_requests", lambda *_, **__: Drawn(requests))
    monkeypatch.setattr(layer_card, "KEPT_FROM", 3)
    monkeypatch.setattr(layer_card, "prompted", lambda model, requests, *_: requests)
    words = ("--facts", "3", "--layers", "0", "2", "--samples", "2", "--method", "ft", "--try", "steps=2")
    plan, ledger, record = run_study(model, "layer-card", tmp_path / "run", *words)
    assert [cell.kind for cell in plan.cells] == ["average", *["gradients"] * 3, *["scored"] * 6]
    assert record["found"]["tried"] == []
    second = layer_card.follow(ledger, "layer-card")
    assert second is not None
    assert [cell.spec["settings"]["steps"] for cell in second.cells] == [2, 2, 2]
    execute(ledger, ledger.add(second, identity_of(model)), Inline(model))
    assert ledger.only_run() == "layer-card"
    layer_card.summarise(ledger, "layer-card", tmp_path / "out")
    card = read_card(tmp_path / "out" / "layer-card.json")
    assert card.size == ("gpt_neo", model.n_layers, model.d_model)
    assert (card.revision, card.n, card.method) == (model.revision, 3, "ft")
    assert card.layer in (0, 2)
    assert card.subjects == {request.fact.subject for request in requests}
    values = json.loads((tmp_path / "out" / "layer-card.json").read_text(encoding="utf-8"))
    assert values["tried"][0]["n"] == 3
    assert [len(curve["mean"]) for curve in values["effects"].values()] == [model.n_layers] * 3
    assert (tmp_path / "cache" / "cards" / f"{model.revision[:16]}.json").is_file()
    assert not Ledger(tmp_path / "run").failures("layer-card")
