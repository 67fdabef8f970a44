"""2 · What to run, and 3 · Start: the grid, what it will take, and the button that starts it."""

from __future__ import annotations

import os
import re
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.batch import sweeps, work
from app.batch.choose_facts import local
from app.batch.datasets import ATLAS
from app.batch.prepare import BLOCK, LOADING_SECONDS, MAPS, size
from app.language.say import later, said, say, say_count
from app.server.catalog import Choice
from app.server.job import Job, job_key
from app.server.jobs import Runner
from app.session import state
from app.session.asks import BatchAsk
from app.session.form import default_window
from app.session.reader import reader
from app.session.session import session
from app.shared.waiting import Waiting, cancel
from app.shared.wording import duration, plain, sentence

if TYPE_CHECKING:
    from app.batch.datasets import Dataset
    from app.batch.prepare import Prepared

WHAT = {"trace": later("Trace facts"), "edit": later("Edit facts")}
DEFAULT_METHODS = ("r-rome", "ft-m")
DEFAULT_PROTOCOLS = ("engram",)
MOST_SHARED = 500
"""Most cells of a batch where other computers can open the page."""
KEPT: dict[str, Any] = {"persist_state": "session"}


def grid(runner: Runner, model: Choice, source: str, dataset: Dataset | None) -> tuple[BatchAsk | None, list[Waiting]]:
    """Draw the form; the batch it describes, or None while something is missing."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.header(say("2 · What to run"), anchor=False, width="content")
        what = st.segmented_control(
            say("What to run"),
            list(WHAT),
            default="trace",
            required=True,
            format_func=lambda code: said(WHAT[code]),
            key="batch_what",
            label_visibility="collapsed",
            **KEPT,
        )
    if dataset is None:
        st.caption(say("First choose the facts."))
        return None, []
    most = dataset.traceable if what == "trace" else dataset.editable
    if not most:
        none = {
            "trace": later("None of these facts can be traced; choose the other task or another file."),
            "edit": later("None of these facts can be edited; choose the other task or another file."),
        }
        st.info(said(none[what]), icon=":material/info:")
        return None, []
    shared = _shared(most, what)
    if what == "trace":
        return BatchAsk(model.key, source, "trace", **shared, **_trace_fields(model)), []
    job = state.job_for(runner, job_key("methods", 0), later("Loading the methods"), work.methods, "quick")
    if job.live or job.state != "done":
        return None, [Waiting(job, st.empty())] if job.live else []
    return BatchAsk(model.key, source, "edit", **shared, **_edit_fields(model, job.result)), []


def _shared(most: int, what: str) -> dict[str, Any]:
    facts, seed, workers = st.columns(3)
    cores = os.cpu_count() or 1
    if st.session_state.get(f"batch_facts_{what}", 0) > most:  # another file was chosen since
        st.session_state[f"batch_facts_{what}"] = most
    return {
        "facts": facts.number_input(
            say("Facts"),
            1,
            most,
            min(most, 40 if what == "trace" else 20),
            key=f"batch_facts_{what}",
            **KEPT,
            help=say("Drawn at random from the seed; facts that the model does not know are skipped."),
        ),
        "seed": seed.number_input(
            say("Seed"),
            *state.SEED_RANGE,
            0,
            key="batch_seed",
            help=say("For drawing facts and for the noise."),
            **KEPT,
        ),
        "workers": workers.number_input(
            say("Workers"),
            1,
            cores,
            max(1, cores // 2),
            key="batch_workers",
            **KEPT,
            help=say("Processes that compute at the same time; each loads the model."),
        ),
    }


def _trace_fields(model: Choice) -> dict[str, Any]:
    maps = st.pills(
        say("Restore"),
        list(MAPS),
        selection_mode="multi",
        default=list(MAPS)[:3],
        key="batch_maps",
        **KEPT,
        format_func=said,
        help=say(
            "One averaged map each. Severed: the module keeps its corrupted output, so the state works without it."
        ),
    )
    samples, window, noise = st.columns(3)
    return {
        "maps": tuple(name for name in MAPS if name in (maps or ())),
        "samples": samples.number_input(
            say("Noise samples"),
            *state.SAMPLES_RANGE,
            3,
            key="batch_samples",
            **KEPT,
            help=say("Draws for each fact; over many facts a few are enough."),
        ),
        "window": window.number_input(
            say("Window (layers)"),
            1,
            model.n_layers,
            default_window(model.n_layers),
            key="batch_window",
            help=say("MLP or attention layers restored together."),
            **KEPT,
        ),
        "noise": noise.number_input(say("Noise (× σ)"), *state.NOISE_RANGE, 3.0, 0.5, key="batch_noise", **KEPT),
    }


def _edit_fields(model: Choice, offered: tuple[dict[str, str], dict[str, str]]) -> dict[str, Any]:
    titles, protocols = offered
    # Pills, not a list to type into: the tags of that one cannot be read on a dark page.
    several: dict[str, Any] = {"selection_mode": "multi", **KEPT}
    chosen = st.pills(
        say("Methods"),
        list(titles),
        default=[name for name in DEFAULT_METHODS if name in titles],
        key="batch_methods",
        format_func=lambda name: said(titles[name]),
        **several,
    )
    layers = st.pills(
        say("Layers"),
        list(range(model.n_layers)),
        default=[model.usual.layer],
        key="batch_layers",
        **several,
        help=say("Every method is tried at each of these layers; methods that find their layers themselves run once."),
    )
    only_known = st.checkbox(
        say("Only facts the model knows"),
        True,
        key="batch_known",
        **KEPT,
        help=say("An edit of a fact that the model never knew says little about editing."),
    )
    measured = st.pills(
        say("Protocols"),
        list(protocols),
        default=list(DEFAULT_PROTOCOLS),
        key="batch_protocols",
        format_func=lambda name: said(protocols[name]),
        **several,
        help=say(
            "Ways of measuring. Each gets its own leaderboard, because their numbers cannot be averaged together."
        ),
    )
    return {
        "methods": tuple(name for name in titles if name in chosen),
        "layers": tuple(sorted(layers)),
        "only_known": bool(only_known),
        "protocols": tuple(name for name in protocols if name in measured),
    }


def start(runner: Runner, model: Choice, ask: BatchAsk | None) -> list[Waiting]:
    """The estimate, the name and the button."""
    st.header(say("3 · Start"), anchor=False)
    problem = _problem(ask)
    if state.pressed("estimate") and ask is not None and not problem:
        session().batch_ask = ask
        state.ask_anew(ask.key)
    last_ask = session().batch_ask
    job = None
    if last_ask is not None:
        job = state.job_for(
            runner, last_ask.key, later("Drawing facts and timing a few cells"), partial(work.prepare, last_ask)
        )
    stale = last_ask != ask
    live = job is not None and job.live
    with st.container(horizontal=True, vertical_alignment="center"):
        if job is not None and live:
            cancel(runner, job, "batch_cancel")
        else:
            st.button(
                say("Estimate"),
                key="batch_estimate",
                icon=":material/timer:",
                disabled=bool(problem),
                help=problem or None,
                type="secondary" if not stale or st.context.theme.type == "dark" else "primary",
                on_click=state.press,
                args=("estimate",),
            )
        st.caption(problem or say("A few cells are run first to estimate how long the batch will take."))
    bar = st.empty()
    if job is not None and live:
        return [Waiting(job, bar)]
    if job is None:
        return []
    if job.state == "failed":
        st.error(plain(said(sentence(job.error))), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(say("Cancelled. Nothing was started."), icon=":material/block:")
    elif stale:
        st.warning(say("The settings have changed since this estimate; estimate again."), icon=":material/history:")
    else:
        return _ready(runner, model, job)
    return []


def _problem(ask: BatchAsk | None) -> str:
    if ask is None:
        return say("First choose facts and what to run.")
    if ask.what == "trace" and not ask.maps:
        return say("Choose at least one kind of state to restore.")
    if ask.what == "edit" and not ask.methods:
        return say("Choose at least one method.")
    if ask.what == "edit" and not ask.protocols:
        return say("Choose at least one protocol.")
    return ""


def _ready(runner: Runner, model: Choice, job: Job) -> list[Waiting]:
    prepared: Prepared = job.result
    if prepared.refusal:
        st.error(plain(said(prepared.refusal)), icon=":material/memory:")
        return []
    ask = prepared.ask
    if len(prepared.cells) > MOST_SHARED and not local():
        st.error(
            say(
                "Other computers can open this page, so a batch may have at most {most} cells; "
                "this one has {cells:,}. Choose fewer facts, methods or layers.",
                most=MOST_SHARED,
                cells=len(prepared.cells),
            ),
            icon=":material/group:",
        )
        return []
    st.markdown(_estimate(prepared))
    taken, field = _taken(), f"batch_name_{job.key}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input(say("Name"), _free_name(ask, taken), 60, key=field, width=320)
        problem = _name_problem(name or "", taken)
        st.button(
            say("Start"),
            key="batch_start",
            icon=":material/rocket_launch:",
            disabled=bool(problem),
            help=problem or None,
            type="secondary" if st.context.theme.type == "dark" else "primary",
            on_click=_press_start,
            args=(field,),
        )
    if problem:
        st.caption(problem)
    return _starting(runner, model, job)


def _estimate(prepared: Prepared) -> str:
    """What the batch takes, as Markdown."""
    ask = prepared.ask
    what = say_count("{n} fact", "{n} facts", prepared.n_facts)
    if ask.what == "trace" and prepared.n_facts > BLOCK:
        what += say(", {n} in a cell", n=BLOCK)
    unknown = (
        say_count(
            " {n} fact was skipped because the model does not know it.",
            " {n} facts were skipped because the model does not know them.",
            prepared.n_unknown,
        )
        if prepared.n_unknown
        else ""
    )
    return say(
        "{cells} over {what}: **about {time}** with {workers}, estimated from {measured} of them, with "
        "{loading} s to load the model; **{needed}** of memory, and {free} are free.{unknown}",
        cells=say_count("{shown} cell", "{shown} cells", len(prepared.cells), shown=f"{len(prepared.cells):,}"),
        what=plain(what),
        time=plain(duration(prepared.seconds)),
        workers=say_count("{n} worker", "{n} workers", ask.workers),
        measured=prepared.n_measured,
        loading=f"{LOADING_SECONDS:.0f}",
        needed=plain(size(prepared.needed)),
        free=plain(size(prepared.free)),
        unknown=plain(unknown),
    )


def _press_start(field: str) -> None:
    """Callback.  The name is read here, because a click that leaves the field brings a name not yet drawn."""
    name = st.session_state[field] or ""
    if not _name_problem(name, _taken()):
        session().batch_pressed = (name, uuid.uuid4().hex)


def _taken() -> set[str]:
    """Names of the existing experiments."""
    return {experiment.folder.name for experiment in sweeps.experiments()}


def _starting(runner: Runner, model: Choice, prepared: Job) -> list[Waiting]:
    pressed = session().batch_pressed
    if pressed is None:
        return []
    name, once = pressed
    job = state.job_for(
        runner,
        job_key("start", once),
        later("Writing the plan"),
        partial(work.start_batch, prepared.result, name, reader()),
        "quick",
    )
    if job.live:
        return [Waiting(job, st.empty())]
    session().batch_pressed = None
    if job.state == "failed":
        st.error(plain(said(sentence(job.error))), icon=":material/error:")
    elif job.state == "done":
        session().batch_ask = None
        session().experiment = st.query_params["experiment"] = job.result.name
        st.rerun()
    return []


def _free_name(ask: BatchAsk, taken: set[str]) -> str:
    source = ATLAS if ask.source == ATLAS else "file"
    base = re.sub(r"[^\w.-]+", "-", f"{ask.what}-{source}-{ask.facts}")
    names = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _name_problem(name: str, taken: set[str]) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        return say("Use letters, digits, “-”, “_” and “.” for the name.")
    return say("There is an experiment of that name; choose another.") if name in taken else ""
