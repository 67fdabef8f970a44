"""The methods a benchmark runs: each in its usual form, and variants that papers distinguish."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from editing import METHODS, get_method
from editing.configs import make_config
from editing.parts.suggest import suggest_layer
from facts.names import unknown
from models import LanguageModel

NO_OP = "no-op"
"""The unedited model: the floor of what edits should change, the ceiling of what they should keep."""
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "rome-code": ("rome", {"compat": "rome-code"}),
    "ke+loop": ("ke", {"loop": 5}),
    "serac+gate": ("serac", {"subject_gate": True}),
}
"""Name of a form -> method and settings."""

Variants = dict[str, tuple[str, dict[str, Any]]]
"""Name -> (method, settings)."""


def weights_of(model: LanguageModel) -> str:
    """Key of a model's figures: its revision, and whether its chat template was used."""
    return f"{model.revision} (chat)" if model.chat else model.revision


def variants(model: LanguageModel, names: Sequence[str] | None = None, changes: Sequence[str] = ()) -> Variants:
    """The variants of those names, all by default, with settings as "METHOD.SETTING=VALUE".

    A setting without a default that is a layer takes the one that the commands take (`suggest_layer`).

    Raises:
        ValueError: if a name or setting is unknown, or a value is not usable.
    """
    every: Variants = {NO_OP: (NO_OP, {})}
    every |= {name: (name, {}) for name in METHODS}
    every |= {form: (name, dict(settings)) for form, (name, settings) in FORMS.items() if name in METHODS}
    given = _given(changes, every)
    for label in names or every:
        if label not in every:
            raise ValueError(unknown("method", label, every))
    chosen = {label: every[label] for label in names or every}
    for label, (name, settings) in chosen.items():
        if name == NO_OP:
            continue
        config_type = get_method(name).config_type
        settings |= given.get(name, {}) | given.get(label, {})
        needs_layer = any(knob.name == "layer" and knob.default is MISSING for knob in fields(config_type))
        if needs_layer and "layer" not in settings:
            settings["layer"] = suggest_layer(model)
        make_config(config_type, settings)  # reports a wrong setting before the work
    return chosen


def _given(changes: Sequence[str], every: Variants) -> dict[str, dict[str, Any]]:
    given: dict[str, dict[str, Any]] = {}
    for change in changes:
        path, equals, value = change.partition("=")
        name, dot, setting = path.partition(".")
        if not (equals and dot and name in every):
            raise ValueError(f"{change!r} is no setting; write METHOD.SETTING=VALUE, such as rome.layer=1")
        try:
            given.setdefault(name, {})[setting] = json.loads(value)
        except json.JSONDecodeError:
            given.setdefault(name, {})[setting] = value
    return given
