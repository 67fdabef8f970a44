"""Settings of a method: made from values by name, and checked against the metadata of their fields.

A field's `earlier` is its value in files that were written before there was such a field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from facts.names import unknown

T = TypeVar("T")


def make_config(config_type: type[Any], values: Mapping[str, Any]) -> Any:
    """The config with these values and defaults for the rest.

    Raises:
        ValueError: if a field is unknown or missing, or a value is out of its range.
    """
    knobs = {knob.name: knob for knob in fields(config_type)}
    for name in values:
        if name not in knobs:
            raise ValueError(unknown("setting", name, knobs))
    for name, knob in knobs.items():
        if name not in values and knob.default is MISSING and knob.default_factory is MISSING:
            help_text = knob.metadata.get("help", "")
            raise ValueError(f"the setting {name!r} is missing; give a value for it. {help_text}".strip())
    return config_type(**values)


def with_constants(constants: Mapping[str, Mapping[str, Any]]) -> Callable[[type[T]], type[T]]:
    """Decorate a config whose `compat` brings constants: they stand for the fields that are not given.

    A value that is given is kept, also where it equals the field's default.

    Args:
        constants: values of `compat` -> field name -> value.
    """

    def decorate(config_type: type[T]) -> type[T]:
        plain = config_type.__init__
        parameters = signature(plain)

        @wraps(plain)
        def init(*args: Any, **given: Any) -> None:
            said = parameters.bind(*args, **given).arguments
            plain(**{**constants.get(said.get("compat", ""), {}), **said})

        config_type.__init__ = init  # type: ignore[method-assign]
        return config_type

    return decorate


def check_config(config: Any) -> None:
    """Check every field of a config dataclass against the `choices`, `min` and `max` of its metadata.

    Besides its `choices` a field accepts texts that match its `pattern`: (regular expression, how to write it).

    Raises:
        ValueError: naming the field, the value and what was expected.
    """
    for knob in fields(config):
        value, limits = getattr(config, knob.name), knob.metadata
        pattern, form = limits.get("pattern", ("", ""))
        if "choices" in limits and value not in limits["choices"] and not (form and re.fullmatch(pattern, str(value))):
            listed = [*map(str, limits["choices"]), *filter(None, [form])]
            raise ValueError(unknown(knob.name, value, listed))
        if "min" not in limits or (value is None and knob.default is None):
            continue
        kinds, expected = ((int,), "a whole number") if knob.type in (int, "int") else ((int, float), "a number")
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not (number and limits["min"] <= value <= limits.get("max", 1e30)):
            upper = f" and at most {limits['max']}" if "max" in limits else ""
            raise ValueError(f"{knob.name} is {value!r}; expected {expected} of at least {limits['min']}{upper}")
