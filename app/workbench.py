"""The Workbench: one fact, from trace to five metrics, on one page."""

import streamlit as st

from app import cache, catalog, state
from app.asks import SITES, EditAsk, ReadAsk, ScoreAsk, TraceAsk
from app.jobs import Cancelled, Job, Progress
from app.views import edit, evaluate, locate, show_fact
from app.views.waiting import Waiting, wait


def read_job(ask: ReadAsk) -> Job:
    """Tokens and the model's own answer; the first of these loads the model."""
    shelf = cache.shelf()

    def work(progress: Progress, cancelled: Cancelled) -> object:
        from app import workflow

        return workflow.look(shelf.get(ask.model), ask.prompt, ask.subject, ask.answer)

    return state.job_for(cache.runner(), ask.key, "Reading the prompt", work)


def trace_job(ask: TraceAsk) -> Job:
    """One map, or three, and the layer they suggest."""
    shelf = cache.shelf()

    def work(progress: Progress, cancelled: Cancelled) -> object:
        from app import workflow
        from facts import Fact

        return workflow.locate(
            shelf.get(ask.model),
            Fact.from_prompt(ask.prompt, ask.subject, ask.answer),
            [SITES[code] for code in ask.sites],
            window=ask.window,
            noise=ask.noise,
            samples=ask.samples,
            seed=ask.seed,
            progress=progress,
            cancelled=cancelled,
        )

    return state.job_for(cache.runner(), ask.key, "Tracing", work)


def edit_job(ask: EditAsk) -> Job:
    """The change of weights; nothing is applied."""
    shelf = cache.shelf()

    def work(progress: Progress, cancelled: Cancelled) -> object:
        from app import workflow

        model = shelf.get(ask.model)
        request = workflow.request_for(model, ask.prompt, ask.subject, ask.answer, ask.new)
        return workflow.edit(model, request, ask.method, dict(ask.config), progress=progress, cancelled=cancelled)

    return state.job_for(cache.runner(), ask.key, "Computing the edit", work)


def score_job(ask: ScoreAsk, edited: Job, trace_seconds: float | None) -> Job:
    """Five metrics of a finished edit, on the probes of the page."""
    shelf = cache.shelf()

    def work(progress: Progress, cancelled: Cancelled) -> object:
        from app import workflow

        model = shelf.get(ask.edit.model)
        asked = ask.edit
        request = workflow.request_for(model, asked.prompt, asked.subject, asked.answer, asked.new, ask.probes)
        return workflow.evaluate(
            model, edited.result, request, trace_seconds=trace_seconds, progress=progress, cancelled=cancelled
        )

    return state.job_for(cache.runner(), ask.key, "Scoring", work)


models = catalog.choices()
state.start_session(models)
runner = cache.runner()
session = st.session_state

model = show_fact.model_choice(models)
words = show_fact.fields()
below_fields = st.container()
left, right = st.columns([1.6, 1], gap="medium")
with left, st.container(border=True, height="stretch"):
    settings = locate.controls(model.n_layers)
    below_controls = st.container()
form = state.Form(model, **words, **settings)

# The first run of a session only draws: the form is on the screen before the worker is given anything to do, since its
# first job imports torch.
painted = session.setdefault("painted", False)
if painted:
    state.tell_refused()
reading = read_job(form.read_ask()) if painted and not form.problems else None
if session.run_on_load and not form.problems:
    session.run_on_load = False
    session.trace_ask = form.trace_ask()
if session.trace_ask and st.query_params.get("run") != "1":
    st.query_params["run"] = "1"  # lost when another page was shown
trace = trace_job(session.trace_ask) if painted and session.trace_ask else None
edited = edit_job(session.edit_ask) if session.edit_ask else None
ready = edited is not None and edited.state == "done" and session.score_ask is not None
scores = (
    score_job(session.score_ask, edited, trace.seconds if trace and trace.state == "done" else None) if ready else None
)

with below_fields:
    show_fact.problems(form)
    show_fact.reading(form, reading)
with below_controls:
    waiting = locate.draw(form, runner, trace)
with right, st.container(border=True, height="stretch"):
    waiting += edit.draw(form, runner, trace, edited)
with st.container(border=True):
    waiting += evaluate.draw(form, runner, edited, scores)

if not painted:
    session.painted = True
    st.rerun()
if reading is not None and reading.live:
    waiting.append(Waiting(reading, below_fields.empty()))
wait(runner, waiting)
