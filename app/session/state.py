"""What changes one reader's session: the link, the fields of the form, buttons and jobs.

The fields of the form are widgets whose values are also in the URL, so a link restores them; once there is a map, the
URL holds everything that decides its numbers, defaults too.  All else is in `app/session/session.py`.

A button's callback only remembers that it was pressed.  The question is read off the fields once the script has drawn
them: a field that loses focus to the click on the button has its new value only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.language.say import say
from app.server import presence
from app.server.catalog import AS_USUAL, DTYPES, Choice
from app.server.job import Job, Lane, Work
from app.server.jobs import Runner
from app.session import examples
from app.session.asks import SITES, FetchAsk, TraceAsk
from app.session.form import LONGEST, default_window
from app.session.session import session

ROOM = 6000
"""Most characters of a field.  Streamlit drops a longer paste silently, while the form says what is too long.  Fields
are in the URL, of which a server takes 64 KiB, and a character may need nine bytes there."""
REVISION_DIGITS = 12
"""Of a model's revision, in a link."""
SITE_CODES = (*SITES, "all")
NOISE_RANGE, SAMPLES_RANGE, SEED_RANGE = (0.1, 20.0), (1, 20), (0, 9999)
STATED = ("model", "dtype", "chat", "prompt", "subject", "occurrence", "site", "noise", "samples", "window", "seed")
"""Fields that a link states even at their defaults, which depend on the model or the version."""
FIELDS = (*STATED, "answer", "new", "against", "device", "layer")
IN_PANELS = ("dtype", "device", "noise", "samples", "window", "seed")
"""Fields in panels that open on a click; see `key_of`."""
DEFAULT_NOISE = 3.0
DEFAULTS: dict[str, Any] = {
    "dtype": AS_USUAL.dtype,
    "chat": 0,
    "occurrence": 0,
    "prompt": examples.DEFAULT.prompt,
    "subject": examples.DEFAULT.subject,
    "site": "mlp",
    "noise": DEFAULT_NOISE,
    "samples": 10,
    "seed": 0,
}
"""Of the fields in `STATED`; model and window have none of their own."""

KEEP: dict[str, Any] = {"persist_state": "session"}
"""For the fields in `STATED`: kept while another page is shown."""
BOUND: dict[str, Any] = {"bind": "query-params", **KEEP}
"""For every other field of the form: also in the URL where it is not at its default."""


def start_session(models: dict[str, Choice]) -> None:
    """Once per session: give it a name and take the values of the link."""
    mine = session()
    if mine.asker:
        return
    mine.asker = presence.new_name()
    mine.keep_layer = "layer" in st.query_params
    params = st.query_params.to_dict()
    mine.refused = refused = refused_values(params, models)
    # the numbers of another model would not be those the link was sent for
    mine.run_on_load = params.get("run") == "1" and not {"model", "dtype"} & set(refused)
    mine.linked_model = params["model"] if "model" in refused else ""
    mine.linked_revision = params.get("revision", "")
    mine.first_model = next(iter(models))
    _fill({name: value for name, value in params.items() if name not in refused}, models)


def _fill(params: dict[str, str], models: dict[str, Choice]) -> None:
    """Put the link's values, or the defaults, into the fields that Streamlit does not bind."""
    model = models[params.get("model", session().first_model)]
    values = {"model": model.name, "window": default_window(model.n_layers)} | DEFAULTS
    for name, default in values.items():
        kind = type(default)
        st.session_state[name] = (
            (int(float(params[name])) if kind is int else kind(params[name])) if name in params else default
        )
    st.session_state.device = AS_USUAL.device


def key_of(name: str) -> str:
    """Streamlit's key of a field.

    The browser would put its last value back into a field of a closed panel, so the key of such a field gets a new
    number whenever the script sets it.
    """
    drawn_anew = session().drawn_anew if name in IN_PANELS else 0
    return f"{name}_{drawn_anew}" if drawn_anew else name


def value_of(name: str) -> Any:
    """The value of a field."""
    return st.session_state[key_of(name)]


def _set_in_panels(**values: Any) -> None:
    """Give fields in panels new values."""
    held = {name: value_of(name) for name in IN_PANELS}
    session().drawn_anew += 1
    for name, value in (held | values).items():
        st.session_state[key_of(name)] = value


def come_back() -> None:
    """Restore the fields to what they held before another page was opened, if `remember` saw that they changed."""
    mine = session()
    if mine.restore:
        mine.restore, fields = False, mine.fields or {}
        for name in fields.keys() - set(IN_PANELS):
            st.session_state[name] = fields[name]
        _set_in_panels(**{name: fields[name] for name in IN_PANELS})


def remember() -> None:
    """Remember the values of the fields, once all are drawn.

    The browser's Back button from another page brings an earlier link, and Streamlit fills the fields from it whatever
    the script says.  So they are filled again in the next run.
    """
    mine = session()
    now = {name: value_of(name) for name in FIELDS if key_of(name) in st.session_state}
    left, mine.left = mine.left, False
    if left and mine.fields not in (None, now):
        mine.restore = True
        st.rerun()
    mine.fields = now


def tell_refused() -> None:
    """Say once which values of the link could not be used; `model_choice` says it of the model, for longer."""
    refused, session().refused = session().refused, []
    names = ", ".join(name for name in refused if name != "model")
    if names:
        st.toast(
            say("The link’s value for {names} could not be used; the default is used instead.", names=names),
            icon=":material/link_off:",
            duration="long",
        )


def refused_values(params: dict[str, str], models: dict[str, Choice]) -> list[str]:
    """Names of link parameters whose values are outside the range of the form."""
    model = models.get(params.get("model", "")) or next(iter(models.values()))
    numbers: dict[str, tuple[float, float]] = {
        "noise": NOISE_RANGE,
        "samples": SAMPLES_RANGE,
        "seed": SEED_RANGE,
        "chat": (0, 1),
        "occurrence": (0, LONGEST["prompt"]),
        "window": (1, model.n_layers),
        "layer": (0, model.n_layers - 1),
    }
    refused = [name for name, bounds in numbers.items() if name in params and not _within(params[name], bounds)]
    refused += [name for name in LONGEST if len(params.get(name, "")) > ROOM]
    refused += [
        name
        for name, known in (("site", SITE_CODES), ("model", models), ("dtype", DTYPES))
        if params.get(name, next(iter(known))) not in known
    ]
    return refused


def write_link(model: Choice, revision: str) -> None:
    """Put the fields that Streamlit does not bind into the URL: all of them once there is a map, else the changed ones.

    Args:
        revision: of the loaded model; empty while it is not loaded.
    """
    traced = session().trace_ask is not None
    defaults = DEFAULTS | {"model": session().first_model, "window": default_window(model.n_layers)}
    for name in STATED:
        _write(name, str(value_of(name)) if traced or value_of(name) != defaults[name] else "")
    if revision:
        _write("revision", revision[:REVISION_DIGITS] if traced else "")
    _write("run", "1" if traced else "")


def _write(name: str, value: str) -> None:
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value


def model_changed(models: dict[str, Choice]) -> None:
    """Callback of the list of models."""
    use_defaults_of(models[st.session_state.model])


def use_defaults_of(model: Choice) -> None:
    """Another model was chosen: set its default settings and drop the maps of the old one; the words stay."""
    mine, fields = session(), st.session_state
    _set_in_panels(window=default_window(model.n_layers), noise=DEFAULT_NOISE)
    fields.layer, fields.chat = model.usual.layer, 0
    mine.layer_wanted = model.usual.layer
    mine.layer_before, mine.keep_layer = None, False
    if mine.trace_ask is not None:
        mine.traced[mine.trace_ask.model] = mine.trace_ask
    mine.trace_ask = mine.trace_before = mine.layers_ask = None
    mine.run_on_load, mine.linked_model, mine.linked_revision = False, "", ""


def switch_chat() -> None:
    """Callback of the switch: the link says 1 for a chat."""
    st.session_state.chat = int(st.session_state.ask_in_chat)


def start_fetch(name: str) -> None:
    """Callback of Get."""
    ask = session().fetching = FetchAsk(name, bool(st.session_state.get(f"accept_{name}")))
    ask_anew(ask.key)


def _within(text: str, bounds: tuple[float, float]) -> bool:
    try:
        return bounds[0] <= float(text) <= bounds[1]
    except ValueError:
        return False


def choose_example() -> None:
    """Callback: the example's words go into the form."""
    for example in examples.EXAMPLES:
        if example.title == st.session_state.example:
            st.session_state.prompt, st.session_state.subject = example.prompt, example.subject
            st.session_state.answer, st.session_state.new = "", example.new


def choose_layer(layer: int) -> None:
    """The reader picked a layer on the map or in the table; move the slider and the URL there."""
    st.session_state.layer = layer


def pick_from_map(key: str, n_layers: int, subject: tuple[int, int]) -> None:
    """Callback of the map: points are numbered row by row over (token, layer).

    Args:
        subject: half-open positions of the subject's tokens; a click on one of them is where the edit goes, too.
    """
    points = st.session_state[key].selection["points"]
    if points:
        session().last_pick = (key, *divmod(points[0]["point_index"], n_layers))
    # No points: the last cell was clicked again, which Plotly takes for "deselect".  The slider may have moved since.
    pick = session().last_pick
    if pick is not None and pick[0] == key:
        choose_layer(pick[2])
        choose_token(pick[1], subject)


def pick_from_table(key: str, subject: tuple[int, int]) -> None:
    """Callback of the table: a row a token; its columns are named by layer, after the one with the tokens."""
    cells = st.session_state[key].selection["cells"]
    if cells and str(cells[0][1]).isdigit():
        choose_layer(int(cells[0][1]))
        choose_token(int(cells[0][0]), subject)


def choose_token(position: int, subject: tuple[int, int]) -> None:
    """The reader picked a token; edit there if it belongs to the subject, else where it was."""
    start, stop = subject
    if start <= position < stop:
        st.session_state.fact_token = "subject_last" if position == stop - 1 else f"subject:{position - start}"


def suggest_layer(trace_key: str, layer: int) -> None:
    """Move the slider to the suggestion of a new trace, once; a layer that came with the link stays, and so does one
    that the reader chose for this fact."""
    mine, ask = session(), session().trace_ask
    if mine.seen_trace == trace_key:
        return
    fact, before = ask and (ask.model, ask.prompt, ask.subject), mine.seen_fact
    mine.seen_trace, mine.seen_fact = trace_key, fact and (fact, layer)
    if mine.keep_layer:
        mine.keep_layer = False
    elif mine.layer_before is not None:
        mine.layer_before = layer
    elif before is None or fact != before[0] or st.session_state.layer == before[1]:
        choose_layer(layer)


def follow_method(own: Mapping[str, int], last: int) -> None:
    """Callback of the picker: move the slider to the layer where the method is known to work, and later back.

    Args:
        own: method -> that layer, for methods that do not take the layer of a trace.
        last: the model's last layer.
    """
    layer = own.get(st.session_state.method)
    if layer is not None:
        if session().layer_before is None:
            session().layer_before = st.session_state.layer
        choose_layer(min(layer, last))
    elif (before := session().layer_before) is not None:
        session().layer_before = None
        choose_layer(min(before, last))


def press(button: str) -> None:
    """Remember that a button was clicked; the script acts later, once the form's fields are drawn and read."""
    session().pressed = button


def pressed(button: str) -> bool:
    """Whether that button was pressed; true once."""
    if session().pressed != button:
        return False
    session().pressed = ""
    return True


def start_trace(runner: Runner, ask: TraceAsk) -> None:
    """Run was pressed."""
    mine = session()
    before = runner.get(mine.trace_ask.key) if mine.trace_ask is not None else None
    if before is not None and before.state == "done":
        mine.trace_before = mine.trace_ask
    mine.trace_ask = ask
    mine.keep_layer = False
    ask_anew(ask.key)


def give_up(runner: Runner, job: Job) -> None:
    """Callback of Cancel: this session stops waiting for the job, whether or not others still do."""
    mine = session()
    mine.given_up.add(job.key)
    runner.cancel(job, mine.asker)
    if mine.trace_before is not None and mine.trace_ask is not None and mine.trace_ask.key == job.key:
        mine.trace_ask = mine.trace_before
        st.toast(say("Cancelled; the map is that of the trace before."), icon=":material/block:")


def job_for(runner: Runner, key: str, label: str, work: Work, lane: Lane = "long") -> Job:
    """The job of a question: the one this session started or cancelled, or one that another session started.

    A job that failed, was cancelled or gave way to a newer one runs again only after its button was pressed again.
    """
    mine, job = session(), runner.get(key)
    if job is not None and mine.asker in job.superseded and key not in mine.fresh:
        mine.given_up.add(key)
    if key in mine.given_up:
        return Job(key, label, state="cancelled")
    if job is None or job.live or key in mine.fresh or (job.stop.is_set() and job.state != "failed"):
        job = runner.submit(key, label, work, mine.asker, lane)
    mine.fresh.discard(key)
    return job


def ask_anew(key: str) -> None:
    """A button was pressed for this job: run it again even if it failed or was cancelled before."""
    session().given_up.discard(key)
    session().fresh.add(key)
