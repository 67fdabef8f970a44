"""The method and its settings: one widget for each field of the method's config, drawn from the field itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import streamlit as st

from app.language.say import later, said, say, setting_label
from app.server import cache
from app.server.catalog import Choice
from app.session import state
from app.shared.wording import plain, sentence

GROUPS = {
    "locate-then-edit": later("Find the weights, then solve for the change"),
    "fine-tuning": later("Train some weights"),
    "in-context": later("Put words before the prompt"),
    "memory": later("Keep the fact beside the model"),
    "meta-learning": later("Ask an editor trained beforehand"),
}
"""Families of methods, in plain words."""
ADVICE = {
    "r-rome": later("one fact, one layer; begin here"),
    "rome": later("as published in 2022; R-ROME is safer"),
    "memit": later("many facts at once, over several layers"),
    "emmet": later("many facts at once, in one layer"),
    "alphaedit": later("one edit after another, others kept"),
    "kn": later("switches single neurons; weak"),
    "ft": later("plain baseline; disturbs much"),
    "ft-l": later("baseline with a limit on the change"),
    "ft-m": later("the strongest plain fine-tuning"),
    "lora": later("low-rank training; disturbs much"),
    "ice": later("no weights change; the fact is told"),
    "ike": later("the fact is told, with examples"),
    "grace": later("answers this prompt, little else"),
    "wise": later("a side memory, for long sequences"),
    "ke": later("needs an editor trained for the model"),
    "mend": later("needs an editor trained for the model"),
    "serac": later("needs a memory trained for the model"),
}
"""One line on when to take a method; what each reaches is measured in docs/methods.md."""


def method(model: Choice) -> str:
    """Draw the picker, its methods in their groups; the chosen method's name."""
    from editing import METHODS

    return str(
        st.selectbox(
            say("Method"),
            in_groups(),
            format_func=lambda name: f"{said(METHODS[name].title)} · {_advice(name)}",
            key="method",
            persist_state="session",
            on_change=state.follow_method,
            args=(own_layers(model), model.n_layers - 1),
            help=_all_advice(),
        )
    )


def in_groups() -> list[str]:
    """Every method, those of a group together; the default one is the first."""
    from editing import METHODS

    groups = list(dict.fromkeys(method.family for method in METHODS.values()))
    return sorted(METHODS, key=lambda name: groups.index(METHODS[name].family))


def _advice(name: str) -> str:
    from editing import METHODS

    return said(ADVICE.get(name, METHODS[name].family))


def _all_advice() -> str:
    """The groups with a line on each method, for the help of the picker."""
    from editing import METHODS

    lines, group = [], ""
    for name in in_groups():
        if METHODS[name].family != group:
            group = METHODS[name].family
            lines.append(f"\n**{said(GROUPS.get(group, group))}**\n")
        lines.append(f"- {said(METHODS[name].title)}: {_advice(name)}")
    return "\n".join(lines)


def own_layers(model: Choice) -> dict[str, int]:
    """Method -> its default layer in a model; ROME and R-ROME take the card's or the trace's."""
    from editing import METHODS
    from models.published import PUBLISHED, usual_layers

    last = PUBLISHED.get(model.size, usual_layers(model.n_layers))[-1]
    knobs = {name: dataclasses.fields(method.config_type) for name, method in METHODS.items()}
    return {
        name: int(knob.metadata["share"] * model.n_layers) if "share" in knob.metadata else last
        for name, fields in knobs.items()
        for knob in fields
        if knob.name == "layer" and knob.default is not dataclasses.MISSING
    }


def has_layer(method: str) -> bool:
    """Whether the method edits at the layer of the slider."""
    from editing import METHODS

    return "layer" in METHODS[method].config_type.__dataclass_fields__


def places(method: str) -> bool:
    """Whether the reader can choose the token the method edits at."""
    from editing import METHODS

    return any(knob.name == "fact_token" for knob in dataclasses.fields(METHODS[method].config_type))


def config(method: str, layer: int) -> dict[str, Any]:
    """Draw the settings; the layer, if the method has one, and the values that differ from the defaults."""
    from editing import METHODS

    knobs = dataclasses.fields(METHODS[method].config_type)
    changed: dict[str, Any] = {"layer": layer} if any(knob.name == "layer" for knob in knobs) else {}
    n_changed = len(changed)
    shown = [knob for knob in knobs if _shown(knob)]
    for column, half in zip(st.columns(2), (shown[0::2], shown[1::2]), strict=True):
        with column:
            values = {knob.name: _knob(method, knob) for knob in half}
        changed |= {knob.name: values[knob.name] for knob in half if values[knob.name] != knob.default}
    if any(knob.name == "corpus" for knob in knobs) and changed.get("second_moment", "estimate") == "estimate":
        corpus = _corpus(method)
        changed |= {"corpus": corpus} if corpus else {}
    n_changed = len(changed) - n_changed
    words = (
        say("{n_changed} changed from the defaults.", n_changed=n_changed)
        if n_changed
        else say("All at their defaults.")
    )
    st.caption(
        words
        if "layer" in changed
        else say("{words} This method finds its layers itself; the slider is not used.", words=words)
    )
    return changed


def _shown(knob: dataclasses.Field[Any]) -> bool:
    """The layer has its slider, the fact token its own list.  Free text is left out: it names files of the server."""
    plain_value = isinstance(knob.default, int | float) or any(name in knob.metadata for name in ("choices", "min"))
    return knob.name not in ("layer", "fact_token") and "help" in knob.metadata and plain_value


def _knob(method: str, knob: dataclasses.Field[Any]) -> Any:
    options = knob.metadata.get("choices")
    label = said(setting_label(knob.name))
    keep: dict[str, Any] = {"key": f"{method}_{knob.name}", "help": said(str(knob.metadata["help"]))}
    keep |= {"persist_state": "session"}
    if options:
        return st.selectbox(label, list(options), list(options).index(knob.default), **keep)
    if isinstance(knob.default, bool):
        return st.checkbox(label, knob.default, **keep)
    kind = int if knob.default is None else type(knob.default)  # none: a number of layers that depends on the model
    bounds = [None if (bound := knob.metadata.get(name)) is None else kind(bound) for name in ("min", "max")]
    step = 1 if kind is int else None
    keep |= {"placeholder": say("the usual one")}
    return st.number_input(label, *bounds, knob.default, step, format=None if kind is int else "%g", **keep)


def _corpus(method: str) -> str:
    """Name of the uploaded text for the second moment; empty for the bundled corpus."""
    file = st.file_uploader(
        say("Text for the second moment"),
        ["txt"],
        key=f"{method}_corpus",
        help=say(
            "Ordinary text whose keys the edit should not disturb: UTF-8, one document per line, at most 2 MB. "
            "Without a file the bundled corpus is used."
        ),
    )
    if file is None:
        return ""
    try:
        return cache.uploads().keep_text(file.getvalue())
    except ValueError as error:
        st.error(plain(said(sentence(error))), icon=":material/error:")
        return ""
