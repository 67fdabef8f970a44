"""The model: the list of those that are here, its size, and the panel that says how it is loaded and gets others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server import cache, limits
from app.server.catalog import DTYPES, Choice, Offer
from app.server.gate import COPY_LINK
from app.server.jobs import Runner
from app.session import state
from app.session.session import session
from app.session.state import KEEP
from app.shared.waiting import MEGABYTE, Waiting, cancel, show
from app.shared.wording import markup, plain, sentence
from facts.watch import Watch

if TYPE_CHECKING:
    from models.sources.catalogue import Entry

PURPOSE = later(
    "<h1><b>Engram</b> See where a language model keeps a fact, rewrite the fact, and measure what else changes.</h1>"
)

DESCRIBED = (later("Bundled model"), later("Glass box, set by hand"))
"""Titles of the catalogue that are words, not names."""
LONGEST_NAME = 80
"""Characters of a link's model that are shown."""


def draw(runner: Runner, offer: Offer, *, workbench: bool = False) -> tuple[Choice, list[Waiting]]:
    """Draw the list of models and the panel that gets others; the chosen model, and a download.

    Args:
        workbench: also say what Engram is, and offer the link to what is shown.
    """
    wanted, session().model_wanted = session().model_wanted, ""
    if wanted in offer.models:
        st.session_state.model = wanted
        state.use_defaults_of(offer.models[wanted])
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        if workbench:
            st.html(f"{said(PURPOSE)}<script>{COPY_LINK}</script>", width="stretch", unsafe_allow_javascript=True)
        switch = st.container(width="content")
        choice = _chosen(offer)
        with st.popover(say("More models"), icon=":material/deployed_code:"):
            line = st.empty()
            choice = choice.loaded_with(**_loaded_how())
            if not limits.public():
                _get()
        with switch:
            choice = replace(choice, chat=_chat(choice))
        if workbench:
            _copy_link()
    below = st.empty()  # so that the old content goes at once, not when the script ends
    with below.container():
        waiting = _download(runner)
    if not waiting:
        below.empty()
    line.html(f"<p>{_about(choice)}</p>")
    with st.container():
        for problem in offer.unusable:
            st.warning(plain(said(sentence(problem))), icon=":material/folder_off:")
        _compare_with_link(choice)
    return choice, waiting


def _copy_link() -> None:
    """Draw the button that copies the address; the browser does it, so one click is enough."""
    copied = st.session_state.get("copy_link")
    st.button(
        say("Link copied") if copied else say("Copy link"),
        key="copy_link",
        icon=":material/check:" if copied else ":material/link:",
    )


def _chat(choice: Choice) -> bool:
    """Draw the switch of an instruct model; until the model is loaded, the link or the last click decides."""
    fields, loaded = st.session_state, cache.shelf().loaded(choice.key)
    if loaded is not None and loaded.has_chat_template:
        fields.ask_in_chat = bool(fields.chat)
        st.toggle(
            say("Chat template"),
            key="ask_in_chat",
            on_change=state.switch_chat,
            help=say(
                "This is an instruct model. Switched on, the prompt is the user’s turn and the answer begins "
                "the model’s; switched off, the prompt is plain text for it to continue."
            ),
        )
    elif loaded is not None:
        fields.chat = 0
    return bool(fields.chat)


def _chosen(offer: Offer) -> Choice:
    """Draw the list of models."""
    if st.session_state.get("model") not in offer.models:
        st.session_state.model = next(iter(offer.models))
    name = st.selectbox(
        say("Model"), list(offer.models), key="model", on_change=state.model_changed, args=(offer.models,), width=300,
        format_func=lambda name: _listed(offer.models[name]), label_visibility="collapsed", **KEEP,
    )  # fmt: skip
    return offer.models[name]


def _loaded_how() -> dict[str, str]:
    """Draw number format and, where there is a choice, device."""
    dtype = st.selectbox(
        say("Number format"), list(DTYPES), key=state.key_of("dtype"), **KEEP,
        help=say("Number format of the weights. float32 is exact; the others need half the memory."),
    )  # fmt: skip
    devices, device = _devices(), state.value_of("device")
    if len(devices) > 1:
        device = st.selectbox(
            say("Device"),
            devices,
            key=state.key_of("device"),
            help=say("auto: the graphics card, if there is one."),
            **KEEP,
        )
    return {"device": device, "dtype": dtype}


def _listed(choice: Choice) -> str:
    return say("{shown} · {n_layers} layers", shown=said(choice.shown), n_layers=choice.n_layers)


def _devices() -> list[str]:
    """Devices to offer.  Only torch knows them, and it is not imported just for this."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return ["auto"]
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["auto", "cpu", *cards, *mps] if cards or mps else ["auto"]


def _about(choice: Choice) -> str:
    """Size, number format and origin, as far as they are known."""
    loaded = cache.shelf().loaded(choice.key)
    parts = []
    if loaded is not None:
        parts.append(_count(sum(weight.numel() for weight in loaded.module.parameters())))
    dtype = choice.settings.dtype if loaded is None else str(loaded.dtype).removeprefix("torch.")
    parts.append(dtype)
    if loaded is not None and loaded.device.type != "cpu":
        parts.append(str(loaded.device))
    if loaded is not None and loaded.has_chat_template:
        parts.append(say("instruct model"))
    origin = choice.origin or (loaded.origin if loaded is not None else "")
    parts += [origin] if origin else []
    return " · ".join(map(markup, parts))


def _count(parameters: int) -> str:
    return (
        say("{parameters:.1f} B weights", parameters=parameters / 1000000000.0)
        if parameters >= 1e9
        else say("{parameters:.0f} M weights", parameters=parameters / 1000000.0)
    )


def _compare_with_link(choice: Choice) -> None:
    """Warn if the link was made with a model that is not here, or with other weights under the same name."""
    if session().linked_model:
        get = (
            say("Ask whoever runs this server to add it")
            if limits.public()
            else say("Get it under More models if it is listed there")
        )
        st.warning(
            say(
                "The link is for the model {name}, which is not here, so nothing was traced. {get}; then open the link "
                "again.",
                name=plain(session().linked_model[:LONGEST_NAME]),
                get=get,
            ),
            icon=":material/link_off:",
        )
    wanted, loaded = session().linked_revision, cache.shelf().loaded(choice.key)
    if wanted and loaded is not None and not loaded.revision.startswith(wanted):
        st.warning(
            say(
                "The link was made with other weights under this name ({wanted}; here {revision}), so "
                "the numbers will differ.",
                wanted=wanted,
                revision=loaded.revision[:12],
            ),
            icon=":material/link_off:",
        )


def _download(runner: Runner) -> list[Waiting]:
    """Draw the progress of a download; when it is done, select its model."""
    from models.sources.catalogue import entry_named

    ask = session().fetching
    if ask is None:
        return []
    job = state.job_for(
        runner,
        ask.key,
        later("Getting {title}").format(title=entry_named(ask.name).title),
        partial(_fetch, ask.name, ask.licence_accepted),
        "fetch",
    )
    if job.live:
        with st.container(horizontal=True, vertical_alignment="center"):
            bar = st.container().empty()
            cancel(runner, job, "cancel_get")
        waiting = Waiting(job, bar)
        show(runner, waiting)
        return [waiting]
    if job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
        return []
    session().fetching = None
    if job.state == "done":
        session().model_wanted = ask.name
        st.rerun()
    return []


def _get() -> None:
    """Draw the list of models that can be fetched."""
    from models.sources.catalogue import ENTRIES, is_fetched

    lacking = {entry.name: entry for entry in ENTRIES.values() if not is_fetched(entry.name)}
    if not lacking:
        return
    name = st.selectbox(
        say("Get another model"), list(lacking), key="get", format_func=lambda name: _offered(lacking[name]),
        persist_state="session",
    )  # fmt: skip
    entry, accepted = lacking[name], True
    st.caption(plain(_terms(entry)))
    if entry.licence_must_be_accepted:
        accepted = st.checkbox(plain(say("I accept the {licence}", licence=entry.licence)), key=f"accept_{entry.name}")
    st.button(
        say("Get"), key="get_model", icon=":material/download:", on_click=state.start_fetch, args=(name,),
        disabled=not accepted,
        help=None if accepted else say("Accept the licence first."),
    )  # fmt: skip


def _offered(entry: Entry) -> str:
    about = "" if entry.size_is_exact else say("about ")
    hub = say(" · from the model hub") if entry.source == "hub" else ""
    return f"{entry.title} · {about}{entry.download_bytes / MEGABYTE:,.0f} MB · {entry.licence}{hub}"


def _terms(entry: Entry) -> str:
    words = [
        say("{n_layers} layers, {parameters}.", n_layers=entry.n_layers, parameters=_count(entry.parameters)),
        say("Licence: {licence} ({licence_url}).", licence=entry.licence, licence_url=entry.licence_url),
    ]
    if entry.origin:
        words.append(say("The weights come {origin}.", origin=entry.origin))
    if entry.gated:
        words.append(say("The hub gives it only to users who have logged in and accepted its licence there."))
    return " ".join(words)


def _fetch(name: str, licence_accepted: bool, watch: Watch) -> None:
    """Download a model of the catalogue."""
    from models.sources.catalogue import fetch

    watch.step(0, 0, "downloading")
    fetch(name, licence_accepted=licence_accepted, watch=watch)
