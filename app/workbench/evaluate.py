"""3 · Evaluate: five tiles, the prompts behind them, the probes they are measured on, the text before and after."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.probes import KINDS, Row, find_fact, make_request, rows_of, usable
from app.server.catalog import CHAT
from app.server.job import Job, job_key
from app.server.jobs import Runner
from app.session.asks import EditAsk, FileAsk
from app.session.form import Form
from app.session.session import session
from app.shared import export
from app.shared.tables import headings
from app.shared.waiting import Waiting, cancel
from app.shared.wording import NONE, amount, duration, markup, plain
from app.workbench import ledger
from metrics.definitions import METRICS

if TYPE_CHECKING:
    from metrics import EditReport, Metric, Score
    from metrics.types import Reading

KIND_NAMES = {"edit": later("the edit itself"), "paraphrase_prefixed": later("paraphrase, after another sentence")}
LOW_RELIABILITY = 0.5
PROBE_COLUMNS = ("kind", "prompt", "answer")
OPENING = 8
"""Words of a text that are shown beside the tiles."""


def draw(runner: Runner, scores: Job | None) -> list[Waiting]:
    """Draw the five tiles and the first text before and after."""
    report = report_of(scores)
    waiting: list[Waiting] = []
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.header(say("3 · Evaluate"), anchor=False, width="stretch")
        if report is not None:
            export.report_panel(report)
        else:
            st.empty()
    if report is not None:
        _about_edit(report)
    elif scores is not None and scores.live:
        with st.container(horizontal=True, vertical_alignment="center"):
            waiting.append(Waiting(scores, st.empty()))
            cancel(runner, scores, "cancel_scores")
    elif scores is not None and scores.state == "failed":
        st.error(plain(said(scores.error)), icon=":material/error:")
    elif scores is not None and scores.state == "cancelled":
        st.info(say("Cancelled. The edit is still active; press Score again under Probes."), icon=":material/block:")
    ask = session().score_ask
    if report is not None and ask is not None and ask.model != session().asked_model:
        st.warning(
            say("These scores are of the model asked {how}; press Score again under Probes.", how=_how(ask.model)),
            icon=":material/history:",
        )
    _tiles(report)
    if report is not None:
        _first_text(report)
    return waiting


def _how(model: str) -> str:
    """How a model of this key is asked."""
    return say("in its chat template") if model.endswith(CHAT) else say("without its chat template")


def report_of(scores: Job | None) -> EditReport | None:
    """The finished report, if there is one."""
    return scores.result if scores is not None and scores.state == "done" else None


def prompts(report: EditReport | None) -> None:
    """Draw the tab with every prompt."""
    _prompt_table(report)


def texts(report: EditReport | None) -> None:
    """Draw the tab with what both models write on their own; words that changed are marked."""
    if report is None:
        st.caption(say("What the model writes on its own, before and after the edit, will be shown here."))
        return
    for pair in report.texts:
        for column, title, words in zip(
            st.columns(2), (say("Before"), say("After")), marked(pair.before, pair.after), strict=True
        ):
            column.html(f"<p><small>{title}</small><br><b>{markup(pair.prompt)}</b>{_turn()}{words}</p>")


def probes(form: Form, edit: Job | None, scores: Job | None) -> None:
    """Draw the tab with the editor of probes."""
    _probe_editor(form, edit, scores)


def _first_text(report: EditReport) -> None:
    """Draw what both models say to the edited prompt."""
    row = next(row for row in report.rows if row.kind == "edit")
    if row.before is None or row.after is None:
        return
    before, after = marked(*(_opening(reading.continuation) for reading in (row.before, row.after)))
    prompt = markup(row.prompt) + _turn()
    st.html(
        f'<dl class="said"><dt>{said("before")}</dt><dd>{prompt}{before}</dd>'
        f"<dt>{said('after')}</dt><dd>{prompt}{after}</dd></dl>"
    )


def _turn() -> str:
    """What stands between a prompt and what is said to it: in a chat that is an answer, not the next words."""
    ask = session().score_ask
    return " → " if ask is not None and ask.model.endswith(CHAT) else ""


def _opening(text: str) -> str:
    """The first words of a text."""
    words = text.split(" ")
    return text if len(words) <= OPENING else " ".join(words[:OPENING]) + " …"


def marked(before: str, after: str) -> tuple[str, str]:
    """Two texts as HTML; words that are not in the other, in its order, are marked."""
    left, right = (re.findall(r"\s+|\S+", text) for text in (before, after))
    matching = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return (
        "".join(_mark(left[start:stop], kind) for kind, start, stop, _, _ in matching),
        "".join(_mark(right[start:stop], kind) for kind, _, _, start, stop in matching),
    )


def _mark(words: list[str], kind: str) -> str:
    text = markup("".join(words))
    return text if kind == "equal" or not text.strip() else f"<mark>{text}</mark>"


def _placed(fact_token: str) -> str:
    """Where an edit is placed, in words; `fact_token` as in `editing.configs`."""
    if fact_token == "last":
        return say("the last token of the prompt")
    return say("token {number} of the subject", number=int(fact_token.removeprefix("subject:")) + 1)


def _about_edit(report: EditReport) -> None:
    from editing import METHODS

    request, about = report.request, report.about
    old, new = plain(request.fact.target_true or "?"), plain(request.target_new)
    method = said(METHODS[about["method"]].title) if about.get("method") in METHODS else ""
    where = "" if about.get("layer") == "-" else say(" at layer {layer}", layer=about.get("layer"))
    if "fact token" in about:
        where += say(", at {token}", token=_placed(str(about["fact token"])))
    several = say(" {n} edits are active.", n=about["active edits"]) if "active edits" in about else ""
    st.caption(
        say(
            "{method}{where}: {old} → {new}.{several} Each change is against the unedited model.",
            method=method,
            where=where,
            old=old,
            new=new,
            several=several,
        )
    )
    score = report.headline("reliability")
    if score.value is not None and score.value < LOW_RELIABILITY:
        st.error(
            say(
                "The edited model does not say the new answer. Try another layer, or more steps and a higher norm "
                "limit under Advanced."
            )
            if about.get("layer") != "-"
            else say("The edited model does not say the new answer. Try another method."),
            icon=":material/error:",
        )


def _tiles(report: EditReport | None) -> None:
    with st.container(key="tiles", gap="xxsmall"):
        columns = [*st.columns(3, gap="xsmall"), *st.columns([1, 2], gap="xsmall")]
    for column, metric in zip(columns, METRICS.values(), strict=True):
        with column, st.container(gap=None):
            if report is None:
                st.metric(said(metric.label), "—", help=say("Measured once an edit is applied."))
            else:
                _tile(metric, report)


def _tile(metric: Metric, report: EditReport) -> None:
    from metrics.tables import interval, number

    score: Score = report.headline(metric.name)
    if score.value is None:
        st.metric(said(metric.label), "—", help=said(score.definition))
        st.caption(plain(say("n = 0. Not measured: {reason}.", reason=said(score.reason))))
        return
    gain = score.change or 0.0
    value = f"{100 * score.value:.0f} %" if score.unit == "share" else number(score.value, score.unit)
    if metric.name == "efficiency":
        value = duration(score.value)
    st.metric(
        said(metric.label),
        value,
        None if score.change is None else amount(gain, "share", signed=True),
        delta_color="gray" if not gain else "green" if (gain > 0) == score.higher_is_better else "red",
        delta_arrow="off" if not gain else "up" if gain > 0 else "down",
        help=say("{definition} More on the Methods page.", definition=said(score.definition)),
    )
    if metric.name == "efficiency":
        notes = _costs(report)
    else:
        notes = f"n = {score.n}" + (
            say(", 95 % CI {ends}", ends=interval(score).replace(" to ", say(" to "))) if score.ci else ""
        )
        if score.left_out:
            notes += say(", {n_left_out} left out", n_left_out=score.n_left_out)
    st.caption(plain(notes))


def _costs(report: EditReport) -> str:
    from metrics.tables import number

    scores = {score.name: score for score in report.of("efficiency")}
    once = scores["efficiency.moments_seconds"].value
    changed, memory = scores["efficiency.parameters_share"], scores["efficiency.peak_memory"]
    parts = [
        say("the edit; second moment, once per model: {once}", once=duration(once))
        if once and once >= 0.5
        else say("the edit"),
        say("{share} of the weights", share=number(changed.value, "share")) if changed.measured else "",
        say("peak {size}", size=number(memory.value, "bytes")) if memory.measured else "",
        say("undo {time}", time=duration(scores["efficiency.undo_seconds"].value))
        if scores["efficiency.undo_seconds"].measured
        else "",
    ]
    return say(", ").join(["n = 1", *filter(None, parts)])


def _kind(code: str) -> str:
    """A kind of prompt in words."""
    return said(KIND_NAMES.get(code, code.replace("_", " ")))


def _prompt_table(report: EditReport | None) -> None:
    if report is None:
        st.caption(say("Every prompt behind the five numbers will be listed here."))
        return
    import pandas as pd

    from metrics import tables
    from metrics.asking.generation import first_sentence

    def told(reading: object) -> str:
        return first_sentence(reading.continuation).strip() if reading is not None else ""  # type: ignore[attr-defined]

    rows = [
        {
            "metric": said(row.metric),
            "kind": _kind(row.kind),
            "prompt": row.prompt,
            "expected": row.answer,
            "before": told(row.before),
            "after": told(row.after),
            "right": "" if row.after is None else "✓" if row.after.match else "✗",
            "p before": _p(row.before),
            "p after": _p(row.after),
            "note": said(row.reason) if not row.counted else "",
        }
        for row in report.rows
    ]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="prompt_table",
        alt=say("Every prompt with what the model said before and after the edit"),
        column_config={
            **headings(("metric", "kind", "expected", "before", "after")),
            "prompt": st.column_config.TextColumn(said("prompt"), width="large"),
            "right": st.column_config.TextColumn(
                said("correct"),
                width="small",
                help=say("The greedy continuation after the edit gives the expected answer."),
            ),
            "p before": st.column_config.TextColumn(
                said("p before"), help=say("Probability of the expected answer, unedited model.")
            ),
            "p after": st.column_config.TextColumn(
                said("p after"), help=say("Probability of the expected answer, edited model.")
            ),
            "note": st.column_config.TextColumn(said("note"), help=say("Why this prompt is not counted.")),
        },
    )
    with st.expander(say("All scores")):
        frame = pd.DataFrame([_cells(score) for score in report.scores], columns=list(tables.HEADERS))
        st.dataframe(
            frame,
            hide_index=True,
            key="score_table",
            alt=say("Every score, before and after"),
            column_config=headings(tables.HEADERS),
        )


def _cells(score: Score) -> list[str]:
    """A score as a row of the table, in the session's language."""
    from metrics import tables

    metric, label, before, after, *rest = map(said, tables.cells(score))
    return [metric, label, before, after, *(cell.replace(" to ", say(" to ")) for cell in rest)]


def _p(reading: Reading | None) -> str:
    """Probability of the expected answer, or a dash."""
    return NONE if reading is None or reading.p_answer is None else f"{reading.p_answer:.3f}"


def _probe_editor(form: Form, edit: Job | None, scores: Job | None) -> None:
    rows = current_probes(form)
    if edit is None or edit.state != "done" or not _about(form, session().edit_ask):
        return
    last_ask = session().score_ask
    failed = scores is not None and scores.state in ("failed", "cancelled")
    if failed or (last_ask is not None and last_ask.probes != rows):
        st.warning(say("The probes have changed since these scores."), icon=":material/history:")
        st.button(say("Score again"), key="score_again", icon=":material/refresh:", on_click=ledger.score, args=(rows,))


def _about(form: Form, ask: EditAsk | FileAsk | None) -> bool:
    """Whether the edit rewrites the fact in the fields, so that the probes in the editor belong to it."""
    fields = (form.prompt, form.subject, form.new.strip())
    return isinstance(ask, EditAsk) and (ask.prompt, ask.subject, ask.new) == fields


def rows_for(form: Form, ask: EditAsk | FileAsk | None) -> tuple[Row, ...] | None:
    """The probes an edit is scored on: those in the editor, or None for those of its request."""
    return session().probe_rows if _about(form, ask) else None


def current_probes(form: Form) -> tuple[Row, ...]:
    """Draw the editor; the complete rows in it."""
    import pandas as pd

    if form.problems or form.edit_problem:
        session().probes_drawn = ""
        st.caption(say("The probes follow from the prompt and the new answer; correct those first."))
        return ()
    derived = derived_probes(form)
    key = job_key("probes", [form.prompt, form.subject, form.answer, form.new])
    # What the editor was first given must not change while it is drawn; it comes back with what was typed before.
    if session().probes_drawn != key:
        session().probes_drawn = key
        session().probes_begun = session().probes_typed.get(key, [list(row) for row in derived])
    frame = pd.DataFrame(session().probes_begun, columns=list(PROBE_COLUMNS), dtype=object)
    if not derived:
        st.caption(
            say("The atlas does not hold this fact, so write your own probes; a kind without probes is not measured.")
        )
    edited = st.data_editor(
        frame,
        key=key,
        num_rows="dynamic",
        hide_index=True,
        alt=say("Editable probes"),
        column_config={
            "kind": st.column_config.SelectboxColumn(
                said("kind"),
                options=list(KINDS),
                format_func=_kind,
                required=True,
                help=say("Which metric the prompt belongs to."),
            ),
            "prompt": st.column_config.TextColumn(
                said("prompt"), width="large", max_chars=300, help=say("Stops where the answer should come.")
            ),
            "answer": st.column_config.TextColumn(
                said("answer"), max_chars=60, help=say("What the model should say after the edit.")
            ),
        },
    )
    records = edited.to_dict("records")
    session().probes_typed[key] = [[record[name] for name in PROBE_COLUMNS] for record in records]
    session().probe_rows = usable(records)
    lacking = len(records) - len(session().probe_rows)
    if lacking:
        st.caption(say("{n} incomplete; a probe counts once its kind, prompt and answer are filled in.", n=lacking))
    return session().probe_rows


def derived_probes(form: Form) -> tuple[Row, ...]:
    """The probes the atlas derives for the fact in the fields; none if it lacks the fact."""
    fact = find_fact(form.prompt, form.subject, form.answer.strip(), form.occurrence)
    try:
        return rows_of(make_request(fact, form.new.strip()))
    except ValueError:  # the new answer equals the atlas's true one; the form says so elsewhere
        return ()
