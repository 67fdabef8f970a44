"""The Workbench: one fact, from trace to five metrics, on one page."""

from dataclasses import replace
from functools import partial

import streamlit as st

from app.language.say import later, say
from app.server import cache, catalog
from app.server.job import Job, Lane, Work
from app.session import keep, runs, state
from app.session.asks import EditAsk, FileAsk
from app.session.form import Form
from app.session.session import session
from app.shared import model_choice
from app.shared.waiting import Waiting, let_paint, wait
from app.workbench import edit, edits, evaluate, fact_bar, frame, ledger, locate, tabs, work

live_at_first: list[Job] = []
"""Jobs that were live when this run of the script met them.  If one ends while the page is being drawn, parts of the
page show it as running and others as done, so the page is drawn again."""


def job_for(key: str, label: str, task: Work, lane: Lane = "long") -> Job:
    """The job of a question."""
    job = state.job_for(runner, key, label, task, lane)
    if job.live:
        live_at_first.append(job)
    return job


def edit_job(ask: EditAsk | FileAsk) -> Job:
    """The job of an edit; done at once if the edit is kept though its job is forgotten."""
    kept = cache.drawer().get(ask.key)
    if kept is not None and runner.get(ask.key) is None:
        return Job(ask.key, "", state="done", result=kept)
    return job_for(ask.key, later("Computing the edit"), partial(work.edit, ask))


offer = catalog.offer()
state.start_session(offer.models)
state.come_back()
runner = cache.runner()
mine = session()

st.html(frame.STYLE)
workbench = st.container(key="workbench", gap="xsmall")
with workbench:
    model, downloading = model_choice.draw(runner, offer, workbench=True)
    ledger.start(model)
    words = fact_bar.fields()
    below_fields = st.container(gap="xxsmall")
    left, right = st.columns([1.55, 1], gap="xsmall")
    with right:
        right = st.container(gap="xsmall", height="stretch")
    below = st.container()
with left, st.container(border=True, height="stretch", gap="xsmall"):
    settings, row = locate.controls(model.n_layers)
    below_controls = st.container(gap="xsmall")
form = Form(model, **words, **settings)

# The first run of a session only draws: the form is on the screen before the first job starts, which imports torch.
painted = mine.painted
if painted:
    state.tell_refused()
reading = loading = None
if painted and not form.problems:
    reading = job_for(form.read_ask().key, later("Reading the prompt"), partial(work.read, form.read_ask()), "quick")
    if reading.state == "done":
        form = replace(form, known=reading.result.answer.strip())
        if cache.shelf().loaded(model.key) is None:
            key = f"load-{model.key}-{cache.shelf().loads}"
            loading = job_for(key, later("Loading the model"), partial(work.load, model.key), "quick")
if state.pressed("run"):
    if form.problems:
        st.toast(say("First correct the field named above."), icon=":material/error:")
    else:
        state.start_trace(runner, form.trace_ask())
if mine.run_on_load and not form.problems:
    mine.run_on_load = False
    mine.trace_ask = form.trace_ask()
trace = None
if painted and mine.trace_ask:
    trace = job_for(mine.trace_ask.key, later("Tracing"), partial(work.trace, mine.trace_ask))

with below_fields:
    fact_bar.problems(form)
    fact_bar.reading(form, reading)
with right, st.container(border=True, gap="xsmall"):
    ask, places = edit.controls(form, trace)
    if state.pressed("apply") and ask is not None and trace is not None and trace.state == "done":
        ledger.start_edit(ask)
    edited = edit_job(mine.edit_ask) if mine.edit_ask else None
    ledger.settle(edited)
    waiting = edit.draw(form, runner, trace, ask, edited, places)
with below_controls:
    waiting += locate.draw(form, runner, trace, row)
scores = None
if mine.score_ask is not None:
    traced = trace.seconds if trace and trace.state == "done" else None
    scores = job_for(mine.score_ask.key, later("Scoring"), partial(work.score, mine.score_ask, traced))
with right, st.container(border=True, height="stretch", gap="xsmall"):
    waiting += evaluate.draw(runner, scores)
with below:
    edits.banner()
    waiting += tabs.draw(form, runner, trace, ask, edited, scores)

runs.collect()
loaded = cache.shelf().loaded(model.key)
state.write_link(model, loaded.revision if loaded is not None else "")
state.remember()
keep.remember_widgets()
keep.hold()
if not painted:
    mine.painted = True
    let_paint()
    st.rerun()
if mine.score_wanted and mine.edit_ask and mine.edit_ask.key in ledger.active():
    ledger.score(evaluate.rows_for(form, mine.edit_ask))
    st.rerun()
if not all(job.live for job in live_at_first):
    st.rerun()
if reading in live_at_first:
    waiting.append(Waiting(reading, None if fact_bar.read_before(form) else below_fields.empty()))
if loading is not None and loading in live_at_first:
    waiting.append(Waiting(loading, None))
wait(runner, waiting + downloading)
