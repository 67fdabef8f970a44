"""GRACE: the codebook's rules by hand, and the method on tiny models (Hartvigsen et al. 2023, algorithm 1)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editing import Edit, apply_edits, make_edit
from editing.applied.codebook import GAP, Codebook, fold
from editing.edit import Diagnostic
from editing.method import settled
from editing.methods.grace import GraceConfig, GraceMethod, alike
from editing.ops import CodebookOp, Where
from editing.parts.answers import new_answers
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from facts.watch import Cancelled, Watch
from models import LanguageModel, run
from tests.editing import made as by_hand
from tests.editing.made import last_key, made
from tests.editing.quick import NEEDLE, REQUESTS
from tests.tiny import tiny_chat, tiny_model

FAST = GraceConfig(layer=3, steps=60, learning_rate=0.5, rate_unit="absolute")
# Answers of one token: a random model of four layers has no way to go from one value to several tokens.
ASKED = EditRequest(Fact("Space Needle", "The {} is located in the city of", "Seattle"), "the")
RIVAL = EditRequest(Fact("Eiffel Tower", "The {} is located in the city of", "Paris"), "of")


@dataclasses.dataclass(frozen=True)
class Deep:
    """As much of a model as tells its depth."""

    n_layers: int


def one(key: tuple[float, float], label: int, radius: float = 1.0, value: float = 0.0) -> CodebookOp:
    return CodebookOp("m", torch.tensor([key]), torch.full((1, 2), value), ((label,),), radius)


def balls(book: Codebook) -> list[tuple[list[float], float, int]]:
    return [
        (key, pytest.approx(radius, abs=1e-9), label[0])
        for key, radius, label in zip(book.keys.tolist(), book.radii.tolist(), book.labels, strict=True)
    ]


def test_far_entries_get_balls_of_their_own() -> None:
    book = fold([one((0, 0), 1), one((3, 0), 2)])
    assert balls(book) == [([0, 0], 1.0, 1), ([3, 0], 1.0, 2)]


def test_a_conflict_parts_the_way_and_leaves_the_balls_disjoint() -> None:
    book = fold([one((0, 0), 1), one((1.5, 0), 2)])
    assert balls(book) == [([0, 0], 0.75 - GAP, 1), ([1.5, 0], 0.75, 2)]
    assert float(book.radii.sum()) < 1.5


def test_the_same_key_again_replaces_the_older_entry() -> None:
    """As if it had never been made: what it had taken from its neighbours comes back."""
    assert balls(fold([one((0, 0), 1), one((0, 0), 2)])) == [([0, 0], 1.0, 2)]
    assert balls(fold([one((0, 1), 1), one((1, 0), 3), one((0, 1), 3)])) == [([1, 0], 2**0.5, 3)]
    assert fold([one((1e3, 0), 1), one((1e3, 1e-3), 2)]).labels == ((2,),)
    assert fold([one((1e3, 0), 1), one((1e3, 0.1), 2)]).labels == ((1,), (2,))  # another prompt


def test_the_same_answer_stretches_the_ball_to_exactly_the_new_key() -> None:
    book = fold([one((0, 0), 1, value=4.0), one((1.5, 0), 1, value=5.0)])
    assert balls(book) == [([0, 0], 1.5, 1)]
    assert book.values.tolist() == [[5.0, 5.0]]
    inside = fold([one((0, 0), 1), one((0.5, 0), 1)])
    assert balls(inside) == [([0, 0], 1.0, 1)]
    far = fold([one((0, 0), 1), one((2.5, 0), 1)])
    assert len(far.labels) == 2


def test_labels_stay_with_their_keys_after_many_inserts() -> None:
    """EasyEdit prepends labels and appends keys, so that from the second edit on the wrong ones are compared."""
    ops = [one((10.0 * i, 0), i) for i in range(5)]
    book = fold([*ops, one((20.5, 0), 2, value=9.0)])
    assert [label[0] for label in book.labels] == [0, 1, 2, 3, 4]
    assert [key[0] for key in book.keys.tolist()] == [0, 10, 20, 30, 40]
    assert book.values[2].tolist() == [9.0, 9.0]
    nearest, inside = book.hits(torch.tensor([[20.9, 0.0], [31.5, 0.0]]))
    assert (nearest.tolist(), inside.tolist()) == ([2, 3], [True, False])


def test_leaving_out_an_entry_leaves_no_trace_of_it() -> None:
    """The neighbour's radius comes back: neither public code restores it."""
    first, rival = one((0, 0), 1), one((1.5, 0), 2)
    assert balls(fold([first, rival]))[0] != balls(fold([first]))[0]
    model = tiny_model("gpt2")
    entries = [made(model, by_hand.entry(model, 1, radius=20.0, label=label)) for label in (3, 4, 5)]
    every = apply_edits(model, entries)
    for gone in entries:
        rest = apply_edits(model, [edit for edit in entries if edit is not gone])
        assert torch.equal(every.without(gone.digest).logits(by_hand.IDS), rest.logits(by_hand.IDS))


def test_a_radius_of_zero_fires_at_the_exact_key_only() -> None:
    model = tiny_model("gpt2")
    view = apply_edits(model, [made(model, by_hand.entry(model, 1, radius=0.0))])
    prompt, other = (torch.tensor([model.encode(text)]) for text in (by_hand.PROMPT, "The Space Needle is at"))
    assert not torch.equal(view.logits(prompt), model.logits(prompt))
    assert torch.equal(view.logits(other), model.logits(other))


def test_only_rows_in_a_ball_change_in_a_mixed_batch() -> None:
    model = tiny_model("gpt2")
    view = apply_edits(model, [made(model, by_hand.entry(model, 1))])
    rows = [model.encode(by_hand.PROMPT), [*model.encode(by_hand.PROMPT)[:-1], 77]]
    ids = torch.tensor(rows)
    before, after = model.logits(ids), view.logits(ids)
    assert not torch.equal(before[0, -1], after[0, -1])
    assert torch.equal(before[0, :-1], after[0, :-1])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("where", ["last", "prompt", "all"])
def test_the_value_is_written_where_it_should_be(where: str) -> None:
    model = tiny_model("gpt2")
    op = by_hand.entry(model, 1, where=where)
    ids = torch.tensor([model.encode(by_hand.PROMPT)])
    view = apply_edits(model, [made(model, op)])
    written = run(view, ids, captures=[("mlp_out", 1)]).captured["mlp_out", 1][0]
    holds = [bool(torch.equal(row, op.values[0])) for row in written]
    n = ids.shape[1]
    assert holds == {"last": [False] * (n - 1) + [True], "prompt": [True] * (n - 1) + [False], "all": [True] * n}[where]


def test_later_tokens_do_not_ask_the_codebook_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    hits = Codebook.hits
    monkeypatch.setattr(Codebook, "hits", lambda self, queries: (asked.append(len(queries)), hits(self, queries))[1])
    model = tiny_model("gpt2")
    view = apply_edits(model, [made(model, by_hand.entry(model, 1))])
    view.continuations([model.encode(by_hand.PROMPT)], 6)
    assert asked == [1]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_teaches_the_answer_and_keeps_everything_else(family: str) -> None:
    model = tiny_model(family)
    before = model.weights_digest()
    edit = GraceMethod().compute(model, [ASKED], FAST)
    assert model.weights_digest() == before
    assert edit.diagnostic("p(new) after").value > 0.5 > 10 * edit.diagnostic("p(new) before").value
    assert edit.losses[-1].total < edit.losses[0].total
    key = last_key(model, 3, ASKED.fact.prompt)
    assert torch.equal(edit.ops[0].keys[0], key)  # type: ignore[union-attr]
    view = apply_edits(model, [edit])
    assert view.generate([ASKED.fact.prompt], 4)[0].startswith(" the")
    far = torch.tensor([model.encode("Marie Curie was born in")])
    assert torch.equal(view.logits(far), model.logits(far))


@pytest.mark.parametrize("where", ["last", "prompt", "all"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_the_search_is_that_of_whole_forwards(family: str, where: Where) -> None:
    """Adam on the same loss, read from all logits of forwards that start at the embedding."""
    model = tiny_model(family)
    edit = GraceMethod().compute(model, [NEEDLE], GraceConfig(layer=2, steps=6, where=where))
    (row,) = new_answers(model, [NEEDLE])
    ids, end = torch.tensor([row.ids]), row.n_prompt
    read = run(model, ids[:, :end], captures=[("mlp_out", 2), ("resid_post", 2)]).captured
    value = read["mlp_out", 2][0, -1].clone().requires_grad_(True)
    unit = value if model.architecture.post_norm else read["resid_post", 2][0, -1]
    optimiser = torch.optim.Adam([value], lr=0.3 * float(unit.detach().square().mean().sqrt()))
    changed = {"last": slice(end - 1, end), "prompt": slice(0, end - 1), "all": slice(0, end)}[where]

    def put(written: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [written[:, : changed.start], value.expand_as(written[:, changed]), written[:, changed.stop :]], 1
        )

    losses = []
    for _ in range(6):
        logits = run(model, ids, patches={("mlp_out", 2): put}, grad=True).logits
        loss = torch.nn.functional.cross_entropy(logits[0, end - 1 : -1], ids[0, end:])
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert [step.total for step in edit.losses] == pytest.approx(losses, rel=1e-5)


def test_a_shuffled_target_is_not_learnt() -> None:
    """Negative control: what is trained for one answer does not give another."""
    model = tiny_model("gpt2")
    view = apply_edits(model, [GraceMethod().compute(model, [ASKED], FAST)])
    assert not view.generate([ASKED.fact.prompt], 4)[0].startswith(" of")


def test_edits_in_turn_equal_the_batch_and_the_same_answer_shares_an_entry() -> None:
    model = tiny_model("gpt2")
    same = EditRequest(Fact("Space Needle", "The {} stands in", "Seattle"), "the")
    config = dataclasses.replace(FAST, radius=100.0, radius_unit="absolute")  # every key is near
    batch = GraceMethod().compute(model, [ASKED, same], config)
    first = GraceMethod().compute(model, [ASKED], config)
    view = apply_edits(model, [first])
    second = view.with_edit(GraceMethod().compute(view, [same], config, active=view.edits))
    book = fold([op for edit in second.edits for op in edit.ops if isinstance(op, CodebookOp)])
    together = fold([op for op in batch.ops if isinstance(op, CodebookOp)])
    assert len(book.labels) == len(together.labels) == 1
    torch.testing.assert_close(book.values, together.values, rtol=1e-3, atol=1e-3)
    assert second.generate([same.fact.prompt], 1) == [" the"]


def test_conflicting_neighbours_both_hold() -> None:
    model = tiny_model("gpt2")
    wide = dataclasses.replace(FAST, radius=100.0, radius_unit="absolute")
    edit = GraceMethod().compute(model, [ASKED, RIVAL], wide)
    said = apply_edits(model, [edit]).generate([ASKED.fact.prompt, RIVAL.fact.prompt], 1)
    assert said == [" the", " of"]


def test_a_prompt_edited_again_gives_the_newer_answer() -> None:
    model = tiny_model("gpt2")
    edits: list[Edit] = []
    for answer in ("the", "of", "a"):
        request = dataclasses.replace(ASKED, target_new=answer)
        edits.append(make_edit(model, [request], "grace", FAST, active=edits))
        assert apply_edits(model, edits).generate([ASKED.fact.prompt], 1) == [f" {answer}"]
    assert apply_edits(model, edits[:2]).generate([ASKED.fact.prompt], 1) == [" of"]  # the newest taken out again


def test_a_cold_start_and_the_papers_units_work() -> None:
    model = tiny_model("gpt2")
    cold = dataclasses.replace(FAST, start="cold", radius_unit="absolute", radius=1.0)
    edit = GraceMethod().compute(model, [ASKED], cold)
    assert edit.ops[0].radius == 1.0  # type: ignore[union-attr]
    assert edit.diagnostic("p(new) after").value > 0.5
    first_loss = GraceMethod().compute(model, [ASKED], dataclasses.replace(cold, seed=1)).losses[0]
    assert first_loss != edit.losses[0]


def test_a_relative_radius_ends_half_the_way_to_the_nearest_stranger() -> None:
    """And an absolute one does not, which is told."""
    model = tiny_model("gpt2")

    def entry(radius: float, unit: str) -> tuple[float, Diagnostic, float]:
        config = dataclasses.replace(FAST, radius=radius, radius_unit=unit, steps=1)
        edit = GraceMethod().compute(model, [ASKED], config)
        (op,) = edit.ops
        assert isinstance(op, CodebookOp)
        return op.radius, edit.diagnostic("nearest stranger"), float(op.keys[0].norm())

    radius, stranger, key_norm = entry(0.001, "key norm")
    assert radius == pytest.approx(0.001 * key_norm)
    assert not stranger.warning
    radius, same, _ = entry(100.0, "key norm")
    assert radius == pytest.approx(stranger.value / 2)
    assert same.value == stranger.value > 0
    assert not same.warning
    radius, same, _ = entry(100.0, "absolute")
    assert radius == 100.0
    assert "about 10 of 10 other subjects falls inside the radius" in same.warning
    assert "choose a later layer or a smaller radius" in same.warning


def test_the_default_layer_is_three_fifths_of_the_depth() -> None:
    """Of 4 layers, 12 and 30; a layer that is given stays."""
    model = tiny_model("gpt2")
    edit = GraceMethod().compute(model, [ASKED], dataclasses.replace(FAST, layer=None, steps=1))
    assert edit.config.layer == 2
    assert [settled(Deep(n), GraceConfig()).layer for n in (12, 30)] == [7, 18]
    assert settled(Deep(30), GraceConfig(layer=7)).layer == 7


@pytest.mark.parametrize("tail", ["", " "])
def test_strangers_are_asked_as_the_fact_is(tail: str) -> None:
    """In the chat template, and without a trailing blank, so that the fact's own prompt is at no distance."""
    model = tiny_chat("llama")
    request = EditRequest(Fact("Space Needle", "The {} is located in the city of" + tail, "Seattle"), "Rome")
    edit = GraceMethod().compute(model, [request], GraceConfig(layer=1, steps=2))
    (op,) = edit.ops
    assert isinstance(op, CodebookOp)
    others = [request.fact.template.replace("{}", name) for name in alike(request)]
    apart = [float((last_key(model, 1, other) - op.keys[0]).norm()) for other in others]
    assert any(abs(edit.diagnostic("nearest stranger").value - away) < 1e-3 * away for away in apart)


def test_strangers_are_subjects_of_the_same_relation() -> None:
    atlas = load_atlas()
    capital = {row.subject: row.object for row in atlas.facts if row.relation == "country_capital"}
    expected = sorted(name for name, city in capital.items() if name != "France" and city != "Rome")
    template = atlas.relations["country_capital"].templates[0]
    for fact in (
        Fact("France", "{} has as its seat", "Paris", "country_capital"),  # by its relation
        Fact("France", template, ""),  # by its words
        Fact("France", "The seat of {} is", "Paris"),  # by what the atlas knows of its subject
    ):
        assert alike(EditRequest(fact, "Rome")) == expected
    assert set(alike(EditRequest(Fact("Nobody", "{} is", ""), "Rome"))) == set(atlas.subjects())


def test_bad_input_is_told() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="layer 7 is out of range"):
        GraceMethod().compute(model, [ASKED], GraceConfig(layer=7))
    with pytest.raises(ValueError, match="did you mean 'last'"):
        GraceConfig(where="lst")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two requests have the prompt"):
        GraceMethod().compute(model, [ASKED, ASKED], FAST)
    with pytest.raises(Cancelled):
        GraceMethod().compute(model, REQUESTS, FAST, watch=Watch(cancelled=lambda: True))


def test_many_in_turn_keep_the_first() -> None:
    """Lifelong: five edits, all still there in the end."""
    model = tiny_model("gpt2")
    answers = {"Berlin": "the", "London": "of", "Madrid": "in", "Vienna": "is", "Oslo": "the"}
    requests = [EditRequest(Fact(name, "{} is the capital of", ""), answer) for name, answer in answers.items()]
    view: LanguageModel = model
    edits: tuple[Edit, ...] = ()
    for request in requests:
        view = apply_edits(view, [GraceMethod().compute(view, [request], FAST, active=edits)])
        edits = view.edits
    said = view.generate([request.fact.prompt for request in requests], 1)
    assert [text.strip() for text in said] == list(answers.values())
