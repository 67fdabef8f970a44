"""Requests as JSON values, and what every reader of JSON needs: tuples from lists, types checked, no number but finite.

A request has two forms.  Saved edits and cells hold every field (`request_record`); a dataset's line leaves out what is
empty (`short_record`, which `facts.importers.formats.engram` reads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from facts.types import EditRequest, Fact, Probe

T = TypeVar("T")


def request_record(request: EditRequest) -> dict[str, Any]:
    """A request as JSON values, all fields given."""
    record: dict[str, Any] = as_lists(asdict(request))
    return record


def read_request(record: object) -> EditRequest:
    """The request that `request_record` was given.

    Raises:
        ValueError: naming the field that is missing, unknown or of another type.
    """
    return read_record(EditRequest, record, "request")


def short_record(request: EditRequest) -> dict[str, Any]:
    """A request as JSON values, the fact's fields beside the others, without what is empty."""
    probes = [short_probe(probe) for probe in request.probes]
    rest = said(probes=probes, generation_prompts=list(request.generation_prompts))
    return short_fact(request.fact) | {"target_new": request.target_new} | rest


def short_fact(fact: Fact) -> dict[str, Any]:
    """A fact as JSON values, without what is empty."""
    return said(**asdict(fact))


def short_probe(probe: Probe) -> dict[str, Any]:
    """A probe as JSON values, without what is empty."""
    rule = {"group_rule": probe.group_rule} if probe.group else {}
    written = said(
        answer=probe.answer,
        aliases=list(probe.aliases),
        bridge=[{"prompt": prompt, "answer": answer} for prompt, answer in probe.bridge],
        source=probe.source,
        group=probe.group,
    )
    return {"kind": probe.kind, "prompt": probe.prompt} | written | rule


def said(**members: Any) -> dict[str, Any]:
    """The members that are not empty."""
    return {name: value for name, value in members.items() if value not in ("", [], {})}


def read_record(kind: type[T], value: object, where: str) -> T:
    """A frozen dataclass from JSON values, by the types of its fields (see `read_value`).

    Raises:
        ValueError: naming the place in the record, what stands there and what was expected.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {_shown(value)}; expected an object with named fields")
    hints = get_type_hints(kind)
    needed = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]  # type: ignore[arg-type]
    wrong = [f"lacks {name!r}" for name in needed if name not in value]
    wrong += [f"has an unknown field {name!r}" for name in value if name not in hints]
    if wrong:
        raise ValueError(f"{where} {wrong[0]}; expected {', '.join(hints)}")
    return kind(**{name: read_value(hints[name], inner, f"{where}.{name}") for name, inner in value.items()})


def read_value(kind: Any, value: Any, where: str) -> Any:
    """A value of a type from JSON: a text, a number, a Literal, or a dataclass, tuple or mapping of these.

    Raises:
        ValueError: naming the place in the record, what stands there and what was expected.
    """
    if is_dataclass(kind):
        return read_record(kind, value, where)  # type: ignore[arg-type]
    of = get_args(kind)
    if get_origin(kind) is tuple:
        of_any_length = of[-1] is ...
        if not isinstance(value, list | tuple) or not (of_any_length or len(value) == len(of)):
            length = "" if of_any_length else f" of {len(of)}"
            raise ValueError(f"{where} is {_shown(value)}; expected a list{length}")
        kinds = of[:1] * len(value) if of_any_length else of
        return tuple(
            read_value(*pair, f"{where}[{index}]") for index, pair in enumerate(zip(kinds, value, strict=True))
        )
    if get_origin(kind) is Literal:
        if value not in of:
            raise ValueError(f"{where} is {_shown(value)}; expected one of {', '.join(of)}")
    elif get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {_shown(value)}; expected an object with named fields")
        return {name: read_value(of[1], inner, f"{where}.{name}") for name, inner in value.items()}
    elif kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | kind):
            raise ValueError(f"{where} is {_shown(value)}; expected a number")
    elif not isinstance(value, str):
        raise ValueError(f"{where} is {_shown(value)}; expected a text")
    return value


def as_tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were, at any depth."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def as_lists(value: Any) -> Any:
    """The same structure as JSON has it: tuples as lists, numbers as Python's own, None for one that is not finite."""
    if isinstance(value, Mapping):
        return {name: as_lists(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_lists(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
