"""Which regular expressions of tokenizers are refused: those that may take for ever, and no published one."""

import pytest
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from models.sources.patterns import may_hang

PUBLISHED = [
    *sorted(set(GGUF_PRE_TOKENIZER_SPLITS.values())),  # Llama 3, Qwen 2, GPT-4o, Tekken and others
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",  # GPT-4
    r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM, with a class inside a class
    "[0-9][0-9][0-9]",  # Falcon
    r"(?=(\d{3})+(?!\d))",  # digits in groups of three
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s+",
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
    r"[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?",
    r" {2,}",
    "[]a]+",
    r"[^\]]+b",
    "(?<name>ab)*",
    r"\n|\r\n",
]
FOR_EVER = [
    "(a+)+$",
    "(a*)*",
    "(a|a)*$",
    "(a|aa)+$",
    "(a?)*b",
    r"(\d{1,3})+x",
    "((a+)b?)+",
    "(?:(?:a+))+",
    "(a+){30}b",
    "(x+x+)+y",
    "(?:a+|b)*c",
    r"(\s*a\s*)*$",
    "(a+)*?b",
    "a*a*b",
    "a+a+$",
    "(.*)(.*)x",
    r"\s*\s*\s*x",
    ".*.*=.*",
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_pass(pattern: str) -> None:
    assert not may_hang(pattern)


@pytest.mark.parametrize("pattern", FOR_EVER)
def test_patterns_that_take_more_than_the_square_are_refused(pattern: str) -> None:
    assert may_hang(pattern)


@pytest.mark.parametrize("pattern", [r"(?<a>x\g<a>y)", "(?~a)", "(" * 100 + ")" * 100, "(a", "[a", "a)", "a" * 20_000])
def test_what_cannot_be_judged_is_refused(pattern: str) -> None:
    assert may_hang(pattern)
