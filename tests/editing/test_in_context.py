"""IKE and ICE: what stands before the prompt, letter by letter (Zheng et al. 2023, section 3)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editing import Edit, apply_edits, make_edit
from editing.methods.in_context import IceConfig, IceMethod, IkeConfig, IkeMethod
from editing.ops import PromptOp
from editing.parts.demonstrations import counts, demonstrate, kinds, nearest, question, statement
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from models import LanguageModel
from tests.editing.quick import NEEDLE, REQUESTS, TOWER
from tests.tiny import build_tiny, tiny_chat, tiny_model

ATLAS = load_atlas()


def roomy(positions: int) -> LanguageModel:
    module, tokenizer = build_tiny("gpt2", max_position_embeddings=positions)
    return LanguageModel("tiny gpt2", "1" * 64, module, tokenizer)


def op_of(edit: object) -> PromptOp:
    (op,) = edit.ops  # type: ignore[attr-defined]
    assert isinstance(op, PromptOp)
    return op


def test_the_ratio_of_kinds_is_the_papers_and_near_it_for_fewer() -> None:
    assert counts(32) == {"copy": 4, "update": 12, "retain": 16}
    assert counts(8) == {"copy": 1, "update": 3, "retain": 4}
    for n in range(33):
        found = counts(n)
        assert sum(found.values()) == n
        assert all(abs(found[kind] - n * share / 8) < 1 for kind, share in (("copy", 1), ("update", 3), ("retain", 4)))
    order = kinds(32, 0)
    assert order != sorted(order)
    assert order == kinds(32, 0) != kinds(32, 1)


def test_demonstrations_are_true_to_their_kind() -> None:
    row = next(fact for fact in ATLAS.facts if fact.subject == "Space Needle")
    copy, update, retain = (demonstrate(ATLAS, row, kind, 0) for kind in ("copy", "update", "retain"))
    assert copy.stated == update.stated == retain.stated
    assert copy.stated.target_true != row.object
    assert (copy.prompt, copy.answer) == (copy.stated.prompt, copy.stated.target_true)
    assert update.prompt != copy.prompt
    assert row.subject in update.prompt
    assert update.answer == copy.answer
    assert row.subject not in retain.prompt
    assert (retain.prompt, retain.answer) in {(ATLAS.as_fact(fact).prompt, fact.object) for fact in ATLAS.facts}
    words = statement(copy.stated, "Oslo", "paper") + question(copy.prompt, "Oslo", "paper")
    assert words == f"New Fact: {copy.prompt} Oslo\nPrompt: {copy.prompt} Oslo\n\n"
    assert statement(Fact("It", "The {} is", "a"), "b", "sentence") == " New fact: the It is b."


@pytest.mark.parametrize("similarity", ["embedding", "words"])
def test_the_nearest_facts_come_first_and_never_the_edits_own(similarity: str) -> None:
    model = tiny_model("gpt2")
    row = next(fact for fact in ATLAS.facts if fact.subject == "Space Needle")
    fact = ATLAS.as_fact(row)
    found = nearest(model, ATLAS, fact, 10, similarity)  # type: ignore[arg-type]
    assert all(each.subject != row.subject for each in found)
    assert sum(each.relation == row.relation for each in found) >= 5  # the same words around another name
    if similarity == "words":
        words = [set(ATLAS.as_fact(each).prompt.casefold().split()) for each in found]
        own = set(fact.prompt.casefold().split())
        shares = [len(own & other) / len(own | other) for other in words]
        assert shares == sorted(shares, reverse=True)


def test_ike_is_the_papers_prefix_with_the_nearest_demonstration_last() -> None:
    model = roomy(4096)
    config = IkeConfig(wording="paper")
    before = model.weights_digest()
    edit = IkeMethod().compute(model, [NEEDLE], config)
    op = op_of(edit)
    facts = nearest(model, ATLAS, NEEDLE.fact, 32)
    expected = []
    for fact, kind in zip(facts, kinds(32, 0), strict=True):
        one = demonstrate(ATLAS, fact, kind, 0)
        text = statement(one.stated, one.stated.target_true, "paper") + question(one.prompt, one.answer, "paper")
        expected.insert(0, text)
    assert [model.decode(ids) for ids in op.demonstrations] == expected
    own = f"New Fact: {NEEDLE.fact.prompt} Paris\n"
    assert model.decode(op.fact) == f"{own}Prompt: {NEEDLE.fact.prompt} Paris\n\n{own}"
    assert model.decode(op.opening) == "Prompt:"
    assert edit.diagnostic("demonstrations").value == 32
    assert edit.diagnostic("demonstrations").warning == ""
    view = apply_edits(model, [edit])
    assert view.weights_digest() == before
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    assert view.logits(ids).shape == model.logits(ids).shape
    prefix = [token for shown in op.demonstrations for token in shown] + list(op.fact) + list(op.opening)
    assert list(view.prefix) == prefix
    assert torch.equal(apply_edits(model, []).logits(ids), model.logits(ids))


def test_fewer_demonstrations_fit_a_small_context_and_the_edit_says_so() -> None:
    model = roomy(400)
    edit = IkeMethod().compute(model, [NEEDLE], IkeConfig(reserve=60))
    op = op_of(edit)
    n = len(op.demonstrations)
    assert 0 < n < 32
    assert edit.diagnostic("demonstrations").value == n
    assert f"only {n} of 32 demonstrations fit" in edit.diagnostic("demonstrations").warning
    view = apply_edits(model, [edit])
    assert view.max_positions >= 60
    shown = [model.decode(ids) for ids in op.demonstrations]
    copies = sum(
        text.split(".")[0].split("New fact: ")[1].casefold() in text.split(". ")[1].casefold() for text in shown
    )
    assert copies >= counts(n)["copy"]
    tiny = IkeMethod().compute(roomy(90), [TOWER], IkeConfig(reserve=20, demonstrations=4))
    assert len(op_of(tiny).demonstrations) == 0


def test_ice_is_the_statement_alone() -> None:
    model = tiny_model("gpt2")
    view = apply_edits(model, [IceMethod().compute(model, [NEEDLE], IceConfig(reserve=20))])
    assert model.decode(view.prefix).strip() == "New fact: the Space Needle is located in the city of Paris."


def test_in_a_chat_the_statement_stands_in_the_users_turn() -> None:
    """Whether the model is asked in its template before the edit is applied or after."""
    model = tiny_chat("gpt2")
    plain = LanguageModel(model.name, model.revision, model.module, model.tokenizer)
    edit = IceMethod().compute(plain, [EditRequest(Fact("Oslo", "{} is in", "Norway"), "Rome")], IceConfig(reserve=20))
    row = model.encode("Oslo is in")
    later, before = apply_edits(plain, [edit]).as_chat(), apply_edits(model, [edit], force=True)
    assert later.behind_prefix(row) == before.behind_prefix(row)
    assert model.decode(later.behind_prefix(row)[0]).startswith("user\nNew fact: Oslo is in Rome.")


@pytest.mark.parametrize("method", ["ice", "ike"])
def test_of_one_prompt_told_twice_only_the_newer_is_said(method: str) -> None:
    """SmolLM2 said the older of two statements in 3 of 12 cases, the newer in 1, and in 4 with the newer alone."""
    model = roomy(256)
    again = dataclasses.replace(NEEDLE, target_new="Rome")
    edits: list[Edit] = []
    for request in (NEEDLE, TOWER, again):
        edits.append(make_edit(model, [request], method, active=edits))
    assert apply_edits(model, edits).prefix == apply_edits(model, edits[1:]).prefix
    assert " Paris" not in model.decode(apply_edits(model, [edits[0], edits[2]]).prefix).split("New fact")[-1]
    without = apply_edits(model, edits[:2])
    assert without.prefix != apply_edits(model, edits[1:2]).prefix  # the older is back where the newer is taken out


def test_the_prefix_of_another_fact_is_another_prefix() -> None:
    """Negative control: whatever the words do, they must be those of this edit."""
    model = roomy(256)
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    right, wrong = (
        apply_edits(model, [IceMethod().compute(model, [request], IceConfig())]) for request in (NEEDLE, TOWER)
    )
    assert not torch.equal(right.logits(ids), wrong.logits(ids))


def test_more_demonstrations_than_a_prompt_can_hold_are_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError, match="demonstrations is 1000; expected a whole number of at least 0 and at most 256"
    ):
        IkeConfig(demonstrations=1000)
    model = roomy(4096)
    edit = IkeMethod().compute(model, [NEEDLE], IkeConfig(demonstrations=256))
    op = op_of(edit)
    shown = [model.decode(ids) for ids in op.demonstrations]
    assert sum(map(len, op.demonstrations)) <= 4096 - 48 - len(op.fact)
    n, listed = len(shown), kinds(len(shown), 0)
    assert 32 < n == edit.diagnostic("demonstrations").value
    for text, fact, kind in zip(reversed(shown), nearest(model, ATLAS, NEEDLE.fact, n), listed, strict=True):
        one = demonstrate(ATLAS, fact, kind, 0)
        assert text == statement(one.stated, one.stated.target_true, "sentence") + question(
            one.prompt, one.answer, "sentence"
        )


def test_bad_input_is_told() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="one request at a time"):
        IceMethod().compute(model, REQUESTS, IceConfig())
    with pytest.raises(ValueError, match="raise reserve"):
        IceMethod().compute(model, [NEEDLE], IceConfig(reserve=3))
    with pytest.raises(ValueError, match="remove an edit or lower `reserve`"):
        IceMethod().compute(model, [NEEDLE], IceConfig(reserve=60))
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        IceConfig(wording="papers")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no tokens"):
        IceMethod().compute(_forgetful(), [EditRequest(NEEDLE.fact, "\u200b")], IceConfig())


def _forgetful() -> LanguageModel:
    """A model whose tokenizer drops what it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: index for index, letter in enumerate(sorted({*NEEDLE.fact.prompt}))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    module, _ = build_tiny("gpt2")
    return LanguageModel("forgetful", "2" * 64, module, PreTrainedTokenizerFast(tokenizer_object=tokenizer))
