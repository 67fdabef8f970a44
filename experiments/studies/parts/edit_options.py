"""The options that studies which edit have in common: which facts, and settings of the methods."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from experiments.studies.parts.known import add_source


def add_edit_options(parser: ArgumentParser, facts: int, what: str = "facts that the model knows") -> None:
    """Add the options that `settings_of` and `experiments.studies.parts.known` read."""
    add_source(parser, facts, what)
    parser.add_argument("--all-facts", action="store_true", help="edit facts that the model does not know too")
    parser.add_argument(
        "--keep-same-answers",
        action="store_true",
        help="keep rows of --source whose new answer is one of the true ones, as the published counts have them",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings, such as steps=40; each method takes those it has",
    )
    parser.add_argument("--corpus", default="", help="text file for second moments, a document a line")


def settings_of(options: Namespace, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> those of the given settings that it has.

    Raises:
        ValueError: if a setting is not written as NAME=VALUE, or none of the methods has it.
    """
    from editing import get_method

    given = dict(_pair(text) for text in options.set)
    if options.corpus:
        given["corpus"] = options.corpus
    known = {method: {knob.name for knob in fields(get_method(method).config_type)} - {"layer"} for method in methods}
    for name in given:
        if not any(name in names for names in known.values()):
            raise ValueError(
                f"none of {', '.join(methods)} has a setting {name!r}; `python -m editing --help` lists them"
            )
    return {method: {name: value for name, value in given.items() if name in names} for method, names in known.items()}


def asked_of(options: Namespace) -> dict[str, Any]:
    """What the run's record keeps of these options: those that were given."""
    names = ("all_facts", "keep_same_answers", "set", "corpus")
    return {name: value for name in names if (value := getattr(options, name))}


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is no setting; write NAME=VALUE, such as steps=40")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
