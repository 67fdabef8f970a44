"""The edits: which are active, with undo of any one; branches to compare; files to take away and bring back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say, say_count
from app.server import cache
from app.server.job import Job
from app.server.jobs import Runner
from app.session import state
from app.session.asks import CompareAsk, FileAsk
from app.session.session import CURRENT, session
from app.shared import export
from app.shared.tables import headings
from app.shared.waiting import Waiting, cancel
from app.shared.wording import markup, plain, sentence
from app.workbench import ledger, work

if TYPE_CHECKING:
    from app.side_by_side import Comparison
    from editing import Edit


def draw(runner: Runner) -> list[Waiting]:
    """Draw the whole tab."""
    active, branches = st.columns(2, gap="medium")
    with active:
        st.subheader(say("Active edits"), anchor=False)
        with st.container(key="active_edits"):
            _active()
        st.subheader(say("Files"), anchor=False)
        _files(runner)
    with branches:
        st.subheader(say("Branches"), anchor=False)
        chosen = _branches()
    return _comparison(runner) if chosen else []


def banner() -> None:
    """Say, wherever the page is scrolled to, that edits are active and what they concern."""
    keys = ledger.active()
    if not keys:
        return
    last = cache.drawer().get(keys[-1])
    n = say_count("{n} active edit", "{n} active edits", len(keys))
    words = f": {title(last)}" if last is not None and len(keys) == 1 else ""
    with st.container(key="edited_view"):
        st.html(
            f'<div class="edited-view" role="status" title="{say("The map shows the unedited model.")}">'
            f"<b>{say('Edited view.')}</b> {n}{markup(words)}</div>"
        )


def title(edit: Edit) -> str:
    """An edit in a few words."""
    from editing import METHODS

    layer = getattr(edit.config, "layer", None)
    where = "" if layer is None else say(", layer {layer}", layer=layer)
    first = edit.requests[0]
    more = say(" and {requests} more", requests=len(edit.requests) - 1) if len(edit.requests) > 1 else ""
    method = METHODS[edit.method].title if edit.method in METHODS else edit.method
    return f"{first.fact.prompt} → {first.target_new}{more} ({method}{where})"


def _active() -> None:
    keys = ledger.active()
    if not keys:
        st.caption(say("No edit is active; the model answers as it was trained."))
    for number, key in enumerate(keys, 1):
        edit = cache.drawer().get(key)
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            words = title(edit) if edit is not None else say("an edit that is no longer kept")
            st.markdown(f"{number}\\. {plain(words)}", width="stretch")
            if edit is not None:
                export.edit_button(edit, key)
            st.button(say("Undo"), key=f"undo_{key}", icon=":material/undo:", on_click=ledger.undo, args=(key,))
        if edit is not None and _missing_parents(edit, keys):
            st.caption(say("It was computed while another edit was active that is not active now."))


def _missing_parents(edit: Edit, keys: tuple[str, ...]) -> bool:
    present = {other.digest for other in map(cache.drawer().get, keys) if other is not None}
    return not set(edit.parents) <= present


def _branches() -> bool:
    """Draw the branches; whether there is a comparison to show."""
    st.caption(say("A branch is a named set of edits. Switching or comparing does not change the other branches."))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(say("Name"), key="branch_name", max_chars=40, placeholder=say("Branch 1"))
        st.button(
            say("Save active edits"),
            key="save_branch",
            icon=":material/bookmark_add:",
            on_click=ledger.save_branch,
        )
    for name, keys in ledger.saved().items():
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            count = say_count("{n} edit", "{n} edits", len(keys))
            st.markdown(f"**{plain(name)}**, {count}", width="stretch")
            st.button(say("Switch to it"), key=f"switch_{name}", on_click=ledger.switch, args=(name,))
    names = list(ledger.branches())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left = st.selectbox(say("Compare"), names, 0, format_func=_branch, key="compare_left")
        right = st.selectbox(say("with"), names, 1, format_func=_branch, key="compare_right")
        st.button(
            say("Compare"),
            key="compare",
            icon=":material/compare_arrows:",
            disabled=left == right,
            on_click=ledger.start_comparison,
            args=(left, right),
        )
    return session().compare_ask is not None


def _branch(name: str) -> str:
    """A branch's name; those that every session has are translated."""
    return said(name) if name in (ledger.UNEDITED, CURRENT) else name


def _comparison(runner: Runner) -> list[Waiting]:
    ask = session().compare_ask
    if ask is None:
        return []
    job = state.job_for(runner, ask.key, later("Comparing"), partial(work.compare, ask))
    if job.live:
        cancel(runner, job, "cancel_compare")
        return [Waiting(job, st.empty())]
    if job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(say("Cancelled. Nothing is shown of a comparison that did not finish."), icon=":material/block:")
    else:
        named, mine = ledger.branches(), session()
        if ask != CompareAsk(mine.asked_model, *(named.get(name, ()) for name in mine.compared)):
            st.warning(say("The inputs have changed since this was computed."), icon=":material/history:")
        _side_by_side(job, *mine.compared)
    return []


def _side_by_side(job: Job, left: str, right: str) -> None:
    import pandas as pd

    comparison: Comparison = job.result
    right = right if right != left else f"{right} (2)"
    columns = list(dict.fromkeys(["score", ledger.UNEDITED, left, right, "facts"]))
    rows = []
    for label, before, first, second, n in comparison.scores:
        values = {"score": said(label), ledger.UNEDITED: before, left: first, right: second, "facts": n}
        shown = {key: _share(value) if key not in ("score", "facts") else str(value) for key, value in values.items()}
        rows.append(shown)
    st.dataframe(
        pd.DataFrame(rows, columns=columns),
        hide_index=True,
        key=f"compared_{job.key}",
        alt=say("Scores of {left} and {right}", left=left, right=right),
        column_config=headings(("score", "facts"))
        | {name: _branch(name) for name in columns if name not in ("score", "facts")},
    )
    st.caption(say("Means over the facts that either side rewrites; — means not measured."))
    for fact in comparison.said:
        wanted = say("wanted: {answer}", answer=markup(fact.wanted))
        st.html(f"<p><b>{markup(fact.prompt)}</b> <small>({wanted})</small></p>")
        texts = {ledger.UNEDITED: fact.unedited, left: fact.left, right: fact.right}
        for column, (name, text) in zip(st.columns(len(texts)), texts.items(), strict=True):
            column.html(f"<p><small>{markup(_branch(name))}</small><br>{markup(text.strip())}</p>")


def _share(value: object) -> str:
    return "—" if value is None else f"{100 * float(value):.0f} %"  # type: ignore[arg-type]


def _files(runner: Runner) -> None:
    export.model_button(ledger.active(), session().ledger_model)
    import_edit(runner)


def import_edit(runner: Runner) -> None:
    """Draw the field for an edit file; the edit becomes active once it is read."""
    file = st.file_uploader(
        say("Edit from a file"),
        ["safetensors"],
        key="edit_file",
        help=say(
            "An edit downloaded from this page: a .safetensors file of at most 2 MB. It is checked, and refused if it "
            "was made for other weights."
        ),
    )
    st.checkbox(
        say("Apply it even if it was made for other weights"),
        key="force_file",
        help=say("Its effect on these weights may be meaningless."),
    )
    if file is not None:
        st.button(say("Apply the file"), key="apply_file", icon=":material/upload_file:", on_click=_apply)
    ask = session().edit_ask
    job = runner.get(ask.key) if isinstance(ask, FileAsk) else None
    if job is not None and job.state == "failed":  # here, where the reader looks, not beside Apply
        st.error(plain(said(job.error)), icon=":material/error:")


def _apply() -> None:
    """Callback: keep the bytes and ask for the edit in them."""
    file, forced = st.session_state.edit_file, bool(st.session_state.force_file)
    try:
        name = cache.uploads().keep(file.getvalue(), ".safetensors")
    except ValueError as error:
        st.toast(plain(said(sentence(error))), icon=":material/error:")
        return
    ledger.start_edit(FileAsk(session().ledger_model, name, forced, ledger.active()))
