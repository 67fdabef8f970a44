"""SERAC: the base untouched outside the scope, the counterfactual model inside it, decided on the prompt alone."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from editing import apply_edits, get_method
from editing.applied.router import SeracRouter
from editing.methods.trained.serac import SeracMethod
from editing.ops import RouteOp
from editing.prefix import behind
from editing.train.artefact import Artefact, load_artefact, save_artefact
from editing.train.editors.scope import PromptReader, ScopeNetwork, balanced_bce, squared_distance
from editing.train.editors.serac_trainer import calibrated, context_ids
from tests.editing.train.toys import OTHER, REQUEST, serac_trainer
from tests.editing.trained import editor, ids_of, made
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
PROMPT = REQUEST.fact.prompt
FAR = "Miles Davis plays the"


def router() -> SeracRouter:
    return SeracRouter(load_artefact(Path(editor("serac")), "serac", MODEL.revision))


def op_of(edit) -> RouteOp:  # type: ignore[no-untyped-def]
    (op,) = edit.ops
    assert isinstance(op, RouteOp)
    return op


def score(edit, prompt: str) -> float:  # type: ignore[no-untyped-def]
    return float(router().scores(MODEL, MODEL.encode(prompt), [op_of(edit)])[0])


def test_out_of_scope_is_the_base_bit_for_bit() -> None:
    digest, generator = MODEL.weights_digest(), torch.get_rng_state()
    edit = made("serac", MODEL, REQUEST, threshold=0.999)
    view = apply_edits(MODEL, [edit])
    assert MODEL.weights_digest() == digest
    assert torch.equal(torch.get_rng_state(), generator)
    for prompt in (FAR, "Berlin London"):
        assert score(edit, prompt) < 0.999
        assert torch.equal(view.logits(ids_of(MODEL, prompt)), MODEL.logits(ids_of(MODEL, prompt)))
        assert view.generate([prompt], 4) == MODEL.generate([prompt], 4)
    both = torch.cat([ids_of(MODEL, FAR)[:, :5], ids_of(MODEL, PROMPT)[:, :5]])  # a mixed batch
    assert torch.equal(view.logits(both)[0], MODEL.logits(both)[0])
    assert torch.equal(view.without(edit.digest).logits(ids_of(MODEL, PROMPT)), MODEL.logits(ids_of(MODEL, PROMPT)))


def test_an_edit_out_of_reach_of_its_own_prompt_is_told() -> None:
    """With a threshold of 1 nothing is in scope: the new answer is as likely as before, and the edit warns."""
    edit = made("serac", MODEL, REQUEST, threshold=1.0)
    before, after = edit.diagnostic("p(new) before"), edit.diagnostic("p(new) after")
    assert after.value == before.value
    assert after.warning.startswith("the edited model gives 'Paris' a probability of only")


def test_in_scope_is_the_counterfactual_model_run_by_hand() -> None:
    edit = made("serac", MODEL, REQUEST)
    context = context_ids(MODEL, REQUEST.fact, REQUEST.target_new)
    assert MODEL.decode(context) == "New fact: the Space Needle is located in the city of Paris."
    read, lead = behind(MODEL, context, MODEL.encode(PROMPT))
    answers = router().counterfactual(MODEL)
    assert answers.weights_digest() != MODEL.weights_digest()
    states = answers.logits(torch.tensor([read]))[0]
    wanted = torch.cat([states[:lead], states[lead + len(context) :]])
    found = apply_edits(MODEL, [edit]).logits(ids_of(MODEL, PROMPT))[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, MODEL.logits(ids_of(MODEL, PROMPT))[0], atol=1e-3)


def test_a_prompt_is_itself_and_the_threshold_is_monotone() -> None:
    edit = made("serac", MODEL, REQUEST)
    assert score(edit, PROMPT) == pytest.approx(1.0, abs=1e-6)
    scores = {prompt: score(edit, prompt) for prompt in (PROMPT, "The Space Needle is in", FAR, "Berlin")}
    assert all(0 <= value <= 1 + 1e-9 for value in scores.values())
    routed = []
    for threshold in (0.01, 0.3, 0.6, 0.9):
        view = apply_edits(MODEL, [made("serac", MODEL, REQUEST, threshold=threshold)])
        routed.append({prompt for prompt in scores if view.route(MODEL.encode(prompt)) is not None})
        assert routed[-1] == {prompt for prompt, value in scores.items() if value > threshold}
    assert all(later <= earlier for earlier, later in pairwise(routed))


def test_the_answer_s_tokens_decide_nothing() -> None:
    """A prompt with an answer behind it is routed like the prompt alone."""
    view = apply_edits(MODEL, [made("serac", MODEL, REQUEST)])
    ids = MODEL.encode(PROMPT)
    whole = torch.tensor([[*ids, *MODEL.tokenize(" Berlin London Oslo", special_tokens=False)]])
    scored = view.logits(whole, prompt_lengths=[len(ids)])[0, : len(ids)]
    torch.testing.assert_close(scored, view.logits(torch.tensor([ids]))[0], rtol=1e-5, atol=1e-5)
    keys = router().keys(MODEL, [ids])
    assert torch.equal(op_of(made("serac", MODEL, REQUEST)).keys, keys)
    other = type(REQUEST)(REQUEST.fact, "Oslo Rome")
    assert torch.equal(op_of(made("serac", MODEL, other)).keys, keys)


def test_entries_do_not_disturb_each_other_and_the_latest_wins() -> None:
    first, unrelated = made("serac", MODEL, REQUEST), made("serac", MODEL, OTHER)
    alone = apply_edits(MODEL, [first])
    ids = ids_of(MODEL, PROMPT)
    assert torch.equal(apply_edits(MODEL, [first, unrelated]).logits(ids), alone.logits(ids))
    assert torch.equal(apply_edits(MODEL, [unrelated, first]).logits(ids), alone.logits(ids))
    changed = made("serac", alone, type(REQUEST)(REQUEST.fact, "Rome"), active=(first,))
    assert changed.diagnostic("memory").value == 2
    routed = apply_edits(alone, [changed]).route(MODEL.encode(PROMPT))
    assert routed is not None
    assert list(routed[1]) == context_ids(MODEL, REQUEST.fact, "Rome")
    batch = made("serac", MODEL, REQUEST, OTHER)
    together = apply_edits(MODEL, [batch])
    for request in (REQUEST, OTHER):
        routed = together.route(MODEL.encode(request.fact.prompt))
        assert routed is not None
        assert list(routed[1]) == context_ids(MODEL, request.fact, request.target_new)


def test_the_subject_gate_looks_for_the_subject_s_letters() -> None:
    gated = made("serac", MODEL, REQUEST, subject_gate=True)
    assert score(gated, PROMPT) == pytest.approx(1.0, abs=1e-6)
    assert score(gated, OTHER.fact.prompt) == 0.0
    assert score(made("serac", MODEL, REQUEST), OTHER.fact.prompt) > 0.0


def test_each_loss_reaches_its_own_part() -> None:
    trainer = serac_trainer(MODEL)
    parts = {"scope": trainer.learned.scope, "answers": trainer.learned.answers}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}

    def moved(name: str) -> bool:
        return any(not torch.equal(p, old) for p, old in zip(parts[name].parameters(), before[name], strict=True))

    episodes = trainer.training.draw(random.Random(0), 8)
    trainer._scope_step(episodes)
    assert (moved("scope"), moved("answers")) == (True, False)
    before["scope"] = [p.detach().clone() for p in parts["scope"].parameters()]
    trainer._answers_step(random.Random(0), episodes)
    assert (moved("scope"), moved("answers")) == (False, True)


def test_training_tells_subjects_apart_and_answers_as_told() -> None:
    trainer = serac_trainer(MODEL)
    before = trainer.validate()
    losses = [trainer.step(number, 0.0) for number in range(60)]
    after = trainer.validate()
    assert sum(line["answers"] for line in losses[-10:]) < 0.7 * sum(line["answers"] for line in losses[:10])
    assert after["recall"] - after["false_alarms"] > before["recall"] - before["false_alarms"]
    assert after["recall"] - after["false_alarms"] >= 0.4
    with torch.no_grad():  # the control: embeddings of other tokens
        order = torch.randperm(len(trainer.learned.scope.projection), generator=torch.Generator().manual_seed(0))
        trainer.learned.scope.projection.copy_(trainer.learned.scope.projection[order])
    control = trainer.validate()
    assert control["recall"] - control["false_alarms"] < after["recall"] - after["false_alarms"]


def test_the_loss_is_balanced() -> None:
    """Hand-worked: mean of d over positives, mean of -log(1 - exp(-d)) over negatives."""
    distance = torch.tensor([0.5, 1.5, 2.0])
    same = torch.tensor([True, True, False])
    assert float(balanced_bce(distance, same)) == pytest.approx(1.0 + 0.145413, abs=1e-5)


def test_the_threshold_is_calibrated_between_right_and_wrong() -> None:
    """Two entries; their paraphrases score .8 and .7, their bystanders .3 and .6."""
    scores = torch.tensor([[1.0, 0.8, 0.3, 0.1, 0.1, 0.2], [0.1, 0.2, 0.1, 1.0, 0.7, 0.6]])
    about = [(0, "edit"), (0, "paraphrase"), (0, "same_relation"), (1, "edit"), (1, "paraphrase"), (1, "random")]
    assert 0.6 <= calibrated(scores, about) < 0.7


def test_a_key_does_not_depend_on_the_prompts_read_with_it() -> None:
    network = ScopeNetwork(MODEL.d_model, heads=2, width=8)
    prompts = [MODEL.encode(text) for text in (PROMPT, FAR, "Berlin")]
    network.requires_grad_(False)
    together = network(PromptReader(MODEL).read(prompts))
    for key, prompt in zip(together, prompts, strict=True):
        torch.testing.assert_close(network(PromptReader(MODEL).read([prompt]))[0], key, rtol=1e-4, atol=1e-6)
    assert float(squared_distance(together[0], together[1])) > 0


def test_another_editor_in_its_place_is_refused(tmp_path: Path) -> None:
    edit = made("serac", MODEL, REQUEST)
    artefact = load_artefact(Path(editor("serac")), "serac", MODEL.revision)
    save_artefact(
        Artefact("serac", MODEL.revision, artefact.settings, {"score": 0.1}, artefact.tensors), tmp_path / "other"
    )
    config = type(edit.config)(artefact=str(tmp_path / "other"))
    method = get_method("serac")
    assert isinstance(method, SeracMethod)
    moved = type(edit)(edit.method, edit.requests, config, edit.ops, edit.model_revision)
    with pytest.raises(ValueError, match=r"was made with the serac editor .* is there now; make the edit again"):
        apply_edits(MODEL, [moved])
