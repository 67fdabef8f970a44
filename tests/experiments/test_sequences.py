"""Sequences and the guard on tiny random models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from editing import DenseDelta, Edit
from editing.registry import METHODS
from experiments.guard import guarded
from experiments.kinds import Context, get_kind
from experiments.sequences import edits_in_turn, run_sequence
from facts import EditRequest, Fact, Probe
from facts.records import request_record
from facts.watch import Cancelled, Watch
from models import LanguageModel
from models.reference.corpus import sample_texts
from tests.tiny import tiny_model

TEXTS = ("The Space Needle is a tower in downtown Seattle.", "Marie Curie was born in Warsaw.")
QUICK = {"layer": 3, "steps": 30, "learning_rate": 0.5}
ANSWERS = {"Berlin": "is", "London": "of", "Madrid": "in", "Vienna": "of"}
REQUESTS = [
    EditRequest(
        Fact(name, "{} is the capital of", "Rome"),
        answer,
        (Probe("paraphrase", f"In {name} is", answer), Probe("neighborhood", f"{name} has", "x")),
    )
    for name, answer in ANSWERS.items()
]


class _Breaker:
    """Replaces one weight by noise when asked about London, else does next to nothing."""

    name, title, family, batch, needs = "ft", "Breaker", "fine-tuning", False, frozenset[str]()
    config_type = METHODS["grace"].config_type

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: Any,
        *,
        active: Sequence[Edit] = (),
        **_: Any,
    ) -> Edit:
        if requests[0].fact.subject == "Vienna":
            raise ValueError("no edit for Vienna")
        size = 50.0 if requests[0].fact.subject == "London" else 1e-4
        name = f"{model.architecture.head}.weight"
        noise = torch.randn(model.d_vocab, model.d_model, generator=torch.Generator().manual_seed(len(active)))
        return Edit("ft", tuple(requests), config, (DenseDelta(name, size * noise),), model.revision)


def test_a_memory_keeps_every_edit_and_the_curve_says_so() -> None:
    model = tiny_model("gpt2")
    before = model.weights_digest()
    seen: list[tuple[int, int]] = []
    watch = Watch(lambda done, of, stage: seen.append((done, of)))
    report = run_sequence(model, REQUESTS, "grace", QUICK, every=3, guard_texts=TEXTS, watch=watch)
    assert [point.n_edits for point in report.points] == [0, 3, 4]
    assert report.points[0].retained.reliability.right == 0
    # A random model may go on with half a word, which is no match; what counts is that nothing is lost.
    assert report.share("immediate", "reliability") == report.share("final", "reliability")
    assert report.retention == 1.0
    assert report.points[-1].perplexity is not None
    assert report.failed == report.rolled_back == ()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert model.weights_digest() == before
    batched = run_sequence(model, REQUESTS, "grace", QUICK, batch_size=2, guard_texts=TEXTS)
    assert batched.share("final", "reliability") == report.share("final", "reliability")
    assert batched.batch_size == 2


def test_what_breaks_the_model_is_told_and_rolled_back_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "ft", _Breaker())
    model = tiny_model("gpt2")
    fine, broken = (guarded(model, [REQUESTS[index]], "ft", guard_texts=TEXTS) for index in (0, 1))
    assert not fine.warnings
    assert not broken.rolled_back
    assert any("perplexity of ordinary text went from" in warning for warning in broken.warnings)
    assert any("as large as the weight itself" in warning for warning in broken.warnings)
    ids = torch.tensor([[40, 77, 130]])
    back = guarded(model, [REQUESTS[1]], "ft", guard_texts=TEXTS, active=[fine.edit], roll_back=True)
    assert back.rolled_back
    assert torch.equal(back.view.logits(ids), fine.view.logits(ids))
    run = run_sequence(model, REQUESTS, "ft", guard_texts=TEXTS, roll_back=True)
    assert [index for index, _ in run.rolled_back] == [1]
    assert run.failed == ((3, "no edit for Vienna"),)
    assert run.points[-1].perplexity == pytest.approx(run.points[0].perplexity, rel=0.01)
    kept = run_sequence(model, REQUESTS, "ft", guard_texts=TEXTS)
    assert kept.points[-1].perplexity is None or kept.points[-1].perplexity > 2 * (kept.points[0].perplexity or 0)


def test_a_request_without_an_edit_is_passed_over_and_the_next_builds_on_those_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHODS, "ft", _Breaker())
    model = tiny_model("gpt2")
    order = [REQUESTS[0], REQUESTS[3], REQUESTS[2]]
    first, second, third = edits_in_turn(model, order, "ft")
    assert [list(step.batch) for step in (first, second, third)] == [[0], [1], [2]]
    assert [step.failed for step in (first, second, third)] == ["", "no edit for Vienna", ""]
    assert second.view is first.view
    assert [edit.requests[0].fact.subject for edit in third.view.edits] == ["Berlin", "Madrid"]
    assert third.view.edits[1].parents == (first.view.edits[0].digest,)


def test_a_cell_holds_what_the_report_says() -> None:
    model, kind = tiny_model("gpt2"), get_kind("sequence")
    settings = {name: value for name, value in QUICK.items() if name != "layer"}
    spec = {"requests": [request_record(one) for one in REQUESTS], "method": "grace", "layer": 3, "settings": settings}
    found = kind.run(model, kind.complete({**spec, "every": 3, "texts": 2}), Context())
    report = run_sequence(model, REQUESTS, "grace", QUICK, every=3, guard_texts=sample_texts(2, 7))
    last = report.points[-1]
    assert [point["n_edits"] for point in found["points"]] == [0, 3, 4]
    assert found["points"][-1] == {
        "n_edits": 4,
        "perplexity": last.perplexity,
        "reliability": [last.retained.reliability.right, 4],
        "generalization": [last.retained.generalization.right, 4],
        "locality": [last.retained.locality.right, last.retained.locality.n],
    }
    made = [one["reliability"] for one in found["immediate"]]
    assert made == [[one.reliability.right, 1] for one in report.immediate if one is not None]
    assert found["failed"] == []


def test_the_guard_looks_at_the_subject_before_a_rank_one_edit() -> None:
    model = tiny_model("gpt2")
    word = next(text for text in ("Paris", "Rome", "a", "The", "in") if len(model.encode(text)) == 1)
    request = EditRequest(Fact(word, "{} is the capital of", "x"), "of")
    quick = {"layer": 1, "steps": 2, "prefixes": 1, "second_moment": "identity"}
    found = guarded(model, [request], "rome", quick, guard_texts=TEXTS)
    assert any("single token at the beginning" in warning for warning in found.warnings)
    assert [check.name for check in found.checks][-2:] == ["perplexity before", "perplexity after"]


def test_bad_input_is_told() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="0 requests in batches of 1; expected at least 1 of each"):
        run_sequence(model, [], "grace", QUICK)
    with pytest.raises(ValueError, match="every is 0; expected at least 1 edit"):
        run_sequence(model, REQUESTS, "grace", QUICK, every=0)
    with pytest.raises(ValueError, match="takes one request at a time"):
        run_sequence(model, REQUESTS, "wise", {"layer": 1}, batch_size=2)
    with pytest.raises(ValueError, match="did you mean 'grace'"):
        run_sequence(model, REQUESTS, "grac")
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        guarded(model, REQUESTS[:1], "grace", {"layr": 1})
    with pytest.raises(Cancelled):
        run_sequence(model, REQUESTS, "grace", QUICK, guard_texts=TEXTS, watch=Watch(cancelled=lambda: True))
