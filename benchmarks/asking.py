"""How prompts are put to a model, and what that does to the answer: six cases, before and now side by side.

python -m benchmarks.asking --models reference smollm2-135m gemma-3-270m

"before" reads the prompt without rules: always a blank before the answer, a final blank and a typed start token kept,
the first occurrence of the subject's letters, no chat template, every token shown alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from models import LanguageModel, join, subject_span
from models.options import load_as
from models.settings import LoadSettings
from models.text.characters import HALF

JOINS = (
    ('The capital of France is "', "Paris"),
    ("The capital of France is (", "Paris"),
    ("Question: What is the capital of France?\nAnswer:\n", "Paris"),
    ("中国的首都是", "北京"),
)
FACTS = (
    ("The Space Needle is located in the city of", "Seattle"),
    ("The Eiffel Tower is located in the city of", "Paris"),
)
SCRIPTS = ("中国的首都是北京", "🗼🦅 is in", "عاصمة فرنسا هي باريس")


@dataclass(frozen=True)
class Row:
    """One case on one model."""

    model: str
    case: str
    asked: str
    before: str
    now: str


def rows(model: LanguageModel) -> Iterator[Row]:
    """Every case of one model."""

    def row(case: str, asked: str, before: str, now: str) -> Row:
        return Row(model.name, case, asked, before, now)

    for prompt, answer in JOINS:
        yield row(
            "A1 join",
            f"{prompt!r} → {answer}",
            _p(model, _always_a_blank(model, prompt, answer)),
            _now(model, prompt, answer),
        )
    for prompt, answer in FACTS:
        asked = f"{prompt} "
        yield row(
            "A2 blank at the end",
            f"{asked!r} → {answer}",
            _p(model, _kept(model, asked, answer)),
            _now(model, asked, answer),
        )
    begin = model.tokenizer.bos_token
    if model.starts:
        prompt, answer = FACTS[0]
        asked = begin + prompt
        yield row(
            "A3 start token",
            f"{asked!r} → {answer}",
            _p(model, _kept(model, asked, answer)),
            _now(model, asked, answer),
        )
    prompt, subject = "The Iranian capital of Iran is", "Iran"
    found = (subject_span(model, prompt, subject, at) for at in (prompt.index(subject), None))
    before, now = ("".join(model.token_strings(model.encode(prompt)[span.start : span.stop])) for span in found)
    yield row("A4 subject", f"{subject!r} in {prompt!r}", repr(before), repr(now))
    if model.has_chat_template:
        question = "What is the capital of France? Answer with one word."
        yield row(
            "A5 chat", f"{question!r} → Paris", _now(model, question, "Paris"), _now(model.as_chat(), question, "Paris")
        )
    for text in SCRIPTS:
        ids = model.encode(text)
        alone = sum(HALF in model.decode([token]) for token in ids)
        yield row(
            "A6 characters",
            repr(text),
            f"{alone} of {len(ids)} tokens are {HALF}",
            f"{''.join(model.token_strings(ids)).count(HALF)}",
        )


def _always_a_blank(model: LanguageModel, prompt: str, answer: str) -> tuple[list[int], int]:
    """The ids of "prompt answer" with a blank between, whatever the prompt ends with."""
    alone = model.tokenize(prompt)
    together = model.tokenize(f"{prompt} {answer}")
    if together[: len(alone)] != alone:
        together = alone + model.tokenize(f" {answer}", special_tokens=False)
    return together, len(alone)


def _kept(model: LanguageModel, prompt: str, answer: str) -> tuple[list[int], int]:
    """The prompt as typed, followed by the answer's usual tokens."""
    alone, (ids, n_prompt) = model.tokenize(prompt), join(model, prompt, answer)
    return alone + ids[n_prompt:], len(alone)


def _now(model: LanguageModel, prompt: str, answer: str) -> str:
    return _p(model, join(model, prompt, answer))


def _p(model: LanguageModel, joined: tuple[Sequence[int], int]) -> str:
    """Probability and rank of the answer's first token."""
    ids, n_prompt = joined
    p = model.logits(torch.tensor([list(ids[:n_prompt])], device=model.device))[0, -1].softmax(-1)
    first = float(p[ids[n_prompt]])
    return f"p {first:.2g}, rank {1 + int((p > first).sum())}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 0, or 2 after an error message if a model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asking", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["reference"], help="names, folders or hub ids")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        table = [row for name in options.models for row in rows(load_as(name, LoadSettings()))]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(row) for row in table], ensure_ascii=False, indent=1))
        return 0
    print("| model | case | asked | before | now |\n|---|---|---|---|---|")
    for row in table:
        print("| " + " | ".join(value.replace("|", "\\|") for value in asdict(row).values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
