"""EasyEdit's requests: a list of request dictionaries, one object with the arguments of `BaseEditor.edit`, or results.

In `results.json` each entry holds its request; what was measured stays in `extra`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from facts.importers.build import NO_TRUTH, fact_of, following, names_of, probe_of, request_of, staying, staying_prompts
from facts.importers.errors import RowError
from facts.importers.fields import Fields
from facts.types import Case

_ARGUMENTS = {
    "prompts": "prompt",
    "rephrase_prompts": "rephrase_prompt",
    "loc_prompts": "loc_prompt",
    "locality_inputs": "locality",
    "portability_inputs": "portability",
}
"""Names of the arguments of `edit`, and of the fields of a request they become."""


def recognises(row: Mapping[str, Any]) -> bool:
    """A prompt and EasyEdit's own names beside it."""
    own = {"ground_truth", "rephrase_prompt", "loc_prompt", "target_neg"}
    asked = row.get("requested_rewrite", row)
    if not (isinstance(asked, dict) and {"prompt", "target_new"} <= asked.keys()):
        return recognises_arguments(row)
    # a plain table may have a column of texts called locality
    grouped = any(isinstance(asked.get(name), dict) for name in ("locality", "portability"))
    return grouped or bool(own & asked.keys()) or recognises_arguments(row)


def recognises_arguments(row: Mapping[str, Any]) -> bool:
    """Lists side by side, as `edit` takes them."""
    return isinstance(row.get("prompts"), list) and "target_new" in row


def expand(document: Mapping[str, Any]) -> Iterator[Any]:
    """One request per prompt from the arguments of `edit`; a single request as it is.

    Raises:
        RowError: if two lists differ in length.
    """
    if not recognises_arguments(document):
        yield document
        return
    n = len(document["prompts"])
    for index in range(n):
        yield {
            _ARGUMENTS.get(name, name): _member(value, index, n, name)
            for name, value in document.items()
            if value is not None
        }


def _member(value: Any, index: int, n: int, path: str) -> Any:
    """The part of an argument that belongs to one edit: an entry of each list, at any depth of named groups."""
    if isinstance(value, dict):
        return {name: _member(entry, index, n, f"{path}.{name}") for name, entry in value.items()}
    if isinstance(value, list):
        if len(value) != n:
            raise RowError(path, f"has {len(value)} entries for {n} prompts; expected one each")
        return value[index]
    return value


def read(row: Fields) -> Case:
    """One request as a case."""
    asked = row.part("requested_rewrite") if "requested_rewrite" in row else row
    new = asked.answer("target_new")
    true = () if asked.peek("ground_truth") == NO_TRUTH else asked.answers("ground_truth")
    fact, notes = fact_of(asked, "prompt", "subject", true[0] if true else "")
    paraphrases = [probe_of("paraphrase", text, [new], "rephrase_prompt") for text in asked.texts("rephrase_prompt")]
    after, unasked = following(asked)
    probes = [*paraphrases, *after, *staying(asked, true), *staying_prompts(asked, true)]
    request = request_of(asked, "target_new", fact, new, probes)
    return Case(row.label("case_id"), (request,), names=names_of(true), notes=(*notes, *unasked))
