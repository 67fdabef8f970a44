"""Build facts, requests and probes from fields, for all formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from facts.importers.errors import SameAnswerError
from facts.importers.fields import Fields
from facts.types import EditRequest, Fact, Probe, ProbeKind
from facts.words import find_subject

NO_TRUTH = "<|endoftext|>"
"""EasyEdit's word for an unknown true answer."""

AXES: Mapping[str, ProbeKind] = {
    "Relation_Specificity": "same_subject",
    "Relation_Specifity": "same_subject",  # as RippleEdits' own README spells it
    "Forgetfulness": "forgetfulness",
    "neighborhood": "neighborhood",
    "Logical_Generalization": "logical",
    "Subject_Aliasing": "alias",
    "Compositionality_I": "one_hop",
    "Compositionality_II": "compositional_2",
    "one_hop": "one_hop",
    "Reasoning": "reasoning",
    "reasoning": "reasoning",
}
"""The names the formats give to groups of probes."""


def fact_of(
    row: Fields, prompt_field: str, subject_field: str, target_true: str = "", relation: str = ""
) -> tuple[Fact, tuple[str, ...]]:
    """The fact a prompt asks for, and the assumptions made.

    The prompt may contain `{}` or the subject.  If it contains neither, the subject is searched with other upper and
    lower case; if that fails, the whole prompt is used as the subject.  A subject that the fact does not contain letter
    by letter stays in the row.
    """
    prompt = row.text(prompt_field)
    subject = row.peek(subject_field) or ""
    if not isinstance(subject, str):
        raise row.error(subject_field, "is not a text; expected the words of the prompt that name the subject")
    if "{}" in prompt:
        if prompt.count("{}") > 1:
            raise row.error(prompt_field, "holds {} more than once; write it once, where the subject goes")
        return Fact(row.text(subject_field), prompt, target_true, relation), ()
    if not subject.strip():
        return Fact.from_words(prompt, target_true, relation), ("no subject is given; the whole prompt stands for it",)
    if subject in prompt:
        return Fact.from_prompt(prompt, row.text(subject_field), target_true, relation), ()
    written = find_subject(prompt, subject.strip())
    if written:
        fact = Fact.from_prompt(prompt, written, target_true, relation)
        return fact, (f"the subject {subject[:80]!r} is written {written[:80]!r} in the prompt",)
    note = f"the subject {subject[:80]!r} does not occur in the prompt; the whole prompt stands for it"
    return Fact.from_words(prompt, target_true, relation), (note,)


def request_of(
    row: Fields,
    target_field: str,
    fact: Fact,
    target_new: str,
    probes: Sequence[Probe] = (),
    generation_prompts: tuple[str, ...] = (),
) -> EditRequest:
    """The request; a new answer that is none is said of the field it came from.

    Where the row may keep a new answer that is the true one, the fact has no true answer: there is nothing to compare.
    """
    if target_new.strip() and target_new.strip() == fact.target_true.strip():
        if not row.keeps_same:
            raise SameAnswerError(row.path(target_field), f"is {target_new!r}, which is the true answer too")
        fact = replace(fact, target_true="")
    try:
        return EditRequest(fact, target_new, tuple(probes), generation_prompts)
    except ValueError as error:
        raise row.error(target_field, f"cannot be used: {error}") from None


def probe_of(kind: ProbeKind, prompt: str, answers: Sequence[str], source: str) -> Probe:
    """A probe that takes any of the answers; with none, only before and after can be compared."""
    return Probe(kind, prompt, answers[0] if answers else "", aliases=tuple(answers[1:]), source=source)


def names_of(*answers: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(answer, other names) of each list that has other names."""
    return tuple((entry[0], tuple(entry[1:])) for entry in answers if len(entry) > 1)


def following(row: Fields, **also: ProbeKind) -> tuple[list[Probe], list[str]]:
    """The probes under `portability`, an object from axis to tests, and what could not be asked.

    `also` says what kinds some axes give in this format.  A test without an answer cannot be scored: it stays in the
    row, and is noted.
    """
    probes: list[Probe] = []
    notes: list[str] = []
    for axis, test in _tests(row, "portability"):
        kind = also.get(axis) or AXES.get(axis, "reasoning")
        if answers := test.answers("ground_truth"):
            probes += [probe_of(kind, prompt, answers, f"portability.{axis}") for prompt in test.texts("prompt")]
        else:
            notes.append(f"{test.path('ground_truth')} holds no answer; the prompt is kept but not asked")
    return probes, notes


def staying(row: Fields, true: Sequence[str]) -> list[Probe]:
    """Locality probes of a row, whose `locality` object maps each of EasyEdit's categories to tests.

    A test that EasyEdit calls "neighborhood" counts as a neighbour only if its answer is one of the edited fact's
    `true` ones; else it is a probe that stays unchanged.
    """
    probes: list[Probe] = []
    for axis, test in _tests(row, "locality"):
        answers = test.answers("ground_truth")
        kind = AXES.get(axis, "unchanged") if answers else "unchanged"
        if kind == "neighborhood" and answers[0] not in true:
            kind = "unchanged"
        probes += [probe_of(kind, prompt, answers, f"locality.{axis}") for prompt in test.texts("prompt")]
    return probes


def staying_prompts(row: Fields, true: Sequence[str]) -> list[Probe]:
    """The probes under `locality_prompt`, with their answer beside them under one of two names.

    Without an answer a prompt is kept as one that should not change.  With one it is a neighbour where the answer is a
    `true` one of the edited fact.
    """
    answers = row.answers("locality_ground_truth") or row.answers("locality_answer")
    kind: ProbeKind = "neighborhood" if answers and answers[0] in true else "unchanged"
    return [probe_of(kind, text, answers, "locality_prompt") for text in row.texts("locality_prompt")]


def _tests(row: Fields, name: str) -> Iterator[tuple[str, Fields]]:
    """(axis, test) of every test under a field."""
    groups = row.part(name) if name in row else Fields({})
    for axis in groups:
        for test in groups.spread(axis):
            yield axis, test
