"""The whole path without a page, on tiny random models: look, trace, edit, evaluate."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from app import workflow
from facts import Fact
from facts.watch import Cancelled, Watch
from models import LanguageModel, load_model
from models.text.tokens import join

PROMPT, SUBJECT = "The Space Needle is located in the city of", "Space Needle"
QUICK = {"layer": 1, "steps": 2, "prefixes": 1, "moment_tokens": 200, "second_moment": "identity"}


@pytest.fixture
def model(tiny: Callable[[str], LanguageModel]) -> LanguageModel:
    return tiny("gpt2")


def test_look_tells_tokens_subject_and_answer(model: LanguageModel) -> None:
    seen = workflow.look(model, PROMPT, SUBJECT)
    assert "".join(seen.tokens) == PROMPT
    assert "".join(seen.tokens[slice(*seen.span)]).strip() == SUBJECT
    assert [p for _, p in seen.top] == sorted((p for _, p in seen.top), reverse=True)
    assert seen.answer == "Seattle"  # from the atlas
    assert not seen.knows
    assert not seen.own
    own = workflow.look(model, "Say the Space Needle is in", SUBJECT)
    assert (own.rank, own.own, own.knows) == (1, True, False)  # its own answer is its first, and nobody said it is true


def test_only_a_stated_answer_is_known() -> None:
    """The bundled model on a prompt that the atlas does not hold word by word, so that nobody has said what is true."""
    bundled, prompt = load_model("reference"), f"{PROMPT.replace('The', 'the')}"
    own = workflow.look(bundled, prompt, SUBJECT)
    assert (own.answer, own.rank, own.own, own.knows) == ("Seattle", 1, True, False)
    told = workflow.look(bundled, prompt, SUBJECT, "Seattle")
    assert (told.own, told.knows) == (False, True)
    from_the_atlas = workflow.look(bundled, PROMPT, SUBJECT)
    assert (from_the_atlas.own, from_the_atlas.knows) == (False, True)
    wrong = workflow.look(bundled, prompt, SUBJECT, "Rome")
    assert (wrong.own, wrong.knows, wrong.rank > 1) == (False, False, True)


def test_an_answer_is_known_only_as_a_whole() -> None:
    """It begins as the model does, and goes on as it does not."""
    bundled = load_model("reference")
    half = workflow.look(bundled, PROMPT, SUBJECT, "Seattle Harbor")
    ids, n_prompt = join(bundled, PROMPT, "Seattle Harbor")
    log_probs = bundled.logits(torch.tensor([ids]))[0].double().log_softmax(-1)
    by_hand = sum(float(log_probs[at - 1, ids[at]]) for at in range(n_prompt, len(ids)))
    assert half.p_answer == pytest.approx(math.exp(by_hand), rel=1e-4)
    assert half.rank > 1
    assert not half.knows


def test_trace_gives_a_map_for_each_site(model: LanguageModel) -> None:
    steps: list[tuple[int, int]] = []
    fact = Fact.from_prompt(PROMPT, SUBJECT)
    state, mlp = workflow.locate(
        model,
        fact,
        ["resid_post", "mlp_out"],
        window=2,
        samples=2,
        watch=Watch(lambda done, total, stage: steps.append((done, total))),
    ).results
    assert (state.config.window, mlp.config.window) == (1, 2)
    assert state.indirect_effect.shape == mlp.indirect_effect.shape == (len(state.tokens), model.n_layers)
    assert "subjects" in mlp.noise_source
    assert steps[-1][0] == steps[-1][1]


def test_a_trace_shows_its_first_sample_where_somebody_looks(model: LanguageModel) -> None:
    shown: list[workflow.Located] = []
    located = workflow.locate(
        model,
        Fact.from_prompt(PROMPT, SUBJECT),
        ["resid_post", "mlp_out"],
        samples=3,
        watch=Watch(show=shown.append),  # type: ignore[arg-type]
    )
    (early,) = shown
    assert [result.config.site for result in early.results] == ["resid_post", "mlp_out"]
    assert [len(result.restored) for result in (*early.results, *located.results)] == [1, 1, 3, 3]
    np.testing.assert_allclose(early.main.restored, located.main.restored[:1], atol=1e-6)


def test_run_edit_reports_five_metrics_and_leaves_the_model_alone(model: LanguageModel) -> None:
    before = model.weights_digest()
    request = workflow.request_for(model, PROMPT, SUBJECT, "", "Paris")
    assert request.fact.target_true == "Seattle"
    change, report = workflow.run_edit(model, request, "rome", QUICK, trace_seconds=1.5)
    assert model.weights_digest() == before
    for name in ("reliability", "generalization", "locality", "portability", "efficiency"):
        report.headline(name)  # type: ignore[arg-type]
    assert report.efficiency.trace_seconds == 1.5
    assert report.efficiency.apply_seconds is not None
    assert report.efficiency.undo_seconds is not None
    assert report.efficiency.parameters_changed == change.parameters_changed
    assert report.about["layer"] == 1
    assert report.model_revision == model.revision


def test_probes_can_be_given_and_own_answers_fill_the_truth(model: LanguageModel) -> None:
    own = workflow.look(model, "Say the Space Needle is in", SUBJECT).answer
    rows = [("paraphrase", "They built the Space Needle in", "Paris")]
    request = workflow.request_for(model, "Say the Space Needle is in", SUBJECT, "", "Paris", rows)
    assert request.fact.target_true == own
    with pytest.raises(ValueError, match=r"the model itself answers .* here; give a new answer that differs from it"):
        workflow.request_for(model, "Say the Space Needle is in", SUBJECT, "", own)
    assert [probe.prompt for probe in request.probes] == ["They built the Space Needle in"]
    assert workflow.request_for(model, PROMPT, SUBJECT, "", "Paris", []).probes == ()


def test_errors_are_sentences(model: LanguageModel) -> None:
    request = workflow.request_for(model, PROMPT, SUBJECT, "", "Paris")
    with pytest.raises(ValueError, match="unknown method"):
        workflow.edit(model, request, "magic")
    with pytest.raises(ValueError, match="out of range"):
        workflow.edit(model, request, "rome", QUICK | {"layer": 99})
    with pytest.raises(ValueError, match="does not occur"):
        workflow.look(model, PROMPT, "Eiffel Tower")
    with pytest.raises(ValueError, match="equals the true answer"):
        workflow.request_for(model, PROMPT, SUBJECT, "", "Seattle")


def test_an_edit_can_be_cancelled(model: LanguageModel) -> None:
    request = workflow.request_for(model, PROMPT, SUBJECT, "", "Paris")
    with pytest.raises(Cancelled):
        workflow.edit(model, request, "rome", QUICK, watch=Watch(cancelled=lambda: True))
