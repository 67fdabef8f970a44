"""Asking together gives what asking row by row gives."""

from collections.abc import Callable

import pytest
import torch

from editing.applied.view import EditedModel, apply_edits
from facts import EditRequest, Fact, Probe
from metrics import drift, evaluate
from metrics.asking import together
from metrics.asking.kept import _KEPT
from metrics.drift import text_nll
from models import LanguageModel
from tests.editing import made as by_hand
from tests.tiny import SENTENCES, tiny_model

REQUEST = EditRequest(
    Fact("Space Needle", "The {} is located in the city of", "Seattle"),
    "Rome",
    probes=(
        Probe("paraphrase", "The Space Needle is in", "Rome"),
        Probe("neighborhood", "The Colosseum is in", "Rome"),
        Probe("neighborhood", "The Eiffel Tower is located in the city of", "Paris"),
    ),
    generation_prompts=("The Space Needle",),
)


def edited(model: LanguageModel) -> LanguageModel:
    name = model.architecture.key_weight_name(1)
    return model.view({name: model.weight(name) + 0.1 * torch.randn(model.weight(name).shape)})


def told(model: LanguageModel) -> LanguageModel:
    """With words before every prompt, more than a row of their own may be long."""
    words = by_hand.stated(model, "The Space Needle is in Rome.", SENTENCES[:2])
    return apply_edits(model, [by_hand.made(model, words, method="ice")])


@pytest.mark.parametrize("change", [edited, told])
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "gpt_neo", "bloom"])
def test_a_report_is_the_same_as_row_by_row(
    family: str, change: Callable[[LanguageModel], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = tiny_model(family)
    view = change(model)
    monkeypatch.setattr(together, "MOST_NODES", 40)  # several groups
    reports = []
    for shared in (True, False):
        _KEPT.pop(model, None)
        if not shared:
            for module in ("metrics.asking.together", "metrics.drift"):
                monkeypatch.setattr(f"{module}.shares_beginnings", lambda model: False)
            monkeypatch.setattr(EditedModel, "bare", property(lambda self: self))
        reports.append(evaluate(model, view, REQUEST, guard_texts=SENTENCES[:3]))
    assert [row.after.continuation for row in reports[0].rows] == [row.after.continuation for row in reports[1].rows]
    assert reports[0].texts == reports[1].texts
    for first, second in zip(reports[0].scores, reports[1].scores, strict=True):
        if first.metric != "efficiency":
            values = [value for value in (second.value, second.before) if value is not None]
            assert [value for value in (first.value, first.before) if value is not None] == pytest.approx(
                values, rel=1e-4, abs=1e-5
            )


def test_perplexity_of_texts_that_begin_alike_by_hand() -> None:
    model = tiny_model("llama")
    texts = [*SENTENCES[:2], "x"]
    for text, (nll, count) in zip(texts, text_nll(model, texts), strict=True):
        ids = torch.tensor([model.tokenize(text)])
        log_probs = model.logits(ids)[0, :-1].double().log_softmax(-1)
        assert count == ids.shape[1] - 1
        assert nll == pytest.approx(-float(log_probs.gather(-1, ids[0, 1:, None]).sum()), rel=1e-5, abs=1e-9)


def test_rows_too_long_for_a_tree_are_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = told(tiny_model("llama"))
    rows = [tuple(model.tokenize(text)) for text in SENTENCES[:3]]
    shared = drift._nll(model, rows, lambda _: None)
    monkeypatch.setattr(drift, "LONGEST", 5)
    alone = drift._nll(model, rows, lambda _: None)
    for row in rows:
        assert alone[row] == pytest.approx(shared[row], rel=1e-5)
        log_probs = model.logits(torch.tensor([row]))[0, :-1].double().log_softmax(-1)
        by_hand = -float(log_probs.gather(-1, torch.tensor(row[1:])[:, None]).sum())
        assert alone[row][0] == pytest.approx(by_hand, rel=1e-5)
