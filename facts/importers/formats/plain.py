"""Plain tables and JSON Lines with one fact per row, for facts written by hand.

Columns: `prompt` (with `{}` or with the subject in it), `subject`, `target_new`, `target_true`, `relation`, `id`;
columns whose names begin with `paraphrase` or `generation` hold further prompts, `locality` ones prompts that should
not change, `locality_answer` ones their answers.  Without `target_new`, a row is a fact to trace; in a file without
any answer, one whose answer is the model's own.  Where there is no `prompt`, `template` stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case, Probe

_PROMPT = ("prompt", "template")
_TRUE = ("target_true", "ground_truth", "answer", "attribute")
_LOCALITY, _LOCALITY_ANSWER = "locality", "locality_answer"


def recognises(row: Mapping[str, Any]) -> bool:
    """Any row with a prompt, or a template, and an answer or a subject."""
    return bool(row.keys() & set(_PROMPT)) and any(name in row for name in ("target_new", *_TRUE, "subject"))


def read(row: Fields) -> Case:
    """One row as a case."""
    named = set(row) & {"target_new", *_TRUE}
    true = next((found for name in _TRUE if (found := row.answers(name))), ())
    prompt = next((name for name in _PROMPT if name in row), _PROMPT[0])
    fact, notes = fact_of(row, prompt, "subject", true[0] if true else "", row.optional("relation"))
    label = row.label("id") or row.label("case_id")
    if "target_new" not in row:
        if not true and named:
            raise row.error("target_new", "is empty, and no true answer is given; write the new answer or the true one")
        return Case(label, known=(fact,), names=names_of(true), notes=notes)
    new = row.answer("target_new")
    probes = [
        probe_of("paraphrase", text, [new], name)
        for name in row
        if name.startswith("paraphrase")
        for text in row.texts(name)
    ]
    generation = tuple(text for name in row if name.startswith("generation") for text in row.texts(name))
    request = request_of(row, "target_new", fact, new, [*probes, *_locality(row)], generation)
    return Case(label, (request,), names=names_of(true), notes=notes)


def _locality(row: Fields) -> list[Probe]:
    """`locality_answer` goes with `locality` or `locality_prompt`, `locality_answer_2` with `locality_2`."""
    found = []
    for name in row:
        if name.startswith(_LOCALITY) and not name.startswith(_LOCALITY_ANSWER):
            answer = _LOCALITY_ANSWER + name.removeprefix(_LOCALITY).removeprefix("_prompt")
            answers = row.answers(answer)
            found += [probe_of("unchanged", text, answers, name) for text in row.texts(name)]
    return found
