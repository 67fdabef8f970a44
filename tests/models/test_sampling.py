"""Text drawn among the most probable tokens: the rule by hand, and what it may not depend on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from models import LanguageModel, Sampling
from models.calls import current_call
from models.generation import drawn
from tests.tiny import tiny_model

PROMPTS = ["The Space Needle is in", "The Colosseum is in", "Toyota is", "Marie Curie was born in Warsaw and"]


class Fixed:
    """Answers the same logits at every position, ln of 8, 4, 2, 1, 1 over five tokens."""

    logits = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0]).log()

    def __call__(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 5), past_key_values=None)


def test_a_number_chooses_the_token_whose_share_it_falls_into() -> None:
    # Of the three most probable tokens the shares are 8/14, 4/14, 2/14, their sums .571, .857, 1.
    sampling = Sampling(top_k=3, seed=4)
    numbers = sampling.draws([1, 2], 40)
    expected = [0 if number < 8 / 14 else 1 if number < 12 / 14 else 2 for number in numbers]
    assert set(expected) == {0, 1, 2}
    (row,) = drawn(Fixed(), [[1, 2]], 42, sampling, "cpu")
    assert row == expected
    # A longer row reads its own tokens where the other draws, and draws by numbers of its own from there.
    (first, second) = drawn(Fixed(), [[1, 2], [4, 4, 4, 4]], 42, sampling, "cpu")
    assert first == expected
    own = sampling.draws([4, 4, 4, 4], 38)
    assert second == [0 if number < 8 / 14 else 1 if number < 12 / 14 else 2 for number in own]
    assert drawn(Fixed(), [[1, 2]], 5, Sampling(top_k=1), "cpu") == [[0, 0, 0]]
    assert drawn(Fixed(), [[1, 2], [1]], 2, sampling, "cpu")[0] == []


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "mistral"])
def test_a_drawn_text_does_not_depend_on_its_batch_and_is_repeatable(family: str) -> None:
    model = tiny_model(family)
    together = model.draw(PROMPTS, 24, Sampling())
    assert [model.draw([prompt], 24, Sampling())[0] for prompt in PROMPTS] == together
    assert model.draw(PROMPTS[::-1], 24, Sampling()) == together[::-1]
    assert model.draw(PROMPTS, 24, Sampling(seed=1)) != together


def test_with_one_token_to_choose_from_a_draw_is_greedy_up_to_the_end_of_the_text() -> None:
    model = tiny_model("llama")
    rows = [model.encode(prompt) for prompt in PROMPTS]
    for row, greedy in zip(rows, model.continuations(rows, 8), strict=True):
        (text,) = model.drawn([row], len(row) + 8, Sampling(1))
        assert text[: len(greedy)] == greedy
        assert len(text) == 8


def test_a_view_with_a_rewritten_layer_draws_as_if_the_prompt_were_alone() -> None:
    base = tiny_model("gpt2")
    seen: list[int] = []

    def rewrite(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        call = current_call()
        assert call is not None
        if call.reads_prompt:
            seen.extend(call.prompt_lengths.tolist())
        return output + 0.1

    name = base.architecture.key_path(1)
    view = base.view(rewrites={name: rewrite}, revision="a" * 64)
    together = view.draw(PROMPTS, 24, Sampling())
    assert sorted(seen) == sorted(len(base.encode(prompt)) for prompt in PROMPTS)
    assert [view.draw([prompt], 24, Sampling())[0] for prompt in PROMPTS] == together


def test_drawing_stops_at_the_context_and_needs_a_token() -> None:
    model: LanguageModel = tiny_model("gpt2")
    row = model.encode(PROMPTS[0])
    assert len(model.drawn([row], 1000, Sampling())[0]) == model.max_positions - len(row)
    assert model.draw([], 10, Sampling()) == []
    with pytest.raises(ValueError, match="top_k is 0; expected at least 1 token"):
        Sampling(0)
