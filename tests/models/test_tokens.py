"""Subject spans, joined targets and padding."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from facts.words import occurrences
from models import LanguageModel, Span, join, pad, subject_span, target_ids
from tests.tiny import build_tiny, tiny_model


@pytest.fixture
def model() -> LanguageModel:
    return tiny_model("gpt2")


def text_of(model: LanguageModel, prompt: str, span: Span) -> str:
    return model.decode(model.encode(prompt)[span.start : span.stop])


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("The Space Needle is located in the city of", "Space Needle", " Space Needle"),
        ("Space Needle is in", "Space Needle", "Space Needle"),
        ("東京 is the capital of", "東京", "東京"),
        ("The city of 東京", "東京", " 東京"),
        ("Århus is a city in", "Århus", "Århus"),
        ("The mayor of Århus lives in", "Århus", "Århus"),
        ("Shaquille O'Neal plays", "Shaquille O'Neal", "Shaquille O'Neal"),
        ("The\tSpace Needle", "Space Needle", "Space Needle"),
        ("a  Space Needle", "Space Needle", " Space Needle"),
        ("Is it the Space Needle?", "Space Needle", " Space Needle"),
        ("日本東京", "東京", "東京"),
    ],
)
def test_the_span_decodes_to_the_subject(model: LanguageModel, prompt: str, subject: str, expected: str) -> None:
    assert text_of(model, prompt, subject_span(model, prompt, subject)) == expected


def test_spans_are_token_positions(model: LanguageModel) -> None:
    prompt = "The Space Needle is located in the city of"
    span = subject_span(model, prompt, "Space Needle")
    assert [text.strip() for text in model.token_strings(model.encode(prompt))[span.start : span.stop]] == [
        "Space",
        "Needle",
    ]
    assert (span.start, span.stop, span.last, len(span)) == (1, 3, 2, 2)


def test_a_subject_that_begins_or_ends_inside_a_token_takes_the_whole_token(model: LanguageModel) -> None:
    prompt = "The Space Needle is"
    assert model.token_strings(model.encode(prompt))[2] == " Needle"
    assert subject_span(model, prompt, "eedl") == Span(2, 3)
    assert subject_span(model, prompt, "ace Need") == Span(1, 3)
    assert subject_span(model, prompt, " Space") == Span(1, 2)


def test_a_subject_that_is_part_of_a_character_run_of_bytes(model: LanguageModel) -> None:
    """Characters split over several tokens: the span never cuts one."""
    prompt = "a 鷲 b"
    assert text_of(model, prompt, subject_span(model, prompt, "鷲")).strip() == "鷲"


def test_the_second_place_of_a_subject_is_found_when_asked_for(model: LanguageModel) -> None:
    prompt = "Rome is the capital of Italy. Rome is in"
    places = occurrences(prompt, "Rome")
    assert places == (0, 30)
    first, second = (subject_span(model, prompt, "Rome", at) for at in places)
    assert first == subject_span(model, prompt, "Rome") == Span(0, first.stop)
    assert second.start > first.stop
    assert text_of(model, prompt, second) == " Rome"
    with pytest.raises(ValueError, match=r"the subject 'Rome' does not stand at character 7 of the prompt"):
        subject_span(model, prompt, "Rome", 7)
    with pytest.raises(ValueError, match="at character -1"):
        subject_span(model, prompt, "Rome", -1)


def test_a_subject_that_is_not_there_is_named(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="'Eiffel Tower' does not occur in the prompt 'The Space Needle is'"):
        subject_span(model, "The Space Needle is", "Eiffel Tower")
    with pytest.raises(ValueError, match="subject is empty"):
        subject_span(model, "The Space Needle is", " ")
    with pytest.raises(ValueError, match="does not occur"):
        subject_span(model, "", "Paris")


def with_tokenizer(tokenizer: Tokenizer, **options: str) -> LanguageModel:
    module, _ = build_tiny("gpt2")
    return LanguageModel("odd", "0", module, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options))


def word_tokenizer(*words: str) -> Tokenizer:
    return Tokenizer(models.WordLevel({word: index for index, word in enumerate(("[UNK]", *words))}, unk_token="[UNK]"))


def test_special_tokens_in_front_are_counted() -> None:
    tokenizer = word_tokenizer("<s>", "▁The", "▁Space", "▁Needle")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    model = with_tokenizer(tokenizer, bos_token="<s>")
    assert model.encode("The Space Needle") == [1, 2, 3, 4]
    assert subject_span(model, "The Space Needle", "Space Needle") == Span(2, 4)
    assert model.token_strings([2, 3]) == [" The", " Space"]
    assert target_ids(model, "Space") == [3]
    assert join(model, "The", "Space") == ([1, 2, 3], 2)


def test_a_tokenizer_that_changes_the_text_falls_back_on_checked_offsets() -> None:
    tokenizer = word_tokenizer("the", "space", "needle")
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = with_tokenizer(tokenizer)
    assert model.decode(model.encode("The Space Needle")) == "the space needle"
    assert subject_span(model, "The Space Needle", "Space Needle") == Span(1, 3)
    with pytest.raises(ValueError, match=r"the tokens of the subject 'Tower' cannot be told"):
        subject_span(model, "The Tower Needle", "Tower")


def test_prompt_and_target_are_tokenised_together(model: LanguageModel) -> None:
    ids, n_prompt = join(model, "The Space Needle is in", "Paris")
    assert ids == model.encode("The Space Needle is in Paris")
    assert ids[:n_prompt] == model.encode("The Space Needle is in")
    assert ids[n_prompt:] == target_ids(model, "Paris") == target_ids(model, " Paris")
    assert join(model, "The Space Needle is in", " Paris") == (ids, n_prompt)
    assert model.decode(target_ids(model, "Space Needle")) == " Space Needle"


def test_a_merge_across_the_border_is_undone() -> None:
    merges = [("a", " "), ("a ", "b")]
    vocabulary = {"[UNK]": 0, "a": 1, " ": 2, "b": 3, "a ": 4, "a b": 5, "c": 6}
    model = with_tokenizer(Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="[UNK]")))
    assert model.encode("a b") == [5]
    assert target_ids(model, "b") == [2, 3]
    assert join(model, "a", "b") == ([1, 2, 3], 1)
    assert join(model, "c", "b") == ([6, 2, 3], 1)


def test_a_target_must_fit_and_say_something(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="the answer is empty"):
        target_ids(model, "  ")
    with pytest.raises(ValueError, match=r"prompt and answer are \d+ tokens long; tiny gpt2 takes at most 64"):
        join(model, "Paris", "Rome " * 64)


def test_padding_is_on_the_right() -> None:
    ids, lengths = pad([[5, 6, 7], [8]], 1)
    assert torch.equal(ids, torch.tensor([[5, 6, 7], [8, 1, 1]]))
    assert torch.equal(lengths, torch.tensor([3, 1]))
    for rows in ([], [[]], [[1], []]):
        with pytest.raises(ValueError, match="no token to run"):
            pad(rows, 1)


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 1), (-1, 2)])
def test_a_span_holds_at_least_one_token(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        Span(start, stop)
