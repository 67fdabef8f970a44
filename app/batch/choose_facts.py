"""1 · Facts: the bundled atlas or a file, what it holds, and the rows that could not be read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.batch import work
from app.batch.datasets import ATLAS
from app.language.say import later, said, say, say_count
from app.server import cache, limits
from app.server.job import Job, job_key
from app.server.jobs import Runner
from app.session import state
from app.session.session import session
from app.shared.tables import headings
from app.shared.waiting import Waiting
from app.shared.wording import plain, sentence

if TYPE_CHECKING:
    from app.batch.datasets import Dataset

LARGEST_MB = 2
"""The server's `maxUploadSize` in `streamlit_config.toml`, which is the limit of any file."""
ENDINGS = ["json", "jsonl", "csv", "tsv", "txt"]
LOCAL = ("127.0.0.1", "localhost", "::1")
SOURCES = {ATLAS: later("Bundled atlas"), "file": later("A file")}


def source() -> str:
    """Draw the choice; "atlas", a path, or an empty text while nothing is chosen."""
    st.header(say("1 · Facts"), anchor=False)
    chosen = st.segmented_control(
        say("Facts from"),
        list(SOURCES),
        default=ATLAS,
        required=True,
        format_func=lambda code: said(SOURCES[code]),
        key="batch_source",
        label_visibility="collapsed",
        persist_state="session",
    )
    if chosen == ATLAS:
        return ATLAS
    file = st.file_uploader(
        say("Dataset"),
        ENDINGS,
        key="batch_file",
        max_upload_size=LARGEST_MB,
        help=say(
            "JSON, JSON Lines or CSV as published: CounterFact, zsRE, KnowEdit, MQuAKE, RippleEdits, WikiBigEdit, "
            "QAEdit, known_1000, EasyEdit requests, or a plain table with subject, prompt and answer."
        ),
    )
    path = ""
    if limits.server_paths():
        path = st.text_input(
            say("or a path on the server"),
            key="batch_path",
            max_chars=1000,
            placeholder="/data/counterfact.json",
            persist_state="session",
            help=say(
                "For files of more than {largest} MB. Shown only if the server was started with --server-paths.",
                largest=LARGEST_MB,
            ),
        )
    if file is not None:
        session().batch_kept = _keep(file.name, file.getvalue())
    elif path and path.strip():
        return path.strip()
    kept = session().batch_kept
    if kept is None:
        return ""
    if file is None:
        st.caption(plain(say("Chosen earlier: {name}", name=kept[1])))
    try:
        return str(cache.uploads().path(kept[0]))
    except ValueError:
        session().batch_kept = None
        return ""


def local() -> bool:
    """Whether only this computer can open the page."""
    return st.get_option("server.address") in LOCAL and not limits.public()


def _keep(name: str, data: bytes) -> tuple[str, str] | None:
    """(name among the uploads, the reader's name) of a file."""
    ending = name.rpartition(".")[2].lower()
    try:
        return cache.uploads().keep(data, f".{ending}", LARGEST_MB * 2**20), name
    except ValueError as error:
        st.error(plain(said(sentence(error))), icon=":material/error:")
        return None


def draw(runner: Runner, chosen: str) -> tuple[Dataset | None, list[Waiting]]:
    """Draw what the file holds, once it is read."""
    if not chosen:
        st.caption(say("Choose a file to see what is in it."))
        return None, []
    job = state.job_for(
        runner, job_key("dataset", chosen), later("Reading the file"), partial(work.dataset, chosen), "quick"
    )
    if job.live:
        return None, [Waiting(job, st.empty())]
    if job.state == "failed":
        st.error(plain(said(sentence(_as_the_reader_calls_it(chosen, job.error)))), icon=":material/error:")
        return None, []
    if job.state == "done":
        _holds(job)
        return job.result, []
    return None, []


def _as_the_reader_calls_it(chosen: str, sentence: str) -> str:
    """Call an upload "the file": the reader does not know the name it has on this server."""
    kept = session().batch_kept
    if kept is None or Path(chosen).name != kept[0]:
        return sentence
    return sentence.replace(repr(chosen), "the file").replace(chosen, "the file").replace(kept[0], "the file")


def _holds(job: Job) -> None:
    import pandas as pd

    dataset: Dataset = job.result
    if dataset.title == "The bundled atlas":
        st.markdown(
            say(
                "**Atlas: {cases:,} facts**, each with paraphrases, neighbours and what follows from it. "
                "{traceable:,} are used: in the others the subject's name gives the answer away.",
                cases=dataset.cases,
                traceable=dataset.traceable,
            )
        )
    else:
        noted = say(", {noted} with something assumed (see notes)", noted=dataset.noted) if dataset.noted else ""
        title = plain(said(dataset.title[:1].upper() + dataset.title[1:]))
        st.markdown(
            say_count(
                "**{title}: {n:,} case**{noted}. {traceable:,} facts can be traced, {editable:,} can be edited one at "
                "a time.",
                "**{title}: {n:,} cases**{noted}. {traceable:,} facts can be traced, {editable:,} can be edited one at "
                "a time.",
                dataset.cases,
                title=title,
                noted=noted,
                traceable=dataset.traceable,
                editable=dataset.editable,
            )
        )
    if dataset.n_rejected:
        _set_aside(dataset)
    if not dataset.rows:
        return
    with st.expander(say("The first cases")):
        st.dataframe(
            pd.DataFrame(list(dataset.rows), dtype=object),
            hide_index=True,
            key="batch_preview",
            alt=say("The first cases"),
            column_config=headings(
                dataset.rows[0] if dataset.rows else (),
                {"prompt": st.column_config.TextColumn(said("prompt"), width="large")},
            ),
        )


def _set_aside(dataset: Dataset) -> None:
    import pandas as pd

    st.warning(
        say_count(
            "{n:,} row could not be read or used and is set aside.",
            "{n:,} rows could not be read or used and are set aside.",
            dataset.n_rejected,
        ),
        icon=":material/playlist_remove:",
    )
    listed = [
        {"row": row.row, "line": row.line, "field": row.field, "reason": said(row.reason)}
        for row in dataset.rejected[:200]
    ]
    st.dataframe(
        pd.DataFrame(listed),
        hide_index=True,
        key="batch_rejected",
        alt=say("Rows set aside, with the field and the reason"),
        column_config=headings(
            ("field",),
            {
                "row": st.column_config.NumberColumn(said("row"), width=60),
                "line": st.column_config.NumberColumn(said("line"), width=60),
                "reason": st.column_config.TextColumn(said("reason"), width="large"),
            },
        ),
    )
    st.download_button(
        say("Rows set aside (JSON Lines)"),
        lambda: dataset.rejected_file,
        "rejected.jsonl",
        "application/jsonl",
        key="batch_rejected_file",
        icon=":material/download:",
        on_click="ignore",
    )
