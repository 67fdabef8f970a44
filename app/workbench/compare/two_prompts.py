"""The tab "Two prompts": states of another prompt are written into the run of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.server import cache
from app.server.jobs import Runner
from app.session.asks import SITES, PatchAsk
from app.session.form import Form
from app.session.state import ROOM
from app.shared.waiting import Waiting
from app.shared.wording import plain, probability, sentence, short, visible
from app.workbench.compare import asking, work
from app.workbench.compare.lens import PLAIN
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    from tracing.lenses.two_prompts import PatchResult

OTHER = "The Colosseum is located in the city of"
EVERY = "every token into its own place"


def draw(form: Form, runner: Runner) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        "Activation patching: a state of the other prompt’s run is written into the run of this prompt, one layer at a "
        "time. Where the other prompt’s answer becomes probable, that state carries it."
    )
    other, site = st.columns([3, 1], vertical_alignment="bottom")
    with other:
        source = st.text_input("Other prompt", OTHER, ROOM, key="other_prompt", persist_state="session")
    with site:
        code = st.segmented_control(
            "States", list(SITES), format_func=lambda code: SITE_NAMES[SITES[code]].short, default="state",
            required=True, key="patch_site", persist_state="session",
        )  # fmt: skip
    pairs, why = _pairs(form, (source or "").strip())
    ask = PatchAsk(form.model.key, (source or "").strip(), form.prompt, str(code), pairs)
    result, waiting = asking.draw(
        runner, ask, work.patch, button="Patch", label="Patching states", why_not=why,
    )  # fmt: skip
    if result is not None:
        _show(result)
    return waiting


def _pairs(form: Form, source: str) -> tuple[tuple[tuple[int, int], ...], str]:
    """Draw the choice of the tokens; the pairs, and why there can be none."""
    model = cache.shelf().loaded(form.model.key)
    if model is None:
        return (), "The model is still loading."
    if form.problems or not source:
        return (), "Write both prompts."
    if source == form.prompt:
        return (), "Write another prompt than the one above: the states of an equal one change nothing."
    try:
        theirs, ours = (model.token_strings(model.encode(prompt)) for prompt in (source, form.prompt))
    except ValueError as error:
        return (), sentence(error)
    equal = len(theirs) == len(ours)
    left, right = st.columns(2)
    with left:
        start = st.selectbox(
            "From token", [*([-1] if equal else []), *range(len(theirs))], key=f"patch_from_{source}",
            format_func=lambda place: EVERY if place < 0 else f"{place + 1}: {visible(theirs[place])}",
            index=0 if equal else len(theirs) - 1,
        )  # fmt: skip
    if start is None or start < 0:
        return (), ""
    with right:
        stop = st.selectbox(
            "Into token of this prompt", list(range(len(ours))), key=f"patch_into_{form.prompt}",
            format_func=lambda place: f"{place + 1}: {visible(ours[place])}", index=min(start, len(ours) - 1),
        )  # fmt: skip
    return ((int(start), int(stop)),), ""


def _show(result: PatchResult) -> None:
    from app.shared.plots import EffectMap, effect_maps

    names = [_named(result, pair) for pair in result.pairs]
    hover = [
        [
            f"{name}, layer {layer}: p({result.words[0]}) {probability(float(first))}, "
            f"p({result.words[1]}) {probability(float(second))}"
            for layer, (first, second) in enumerate(zip(*result.patched[:, index], strict=True))
        ]
        for index, name in enumerate(names)
    ]
    title = f"Change of p({result.words[0]})"
    maps = [EffectMap(names, result.change.tolist(), hover, result.site, title)]
    (figure,) = effect_maps(maps, dark=st.context.theme.type == "dark")
    st.plotly_chart(figure, key="patch_map", config=PLAIN, alt=told(result))
    st.caption(plain(told(result)))


def _named(result: PatchResult, pair: tuple[int, int]) -> str:
    start, stop = visible(result.source_tokens[pair[0]]), visible(result.base_tokens[pair[1]])
    return start if start == stop else f"{start} → {stop}"


def told(result: PatchResult) -> str:
    """The map in a sentence: what is unpatched, and which state carries most of the other prompt's answer."""
    change, (other, own) = result.change, result.words
    row, layer = divmod(int(change.argmax()), change.shape[1])
    best = probability(float(result.patched[0, row, layer]))
    return (
        f"The other prompt’s answer is {other}, this one’s {own}. Unpatched, p({other}) is "
        f"{probability(float(result.unpatched[1, 0]))} here; it is highest, {best} (change "
        f"{short(float(change[row, layer]))}), with the state of {_named(result, result.pairs[row])} at layer {layer}."
    )
