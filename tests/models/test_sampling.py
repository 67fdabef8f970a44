"""Text drawn among the most probable tokens: the rule by hand, and what it may not depend on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from models import LanguageModel, Sampling
from models.generation import decode
from tests.tiny import tiny_model

PROMPTS = ["The Space Needle is in", "The Colosseum is in", "Toyota is", "Marie Curie was born in Warsaw and"]


class Fixed:
    """Answers the same logits at every position: ln of 8, 4, 2, 1, 1 over five tokens."""

    logits = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0]).log()

    def __call__(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 5), past_key_values=None)


def test_a_number_chooses_the_token_whose_share_it_falls_into() -> None:
    # Of the three most probable tokens the shares are 8/14, 4/14, 2/14, their sums .571, .857, 1.
    sampling = Sampling(top_k=3, seed=4)
    numbers = sampling.draws([1, 2], 40).tolist()
    expected = [0 if number < 8 / 14 else 1 if number < 12 / 14 else 2 for number in numbers]
    (row,) = decode(Fixed(), torch.tensor([[1, 2]]), 40, (0,), sampling)
    assert row == expected
    assert set(row) == {0, 1, 2}, "token 0 would end a greedy text"
    assert decode(Fixed(), torch.tensor([[1, 2]]), 3, (), Sampling(top_k=1)) == [[0, 0, 0]]


def test_a_drawn_text_does_not_depend_on_its_batch_and_is_repeatable() -> None:
    model = tiny_model("gpt2")
    together = model.generate(PROMPTS, 12, Sampling())
    assert [model.generate([prompt], 12, Sampling())[0] for prompt in PROMPTS] == together
    assert model.generate(PROMPTS[::-1], 12, Sampling()) == together[::-1]
    assert model.generate(PROMPTS, 12, Sampling(seed=1)) != together


def test_with_one_token_to_choose_from_a_draw_is_greedy_up_to_the_end_of_the_text() -> None:
    model = tiny_model("llama")
    rows = [model.encode(prompt) for prompt in PROMPTS]
    for greedy, drawn in zip(model.continuations(rows, 8), model.continuations(rows, 8, Sampling(1)), strict=True):
        assert drawn[: len(greedy)] == greedy
        assert len(drawn) == 8


def test_drawing_stops_at_the_context_and_needs_a_token() -> None:
    model: LanguageModel = tiny_model("gpt2")
    row = model.encode(PROMPTS[0])
    assert len(model.continuations([row], 1000, Sampling())[0]) == model.max_positions - len(row)
    with pytest.raises(ValueError, match="top_k is 0; expected at least 1 token"):
        Sampling(0)
