"""Where an edit goes: the layer, the token, and what is known of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server import cache
from app.server.catalog import Choice
from app.server.job import Job
from app.session.form import Form
from app.session.session import session
from app.session.state import BOUND
from app.shared.wording import plain, visible
from app.workbench import settings
from models.cards import layer_choice

if TYPE_CHECKING:
    from app.workflow import Located
    from tracing import TraceResult

BEFORE = later("Run a trace first; it may suggest another.")


def layer(form: Form) -> int:
    """Draw the slider; the layer to edit."""
    last, mine = form.model.n_layers - 1, session()
    # A slider of another range begins at what the address says; the next run goes by the state.
    wanted, mine.layer_wanted = mine.layer_wanted, None
    if wanted is not None:
        st.session_state.layer = wanted
    # A smaller model may have been chosen since; the slider refuses values outside its range.
    if st.session_state.get("layer", 0) > last:
        st.session_state.layer = last
    chosen: int = st.slider(
        say("Layer"),
        0,
        last,
        form.model.usual.layer,
        key="layer",
        help=say(
            "The layer to edit. You can also click the map or the table. Where a trace points says little about where "
            "an edit works best (Hase et al. 2023, arXiv:2301.04213), so take its layer as a suggestion."
        ),
        **BOUND,
    )
    if wanted is not None and chosen != wanted and not mine.layer_asked_again:
        mine.layer_wanted, mine.layer_asked_again = wanted, True
        st.rerun()
    mine.layer_asked_again = False
    return chosen


def suggest(form: Form, trace: Job | None, layer: int) -> None:
    """Say which layer the trace or the method suggests."""
    if session().method_shown and not settings.has_layer(st.session_state.method):
        from editing import METHODS

        title = said(METHODS[st.session_state.method].title)
        st.caption(say("{title} edits no layer in particular: the slider is not used.", title=title))
        return
    if trace is not None and traced(form, trace) is not None:
        words = _suggestion(trace.result, layer, _position(form, trace))
    else:
        loaded = cache.shelf().loaded(form.model.key)
        choice = form.model.usual if loaded is None else layer_choice(*form.model.size, loaded.revision)
        words = f"{plain(said(choice.sentence))} {said(BEFORE)}"
    st.caption(f"{_own_layer(form.model)}{words}")


def traced(form: Form, trace: Job | None) -> TraceResult | None:
    """The trace of the current prompt and subject, if any; new ones set the token back to the subject's last."""
    words = (form.model.key, form.prompt, form.subject)
    if session().token_of != words:
        session().token_of, st.session_state.fact_token = words, "subject_last"
    ask = session().trace_ask
    if trace is None or trace.state != "done" or (ask.model, ask.prompt, ask.subject) != words:
        return None
    result: TraceResult = trace.result.main
    return result


def token(result: TraceResult) -> dict[str, str]:
    """Draw the choice of the token to edit at; the setting for it, if it is not the last one of the subject."""
    start, stop = result.subject_span
    names = {"subject_last": say("{token} (last of the subject)", token=visible(result.tokens[stop - 1]))}
    names |= {f"subject:{pos - start}": visible(result.tokens[pos]) for pos in range(start, stop - 1)}
    names |= (
        {"last": say("{token} (last of the prompt)", token=visible(result.tokens[-1]))}
        if len(result.tokens) > stop
        else {}
    )
    chosen = st.selectbox(
        say("Edit at token"),
        list(names),
        format_func=lambda code: names[code],
        key="fact_token",
        persist_state="session",
        help=say(
            "The token whose MLP input is the key of the edit; the papers take the last token of the subject. You can "
            "also click another token of the subject in the map."
        ),
    )
    return {} if chosen == "subject_last" else {"fact_token": chosen}


def _position(form: Form, trace: Job) -> int:
    """Position of the token to edit at."""
    result, token = trace.result.main, st.session_state.fact_token
    if traced(form, trace) is None or token == "subject_last":
        return int(result.subject_span[1] - 1)
    return len(result.tokens) - 1 if token == "last" else int(result.subject_span[0]) + int(token.split(":")[1])


def _own_layer(model: Choice) -> str:
    """Where the chosen method usually edits, if that is not where a trace points."""
    if not session().method_shown:
        return ""
    from editing import METHODS

    name = st.session_state.get("method")
    own = settings.own_layers(model).get(name)
    return "" if own is None else say("{title} usually edits layer {own}. ", title=said(METHODS[name].title), own=own)


def _suggestion(located: Located, layer: int, position: int) -> str:
    """What the trace suggests at a token, what else is known of layers, and whether an edit has an effect there."""
    suggestion, token = located.suggestion(position), plain(visible(located.main.tokens[position]))
    start = located.usual if suggestion.layer is None else suggestion.layer
    if suggestion.layer is None:
        other = suggestion.elsewhere
        instead = (
            ""
            if other is None
            else say(" {token} carries more: click it in the map to edit there.", token=plain(visible(other.token)))
        )
        words = say(
            "No layer stands out at {token}.{instead} {source}",
            token=token,
            instead=instead,
            source=plain(said(located.source)),
        )
    else:
        peak = located.main.peak(position)[1]
        passed_over = (
            say(", the largest effect where an edit can act: layer {peak}’s MLP is silent here", peak=peak)
            if peak != start
            else ""
        )
        words = say(
            "The trace suggests layer {start} at {token}{passed_over}.",
            start=start,
            token=token,
            passed_over=passed_over,
        )
        words += f" {plain(said(located.source))}" if located.measured else ""
    if layer in located.silent.get(position, ()):
        return say(
            "{words} You chose layer {layer}, whose MLP is silent here, so an edit there has no effect.",
            words=words,
            layer=layer,
        )
    return (
        words if layer in (start, located.start) else say("{words} You chose layer {layer}.", words=words, layer=layer)
    )
