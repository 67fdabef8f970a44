"""Encoding, logits that do not depend on batch mates, and greedy text."""

from __future__ import annotations

import pytest
import torch

from models import FAMILIES, LanguageModel, pad
from models.generation import batches, greedy
from tests.tiny import build_tiny, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = (
    "The Space Needle is located in the city of",
    "Paris",
    "東京 is the capital of",
    "Rome is",
    "Paris is the",
    "of",
)


@every_family
def test_a_rows_logits_do_not_depend_on_its_batch_mates(family: str) -> None:
    model = tiny_model(family)
    rows = [model.encode(prompt) for prompt in PROMPTS]
    ids, lengths = pad(rows, model.pad_id)
    together = model.logits(ids, lengths)
    assert together.shape == (len(rows), max(map(len, rows)), model.d_vocab)
    for index, row in enumerate(rows):
        alone = model.logits(torch.tensor([row]))[0]
        torch.testing.assert_close(together[index, : len(row)], alone, rtol=1e-5, atol=1e-5)
        assert (together[index, len(row) :] == 0).all()
    places = [[len(row) - 1, 0] for row in rows]
    for index, found in enumerate(model.logits_where(rows, places, [1] * len(rows))):
        torch.testing.assert_close(found, together[index, places[index]], rtol=1e-5, atol=1e-5)
    other_pad, _ = pad(rows, 77)
    assert torch.equal(model.logits(other_pad, lengths.tolist()), together)


@every_family
def test_logits_are_the_plain_forwards(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([model.encode(PROMPTS[0])])
    with torch.no_grad():
        expected = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model.logits(ids), expected, rtol=1e-5, atol=1e-5)
    assert model.logits(ids).dtype == torch.float32


def slow_greedy(model: LanguageModel, prompt: str, steps: int) -> str:
    """The definition: a whole forward for every token."""
    ids = model.encode(prompt)
    n_prompt = len(ids)
    for _ in range(min(steps, model.max_positions - n_prompt)):
        token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
        if token in model.eos_ids:
            break
        ids.append(token)
    return model.decode(ids)[len(model.decode(ids[:n_prompt])) :]


@every_family
def test_greedy_text_equals_the_definition_and_ignores_batch_mates(family: str) -> None:
    model = tiny_model(family)
    prompts = [PROMPTS[0], "Rome is", "Paris is"]
    expected = [slow_greedy(model, prompt, 10) for prompt in prompts]
    assert model.generate(prompts, 10) == expected
    assert [model.generate([prompt], 10)[0] for prompt in prompts] == expected
    assert model.generate(prompts[::-1], 10) == expected[::-1]


@every_family
def test_rows_may_begin_with_an_answer_and_differ_in_length(family: str) -> None:
    model = tiny_model(family)
    rows = [model.encode(prompt) for prompt in (PROMPTS[0], "Rome is", "Paris is")]
    whole = model.continuations(rows, 8)
    begun = [whole[0][:3], [], whole[2]]
    assert model.continuations(rows, 8, begun) == whole
    assert model.continuations(rows, 5, begun) == [whole[0][:5], whole[1][:5], whole[2]]


@every_family
def test_rows_that_have_ended_leave_the_others_as_they_are(family: str) -> None:
    model, steps = tiny_model(family), [1, 7, 2, 1]
    rows = torch.randint(2, 384, (4, 6), generator=torch.Generator().manual_seed(3)).tolist()
    made = greedy(model.module, rows, [6] * 4, steps, model.eos_ids, model.device)
    assert made == [model.continuations([row], n)[0] for row, n in zip(rows, steps, strict=True)]


def test_rows_of_like_lengths_are_decoded_together() -> None:
    assert batches([5, 9, 5], padded=False) == [[1], [0, 2]]
    assert batches([5, 9, 5], padded=True) == [[1, 0, 2]]
    # a row of 300 and one of 5 would need 295 tokens of padding
    assert batches([5, 300, 5], padded=True) == [[1], [0, 2]]
    assert batches([], padded=True) == []


def test_generation_agrees_with_transformers() -> None:
    model = tiny_model("gpt_neo")
    ids = torch.tensor([model.encode(PROMPTS[0])])
    theirs = model.module.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=model.pad_id,
    )
    assert model.generate([PROMPTS[0]], 12) == [model.decode(theirs[0, ids.shape[1] :])]


@every_family
def test_generation_stops_at_the_end_of_the_context(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([model.encode(PROMPTS[0])])
    model.generate([PROMPTS[0]], 10_000)
    full = model.decode(ids[0].tolist() * 10)
    longest = full
    while len(model.tokenize(longest)) > model.max_positions:
        longest = longest[:-1]
    assert len(model.encode(longest)) == model.max_positions
    assert model.generate([longest], 5) == [""]
    assert model.generate([PROMPTS[0]], 0) == [""]


def test_generation_stops_at_the_end_of_text() -> None:
    model = tiny_model("gpt2")
    prompt, ids = "The Space Needle is", model.encode("The Space Needle is")
    continuation: list[int] = []
    for _ in range(2):
        continuation.append(int(model.logits(torch.tensor([ids + continuation]))[0, -1].argmax()))
    module, tokenizer = build_tiny("gpt2")
    module.generation_config.eos_token_id = [continuation[1], 5]
    assert continuation[1] != continuation[0]
    stopping = LanguageModel("stopping", "0", module, tokenizer)
    assert stopping.eos_ids == {continuation[1], 5, 0}
    assert stopping.generate([prompt], 10) == [model.decode(continuation[:1])]
    assert stopping.generate([prompt, "Rome of the of"], 10)[0] == model.decode(continuation[:1])


def test_embedding_is_what_the_first_block_is_given() -> None:
    model = tiny_model("gemma")
    ids = model.encode("The Space Needle")
    assert model.embedding(ids).shape == (len(ids), 32)
    torch.testing.assert_close(model.embedding(ids)[0], model.weight("model.embed_tokens.weight")[ids[0]] * 32**0.5)
    model.embedding(ids).zero_()
    assert (model.embedding(torch.tensor([ids])) != 0).any()


def test_tokens_are_shown_with_their_leading_space() -> None:
    model = tiny_model("gpt2")
    ids = model.encode("The Space Needle of 東京")
    strings = model.token_strings(ids)
    assert len(strings) == len(ids)
    assert "".join(strings[:4]) == "The Space Needle of"
    assert strings[1] == " Space"
    assert model.token_strings([0]) == ["<|endoftext|>"]
    assert model.decode(ids) == "The Space Needle of 東京"
    assert model.decode([0, *ids]) == "The Space Needle of 東京"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        ("Paris " * 100, r"the text is \d+ tokens long; tiny gpt2 takes at most 64"),
        ("a" * 1_000_000, "the text has 1000000 characters; at most 4000 are taken"),
        ("Paris \ud800", "broken character"),
    ],
)
def test_text_the_model_cannot_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model("gpt2").encode(text)


def test_a_foreign_tokenizer_is_refused_before_it_indexes_past_the_embedding() -> None:
    module, tokenizer = build_tiny("gpt2", vocab_size=100)
    model = LanguageModel("small", "0", module, tokenizer)
    with pytest.raises(ValueError, match="small knows only 100 tokens"):
        model.encode("The Space Needle")
    assert model.pad_id == 1


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        tiny_model("gpt2").generate(["Paris"], -1)
    assert tiny_model("gpt2").generate([], 3) == []


def test_the_digest_is_of_what_is_saved() -> None:
    model = LanguageModel("mine", "0", *build_tiny("llama"))
    digest = model.weights_digest()
    with torch.no_grad():
        model.module.model.rotary_emb.inv_freq.mul_(2)
        assert model.weights_digest() == digest
        model.module.model.norm.weight[3] += 1
    assert model.weights_digest() != digest
