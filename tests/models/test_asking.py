"""One way to ask: trailing blanks, start tokens, chat templates, characters cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tokenizers import decoders, pre_tokenizers, processors

from models import LanguageModel, Span, join, own_answer, subject_span, target_ids
from models.text.characters import CONTINUED, whole_characters
from models.text.tokens import notes_on
from tests.models.test_tokens import with_tokenizer, word_tokenizer
from tests.tiny import build_tiny, tiny_chat, tiny_model

PROMPT = "The Space Needle is located in the city of"


@pytest.fixture
def model() -> LanguageModel:
    return tiny_model("gpt2")


@pytest.fixture
def chat() -> LanguageModel:
    return tiny_chat("llama")


@pytest.mark.parametrize(
    ("prompt", "joined"),
    [
        ('The capital of France is "', 'The capital of France is "Paris'),
        ("The capital of France is (", "The capital of France is (Paris"),
        ("Answer:\n", "Answer:\nParis"),
        ("The capital of France is", "The capital of France is Paris"),
    ],
)
def test_the_answer_joins_as_the_language_writes_it(model: LanguageModel, prompt: str, joined: str) -> None:
    ids, n_prompt = join(model, prompt, "Paris")
    assert model.decode(ids) == joined
    assert ids[:n_prompt] == model.encode(prompt)
    assert ids[n_prompt:] == target_ids(model, "Paris", prompt)


def test_no_blank_inside_a_script_without_blanks(model: LanguageModel) -> None:
    ids, n_prompt = join(model, "日本の首都は", "東京")
    assert model.decode(ids[n_prompt:]) == "東京"


def test_a_blank_at_the_end_is_left_out_and_said(model: LanguageModel) -> None:
    assert model.encode(f"{PROMPT} ") == model.encode(PROMPT)
    assert join(model, f"{PROMPT} ", "Seattle") == join(model, PROMPT, "Seattle")
    assert subject_span(model, f"{PROMPT}  ", "Space Needle") == subject_span(model, PROMPT, "Space Needle")
    (note,) = notes_on(model, f"{PROMPT} ", "Space Needle", 4)
    assert "blank" in note
    assert notes_on(model, PROMPT, "Space Needle", 4) == ()
    with pytest.raises(ValueError, match="the text is empty"):
        model.encode("  ")


def test_a_subject_that_ends_inside_a_word_is_said(model: LanguageModel) -> None:
    (note,) = notes_on(model, PROMPT, "Space Needl", 4)
    assert note == "The subject 'Space Needl' is part of a longer word of the prompt; give the whole word."
    assert notes_on(model, "日本の首都は", "日本", 0) == ()


def test_a_start_token_written_by_hand_stands_once() -> None:
    tokenizer = word_tokenizer("<s>", "▁The", "▁Space", "▁Needle")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    model = with_tokenizer(tokenizer, bos_token="<s>")
    model.tokenizer.backend_tokenizer.add_special_tokens(["<s>"])
    for prompt in ("<s>The Space Needle", "<s><s>The Space Needle"):
        assert model.encode(prompt) == model.encode("The Space Needle") == [1, 2, 3, 4]
        assert subject_span(model, prompt, "Space Needle") == Span(2, 4)
    (note,) = notes_on(model, "<s>The Space Needle", "Space Needle", 7)
    assert "<s>" in note


def test_which_place_of_the_subject_is_meant_is_said(model: LanguageModel) -> None:
    (note,) = notes_on(model, "Rome is the capital of Italy. Rome is in", "Rome", 30)
    assert "stands 2 times" in note
    assert "number 2 is meant" in note


def test_a_start_token_is_the_readers_own_where_the_tokenizer_puts_none(model: LanguageModel) -> None:
    assert model.encode(f"<|endoftext|>{PROMPT}") == [0, *model.encode(PROMPT)]


def test_a_chat_has_the_prompt_in_the_users_turn_and_the_answer_in_the_models(chat: LanguageModel) -> None:
    asked = f"<|endoftext|>user\n{PROMPT}<|pad|>\n<|endoftext|>assistant\n"
    assert chat.decode(chat.encode(PROMPT), special_tokens=True) == asked
    ids, n_prompt = join(chat, PROMPT, "Seattle")
    assert chat.decode(ids, special_tokens=True) == f"{asked}Seattle"  # no blank behind a line end
    assert n_prompt == len(chat.encode(PROMPT))
    span = subject_span(chat, PROMPT, "Space Needle")
    assert chat.decode(ids[span.start : span.stop]).strip() == "Space Needle"
    assert chat.decode(chat.lead_ids, special_tokens=True) == "<|endoftext|>user\n"
    assert chat.name == "tiny chat (chat)"


def test_a_chat_finds_the_subject_behind_the_template_that_names_it(chat: LanguageModel) -> None:
    """The template's own "user" is not the prompt's."""
    span = subject_span(chat, "the user is", "user")
    ids = chat.encode("the user is")
    assert chat.decode(ids[: span.start], special_tokens=True).strip() == "<|endoftext|>user\nthe"
    assert chat.decode(ids[span.start : span.stop]).strip() == "user"


def test_a_chat_shares_weights_lock_and_views(chat: LanguageModel) -> None:
    name = chat.architecture.key_weight_name(0)
    view = chat.view({name: torch.zeros_like(chat.weight(name))})
    assert view.chat
    assert view.encode(PROMPT) == chat.encode(PROMPT)
    plain = LanguageModel("plain", "0", chat.module, chat.tokenizer)
    again = plain.as_chat()
    assert (again.module is plain.module, again.lock is plain.lock, plain.chat) == (True, True, False)


def test_an_instruct_model_asked_plainly_is_named(chat: LanguageModel) -> None:
    plain = LanguageModel("instruct", "0", chat.module, chat.tokenizer)
    (note,) = notes_on(plain, PROMPT, "Space Needle", 4)
    assert "instruct is an instruct model" in note
    assert notes_on(chat, PROMPT, "Space Needle", 4) == ()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "tiny gpt2 has no chat template"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "does not hold the prompt"),
        ("{{ raise_exception('no user turn') }}", "chat template cannot be used .no user turn."),
    ],
)
def test_a_template_that_cannot_be_used_is_said(template: str | None, message: str) -> None:
    import copy

    module, tokenizer = build_tiny("gpt2")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    model = LanguageModel("tiny gpt2", "0", module, tokenizer)
    with pytest.raises(ValueError, match=message):
        model.as_chat().encode(PROMPT)


def test_a_character_stands_once_over_its_tokens(model: LanguageModel) -> None:
    ids = model.encode("in 鷲 🦅 東京")
    shown = model.token_strings(ids)
    assert "\ufffd" not in "".join(shown)
    assert "".join(text for text in shown if text != CONTINUED) == "in 鷲 🦅 東京"
    assert len(shown) == len(ids)


def test_what_never_becomes_a_character_stays_as_it_is() -> None:
    texts = ["a", "\ufffd", "\ufffd", "b"]
    assert whole_characters(texts, lambda start, stop: "\ufffd" * (stop - start)) == texts
    assert whole_characters(texts, lambda start, stop: "é") == ["a", "é", CONTINUED, "b"]


def test_the_models_own_answer_is_a_whole_character(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = model.tokenize("鷲")
    assert len(wanted) == 3
    prompt = model.encode(PROMPT)

    def logits_where(rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        ((row,), ((last,),)) = rows, places
        assert last == len(row) - 1
        found = torch.zeros(1, model.d_vocab)
        found[0, wanted[len(row) - len(prompt)]] = 1.0
        return [found]

    monkeypatch.setattr(model, "logits_where", logits_where)
    assert own_answer(model, PROMPT) == wanted
