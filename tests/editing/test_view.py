"""Views: every kind of operation in one model, on and off in any order, among threads, and traced."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Sequence

import pytest
import torch

from editing import Edit, apply_edits
from editing.ops import RouteOp
from facts import EditRequest, Fact
from models import LanguageModel, run
from tests.editing import made as by_hand
from tests.editing.made import IDS, OTHER, PROMPT, made
from tests.tiny import tiny_model
from tracing import TraceConfig, measure_noise, trace_sites


def several(model: LanguageModel) -> list[Edit]:
    """One edit of every kind that acts in the module, and a prompt."""
    return [
        made(model, by_hand.low_rank(model, 0, 0)),
        made(model, by_hand.dense(model, 0, 1), by_hand.low_rank(model, 2, 2)),
        made(model, by_hand.entry(model, 1, radius=50.0)),
        made(model, by_hand.aside(model, 3, 4)),
        made(model, by_hand.stated(model, "New fact: the Space Needle is in Paris.")),
    ]


def answers(model: LanguageModel) -> tuple[torch.Tensor, list[str]]:
    return model.logits(IDS), model.generate([PROMPT, OTHER], 5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_edits_come_off_in_any_order_to_the_last_bit(family: str) -> None:
    model = tiny_model(family)
    digest, base = model.weights_digest(), model.logits(IDS)
    edits = several(model)
    seen = {i: answers(apply_edits(model, edits[:i])) for i in range(len(edits) + 1)}
    assert torch.equal(seen[0][0], base)
    for i, j in itertools.pairwise(sorted(seen)):
        assert not torch.equal(seen[i][0], seen[j][0]), f"edit {i} does nothing"
    everything = apply_edits(model, edits)
    for gone in ((4, 3, 2, 1, 0), (0, 2, 4, 1, 3), (2, 4, 0, 3, 1)):
        view = everything
        for index in gone:
            view = view.without(edits[index].digest)
        assert view.edits == ()
        assert torch.equal(view.logits(IDS), base)
    rest = [edits[0], edits[1], edits[3]]
    left = everything.without(edits[2].digest).without(edits[4].digest)
    expected = answers(apply_edits(model, rest))
    assert torch.equal(left.logits(IDS), expected[0])
    assert left.generate([PROMPT, OTHER], 5) == expected[1]
    assert torch.equal(left.with_edit(edits[4]).logits(IDS), apply_edits(model, [*rest, edits[4]]).logits(IDS))
    assert model.weights_digest() == digest
    with pytest.raises(ValueError, match="has no edit"):
        left.without(edits[2].digest)


def test_a_view_costs_the_edited_weights_only() -> None:
    model = tiny_model("gpt2")
    view = apply_edits(model, several(model)[:4])
    base = {parameter.data_ptr() for parameter in model.module.parameters()}
    own = [name for name, parameter in view.module.named_parameters() if parameter.data_ptr() not in base]
    assert own == [model.architecture.key_weight_name(layer) for layer in (0, 2)]


def test_changes_of_one_weight_add_up_whatever_their_kind() -> None:
    model = tiny_model("gpt2")
    low, high = by_hand.low_rank(model, 1, 0), by_hand.dense(model, 1, 1)
    both = apply_edits(model, [made(model, low), made(model, high)])
    name = low.name
    expected = model.weight(name).double() + (low.rows.double() @ low.cols.double() + high.change.double()).T
    assert torch.equal(both.weight(name), expected.float())
    swapped = apply_edits(model, [made(model, high), made(model, low)])
    assert torch.equal(swapped.weight(name), both.weight(name))
    assert swapped.revision == both.revision


def test_the_sum_depends_on_the_set_of_edits_even_where_rounding_would_show() -> None:
    model = tiny_model("gpt2")
    name = model.architecture.key_weight_name(1)
    edits = [made(model, by_hand.DenseDelta(name, torch.full((32, 64), size))) for size in (1e17, 1.0, -1e17)]
    digests = {apply_edits(model, order).weights_digest() for order in itertools.permutations(edits)}
    assert len(digests) == 1


def test_tied_embeddings_stay_tied_and_both_names_add_up() -> None:
    model = tiny_model("gpt2")
    head = f"{model.architecture.head}.weight"
    change = by_hand.DenseDelta(head, torch.full((model.d_vocab, model.d_model), 0.5))
    view = apply_edits(model, [made(model, change)])
    assert view.weight(head) is view.weight(f"{model.architecture.embedding}.weight")
    assert torch.equal(view.weight(head), model.weight(head) + 0.5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "opt"])
def test_routing_is_decided_on_the_prompt_alone_whatever_follows(family: str) -> None:
    """A codebook entry at the prompt's key fires with and without an answer behind, alone and among batch mates."""
    model = tiny_model(family)
    view = apply_edits(model, [made(model, by_hand.entry(model, 1))])
    prompt, other = model.encode(PROMPT), model.encode(OTHER)
    answer = [7, 9, 11]
    alone = view.logits(torch.tensor([prompt]))[0]
    assert not torch.allclose(alone[-1], model.logits(torch.tensor([prompt]))[0, -1], atol=1e-3)
    forced = view.logits(torch.tensor([prompt + answer]), prompt_lengths=[len(prompt)])[0]
    torch.testing.assert_close(forced[: len(prompt)], alone, rtol=1e-4, atol=1e-4)
    untold = view.logits(torch.tensor([prompt + answer]))[0]  # taken for one long prompt: the key is another
    torch.testing.assert_close(untold, model.logits(torch.tensor([prompt + answer]))[0], rtol=1e-4, atol=1e-4)
    rows = [prompt + answer, other + answer]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    batch = view.logits(ids, [len(row) for row in rows], [len(prompt), len(other)])
    torch.testing.assert_close(batch[0, : len(rows[0])], forced, rtol=1e-4, atol=1e-4)
    plain = model.logits(ids, [len(row) for row in rows])
    assert torch.equal(batch[1], plain[1])  # a row outside every ball keeps its bits


@pytest.mark.parametrize("kind", ["codebook", "side"])
def test_generation_decides_once_and_goes_on_as_teacher_forcing_does(kind: str) -> None:
    model = tiny_model("gpt2")
    op = by_hand.entry(model, 1) if kind == "codebook" else by_hand.aside(model, 1, 0, activation=1.0)
    view = apply_edits(model, [made(model, op)])
    prompt = model.encode(PROMPT)
    said = view.continuations([prompt], 6)[0]
    assert said != model.continuations([prompt], 6)[0]
    forced = view.logits(torch.tensor([prompt + said]), prompt_lengths=[len(prompt)])[0]
    assert forced[len(prompt) - 1 : -1].argmax(-1).tolist() == said


def test_a_prompt_of_words_is_plain_concatenation() -> None:
    model = tiny_model("gpt2")
    op = by_hand.stated(model, "Paris.", ["The capital of Italy is Rome.", " 東京"])
    view = apply_edits(model, [made(model, op)])
    before = [token for demonstration in op.demonstrations for token in demonstration] + list(op.fact)
    assert list(view.prefix) == before
    assert view.max_positions == model.max_positions - len(before)
    joined = torch.cat([torch.tensor(before).expand(2, -1), IDS], dim=1)
    expected = model.logits(joined)[:, len(before) :]
    assert torch.equal(view.logits(IDS), expected)
    assert view.weights_digest() == model.weights_digest()
    assert view.continuations([[40, 77]], 4) == model.continuations([[*before, 40, 77]], 4)
    starts = (tuple(model.encode(word)) for word in ("Paris", "Rome", "a", "in", "is", "the", "of", "The"))
    word, inside = next(
        (ids[0], behind[0])
        for ids in starts
        if len(ids) == 1 and len(behind := model.tokenize(f" {model.decode(ids)}", special_tokens=False)) == 1
    )
    prompt = [word, 77, 130]  # read inside a text, its first word is another token
    assert inside != word
    read = torch.tensor([[*before, inside, 77, 130]])
    assert torch.equal(view.logits(torch.tensor([prompt])), model.logits(read)[:, len(before) :])


def test_a_start_token_stays_in_front_of_the_prefix() -> None:
    model = tiny_model("gpt2")
    template = model.tokenizer.bos_token + " $A"
    original = model.tokenizer.backend_tokenizer.post_processor
    from tokenizers.processors import TemplateProcessing

    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(model.tokenizer.bos_token, 0)]
    )
    try:
        op = by_hand.PromptOp((), (77, 130), (), 30)
        view = apply_edits(model, [made(model, op)])
        found = view.logits(torch.tensor([[0, 9, 250]]))
    finally:
        model.tokenizer.backend_tokenizer.post_processor = original
    whole = model.logits(torch.tensor([[0, 77, 130, 9, 250]]))
    assert torch.equal(found, whole[:, [0, 3, 4]])


def test_several_facts_share_one_prefix_and_demonstrations_make_room() -> None:
    model = tiny_model("gpt2")
    first = by_hand.stated(model, "a", ["far away", "near"], reserve=model.max_positions - 8)
    second = by_hand.stated(model, "b", ["near"], reserve=30)
    n_near = len(model.tokenize("near"))
    assert n_near <= 6 < n_near + len(model.tokenize("far away"))
    other = dataclasses.replace(
        made(model, second), requests=(EditRequest(Fact("Big Ben", "{} is in", "London"), "Rome"),)
    )
    view = apply_edits(model, [made(model, first), other])
    assert model.decode(view.prefix) == "nearab"
    full = by_hand.stated(model, "much too long for what is left", reserve=model.max_positions - 3)
    with pytest.raises(ValueError, match="remove an edit or lower `reserve`"):
        apply_edits(model, [made(model, full)])


class _Router:
    """Scores 0.9 where the prompt holds the marked token, else 0.1; a view with another weight answers."""

    digest = "r" * 64
    asked: list[list[int]]

    def __init__(self) -> None:
        self.asked = []

    def scores(self, model: LanguageModel, prompt: Sequence[int], ops: Sequence[RouteOp]) -> torch.Tensor:
        self.asked.append(list(prompt))
        return torch.full((sum(len(op.contexts) for op in ops),), 0.9 if 77 in prompt else 0.1)

    def counterfactual(self, model: LanguageModel) -> LanguageModel:
        return apply_edits(model, [made(model, by_hand.low_rank(model, 2, 9))])


def test_prompts_in_scope_are_answered_elsewhere_and_others_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, router = tiny_model("gpt2"), _Router()
    monkeypatch.setattr("editing.applied.router.router_of", lambda edit: router)
    weights = made(model, by_hand.low_rank(model, 1, 3))
    memory = made(model, by_hand.route(model, "The Space Needle is in Paris."), method="wise")
    view = apply_edits(model, [memory, weights])
    context = list(memory.ops[0].contexts[0])  # type: ignore[union-attr]
    found = view.logits(IDS, prompt_lengths=[4, 4])
    assert router.asked == [row[:4] for row in IDS.tolist()]  # the answer is not shown to the classifier
    inner = apply_edits(model, [weights]).logits(IDS)
    assert torch.equal(found[1], inner[1])
    inside = model.tokenize(" " + model.decode([40]), special_tokens=False)
    read = [*context, inside[0] if len(inside) == 1 else 40, *IDS[0, 1:].tolist()]
    expected = router.counterfactual(model).logits(torch.tensor([read]))[0, len(context) :]
    assert torch.equal(found[0], expected)
    said = view.continuations(IDS.tolist(), 4)
    assert said[1] == apply_edits(model, [weights]).continuations([IDS[1].tolist()], 4)[0]
    assert said[0] == router.counterfactual(model).continuations([read], 4)[0]
    assert torch.equal(view.without(memory.digest).logits(IDS), inner)


def test_an_edited_model_can_be_traced() -> None:
    model = tiny_model("gpt2")
    fact = by_hand.REQUEST.fact
    ids = torch.tensor([model.encode(PROMPT)])
    weights = apply_edits(model, [made(model, by_hand.low_rank(model, 0, 0))])
    view = weights.with_edit(made(weights, by_hand.entry(weights, 1)))
    assert torch.equal(run(view, ids).logits, view.logits(ids))
    assert not torch.equal(run(view, ids).logits, run(model, ids).logits)
    written = run(view, ids, captures=[("mlp_out", 1)]).captured["mlp_out", 1][0, -1]
    torch.testing.assert_close(written, view.edits[1].ops[0].values[0])  # type: ignore[union-attr]
    config = TraceConfig(site="mlp_out", samples=2)
    level = measure_noise(model, ["Space Needle", "Miles Davis"])
    before, after = (trace_sites(each, fact, [config], level=level)["mlp_out"] for each in (model, view))
    assert before.restored.shape == after.restored.shape
    assert abs(before.restored - after.restored).max() > 0


def test_eight_threads_with_eight_views_of_one_base_get_no_wrong_answer() -> None:
    model = tiny_model("gpt_neo")
    digest = model.weights_digest()
    makers = [
        lambda seed: by_hand.low_rank(model, 1, seed),
        lambda seed: by_hand.dense(model, 2, seed),
        lambda seed: by_hand.entry(model, 1, radius=50.0, label=seed),
        lambda seed: by_hand.aside(model, 3, seed),
    ]
    views = [apply_edits(model, [made(model, makers[seed % 4](seed))]) for seed in range(8)]
    with torch.no_grad():
        expected = [view.logits(IDS) for view in views]
    assert len({tensor.sum().item() for tensor in expected}) == 8
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def work(index: int) -> None:
        barrier.wait()
        for turn in range(125):
            view = views[index] if turn % 5 else apply_edits(model, views[index].edits)
            if not torch.equal(view.logits(IDS), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert model.weights_digest() == digest


def test_edits_of_another_model_and_of_another_shape_are_refused() -> None:
    model, other = tiny_model("gpt2"), tiny_model("llama")
    book = by_hand.entry(model, 1)
    wrong = by_hand.CodebookOp(book.module, book.keys[:, :5], book.values, book.labels, 1.0)
    with pytest.raises(ValueError, match="made for another model"):
        apply_edits(model, [made(model, wrong)])
    with pytest.raises(ValueError, match="no parameter"):
        apply_edits(other, [made(model, by_hand.aside(model, 1, 0))], force=True)
    with pytest.raises(ValueError, match="no parameter"):
        apply_edits(other, [made(model, book)], force=True)


def test_an_edit_computed_on_a_view_remembers_what_was_there() -> None:
    model = tiny_model("gpt2")
    first = made(model, by_hand.low_rank(model, 0, 0))
    view = apply_edits(model, [first])
    second = made(view, by_hand.low_rank(model, 1, 1))
    both = view.with_edit(second)
    assert both.edits[1].parents == (first.digest,)
    assert both.notes == ()
    together = apply_edits(model, [first, second])  # also without a view in between
    assert together.edits[1].parents == (first.digest,)
    assert together.revision == both.revision
    assert torch.equal(together.logits(IDS), both.logits(IDS))
    for others in ([], [made(model, by_hand.low_rank(model, 0, 7))]):
        with pytest.raises(ValueError, match="give the edits that were in that model before it"):
            apply_edits(model, [*others, second])
    alone = both.without(first.digest)
    assert "have been removed" in alone.notes[0]
    assert torch.equal(alone.logits(IDS), apply_edits(model, [both.edits[1]]).logits(IDS))
