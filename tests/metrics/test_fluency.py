"""Entropy of n-grams and similarity to reference texts, worked out by hand."""

from __future__ import annotations

import math

import pytest

from metrics.fluency import References, Snippet, generation_entropy, ngram_entropy, words


def test_words_and_marks_are_apart() -> None:
    assert words("It isn't Washington, D.C. - Rome's 3.5 towers.") == [
        *("It", "is", "n't", "Washington", ",", "D.C.", "-", "Rome", "'s", "3.5", "towers", ".")
    ]


NLTK_WORDS = [
    *(
        "Doors",
        "open",
        "at",
        "10:30",
        "and",
        "close",
        "by",
        "9:15",
        ";",
        "Mr.",
        "O'Neal",
        ",",
        "D'Arcy",
        "Inc.",
        "staff",
    ),
    *(
        "wait",
        "...",
        "She",
        "is",
        "n't",
        "here",
        "(",
        "yet",
        ")",
        "but",
        "he",
        "saw",
        "him",
        "near",
        "Rome",
        "today",
        ".",
    ),
]
"""What `nltk.word_tokenize` of NLTK 3.10 with its English sentence model makes of the text below."""


def test_words_are_those_of_nltk() -> None:
    text = (
        "Doors open at 10:30 and close by 9:15; Mr. O'Neal, D'Arcy Inc. staff wait... She isn't here (yet) but he saw "
        "him near Rome today."
    )
    assert words(text) == NLTK_WORDS
    # 32 words, none twice: 31 bigrams and 30 trigrams, all different.
    assert len(NLTK_WORDS) == len(set(NLTK_WORDS)) == 32
    expected = (2 / 3 * math.log2(31) + 4 / 3 * math.log2(30)) / 2
    assert generation_entropy([text]) == pytest.approx(expected)
    assert round(expected, 2) == 4.92


def test_a_full_stop_is_apart_at_the_end_of_every_sentence_and_part_of_an_abbreviation() -> None:
    assert words("Rome fell. Mr. J. K. Lee left St. Louis. He sold Apple Inc. The end.") == [
        *("Rome", "fell", ".", "Mr.", "J.", "K.", "Lee", "left", "St.", "Louis", "."),
        *("He", "sold", "Apple", "Inc", ".", "The", "end", "."),
    ]


def test_entropy_by_hand() -> None:
    # a b a b c: bigrams ab ab ba bc, shares 1/2 1/4 1/4: 1.5 bits; trigrams aba bab abc: log2 3.
    tokens = ["a", "b", "a", "b", "c"]
    assert ngram_entropy(tokens, 2) == pytest.approx(1.5)
    assert ngram_entropy(tokens, 3) == pytest.approx(math.log2(3))
    expected = (2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2
    assert generation_entropy(["a b a b c"]) == pytest.approx(expected)
    # The same word again and again has no entropy; the mean is over texts.
    assert ngram_entropy(["a"] * 9, 2) == 0
    assert generation_entropy(["a b a b c", "a a a a a"]) == pytest.approx(expected / 2)


def test_a_text_without_ngrams_has_no_entropy_and_no_text_is_an_error() -> None:
    assert generation_entropy(["word"]) == 0
    assert generation_entropy([""]) == 0
    with pytest.raises(ValueError, match="no text to measure"):
        generation_entropy([])


def _references(*texts: str) -> References:
    return References({("relation", "answer"): tuple(Snippet("thing", text) for text in texts)})


def test_tf_idf_by_hand() -> None:
    references = _references("Red red fish", "a blue fish")
    # N = 2; fish is in both, red and blue in one: idf 1, ln(3/2) + 1.  "a" is one letter and no term.
    rare = math.log(3 / 2) + 1
    assert references.idf == pytest.approx({"red": rare, "blue": rare, "fish": 1.0})
    # (red, fish) and (blue, fish) share fish alone; (2 red, fish) and (red, fish) share both.
    assert references.similarity(["red fish"], ["blue fish"]) == pytest.approx(1 / (rare**2 + 1))
    expected = (2 * rare**2 + 1) / math.sqrt((4 * rare**2 + 1) * (rare**2 + 1))
    assert references.similarity(["red", "red fish"], ["RED fish!"]) == pytest.approx(expected)
    assert references.similarity(["fish red"], ["red fish"]) == pytest.approx(1.0)


def test_texts_without_a_known_term_resemble_nothing() -> None:
    references = _references("red fish")
    assert references.similarity(["green bird"], ["red fish"]) == 0
    assert references.of("relation", "other answer") == ()
    assert references.of("relation", "answer") == (Snippet("thing", "red fish"),)
