"""The tab "Two prompts": states of another prompt are written into the run of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server import cache
from app.server.jobs import Runner
from app.session.asks import SITES, PatchAsk
from app.session.form import Form
from app.session.state import ROOM
from app.shared.waiting import Waiting
from app.shared.wording import plain, probability, sentence, short, visible
from app.workbench import ledger
from app.workbench.compare import asking, work
from app.workbench.compare.lens import PLAIN
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    from tracing.lenses.two_prompts import PatchResult

OTHER = "The Colosseum is located in the city of"
EVERY = later("every token into its own place")


def draw(form: Form, runner: Runner) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        say(
            "Activation patching: a state of the other prompt’s run is written into the run of "
            "this prompt, one layer at a "
            "time. Where the other prompt’s answer becomes probable, that state carries it."
        )
    )
    other, site = st.columns([3, 1], vertical_alignment="bottom")
    with other:
        source = st.text_input(say("Other prompt"), OTHER, ROOM, key="other_prompt", persist_state="session")
    with site:
        code = st.segmented_control(
            say("States"),
            list(SITES),
            format_func=lambda code: said(SITE_NAMES[SITES[code]].short),
            default="state",
            required=True,
            key="patch_site",
            persist_state="session",
        )
    pairs, why = _pairs(form, (source or "").strip())
    ask = PatchAsk(form.model.key, (source or "").strip(), form.prompt, str(code), pairs)
    result, waiting = asking.draw(
        runner,
        ask,
        work.patch,
        button=later("Patch"),
        label=later("Patching states"),
        why_not=why,
    )
    if result is not None:
        _show(result)
    return waiting


def _pairs(form: Form, source: str) -> tuple[tuple[tuple[int, int], ...], str]:
    """Draw the choice of the tokens; the pairs, and why there can be none."""
    model = cache.shelf().loaded(form.model.key)
    if model is None:
        return (), later("The model is still loading.")
    if form.problems or not source:
        return (), later("Write both prompts.")
    if source == form.prompt:
        return (), later("Write another prompt than the one above: the states of an equal one change nothing.")
    try:
        theirs, ours = (model.token_strings(model.encode(prompt)) for prompt in (source, form.prompt))
    except ValueError as error:
        return (), sentence(error)
    equal = len(theirs) == len(ours)
    left, right = st.columns(2)
    with left:
        start = st.selectbox(
            say("From token"),
            [*([-1] if equal else []), *range(len(theirs))],
            key=f"patch_from_{source}",
            format_func=lambda place: said(EVERY) if place < 0 else f"{place + 1}: {visible(theirs[place])}",
            index=0 if equal else len(theirs) - 1,
        )
    if start is None or start < 0:
        return (), ""
    with right:
        stop = st.selectbox(
            say("Into token of this prompt"),
            list(range(len(ours))),
            key=f"patch_into_{form.prompt}",
            format_func=lambda place: f"{place + 1}: {visible(ours[place])}",
            # the last token goes into the last one, however long the prompts are
            index=len(ours) - 1 if start == len(theirs) - 1 else min(start, len(ours) - 1),
        )
    return ((int(start), int(stop)),), ""


def _show(result: PatchResult) -> None:
    from app.shared.plots import EffectMap, effect_maps

    names = [_named(result, pair) for pair in result.pairs]
    hover = [
        [
            say(
                "{name}, layer {layer}: p({words}) {first}, p({words2}) {second}",
                name=name,
                layer=layer,
                words=result.words[0],
                first=probability(float(first)),
                words2=result.words[1],
                second=probability(float(second)),
            )
            for layer, (first, second) in enumerate(zip(*result.patched[:, index], strict=True))
        ]
        for index, name in enumerate(names)
    ]
    title = say("Change of p({words})", words=result.words[0])
    maps = [EffectMap(names, result.change.tolist(), hover, result.site, title)]
    (figure,) = effect_maps(maps, dark=st.context.theme.type == "dark")
    st.plotly_chart(figure, key="patch_map", config=PLAIN, alt=told(result))
    unedited = say(" All of this is of the unedited model.") if ledger.active() else ""
    st.caption(f"{plain(told(result))}{unedited}")


def _named(result: PatchResult, pair: tuple[int, int]) -> str:
    start, stop = visible(result.source_tokens[pair[0]]), visible(result.base_tokens[pair[1]])
    return start if start == stop else f"{start} → {stop}"


def told(result: PatchResult) -> str:
    """The map in a sentence: what is unpatched, and which state carries most of the other prompt's answer."""
    change, (other, own) = result.change, result.words
    row, layer = divmod(int(change.argmax()), change.shape[1])
    best = probability(float(result.patched[0, row, layer]))
    return say(
        "The other prompt’s answer is {other}, this one’s {own}. Unpatched, p({other}) is "
        "{unpatched} here; it is highest, {best} (change {change}), with the state of {result} "
        "at layer {layer}.",
        other=other,
        own=own,
        unpatched=probability(float(result.unpatched[1, 0])),
        best=best,
        change=short(float(change[row, layer])),
        result=_named(result, result.pairs[row]),
        layer=layer,
    )
