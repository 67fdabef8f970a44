"""What the server remembers of one reader beside the fields of the form, as one typed object.

The fields, and everything else that is a widget, stay in `st.session_state` under their keys, where Streamlit needs
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.session.asks import Ask, BatchAsk, CompareAsk, EditAsk, FetchAsk, FileAsk, LayersAsk, ScoreAsk, TraceAsk
from facts.branches import Branches

if TYPE_CHECKING:
    from app.first_look import FirstLook
    from app.probes import Row
    from app.session.run import Run

CURRENT = "Active edits"
"""The branch of the edits that are in effect."""


def no_edits() -> Branches:
    """A ledger before the first edit."""
    return Branches({CURRENT: ()}, CURRENT)


@dataclass
class Session:
    """One reader's session: a tab of a browser until it is reloaded."""

    tab: str = ""
    """Number of the tab, under which a reload finds the session (`app/session/keep.py`)."""
    asker: str = ""
    """Its name among those who wait for a job; empty until the session has started."""
    painted: bool = False
    """The page has been drawn once, so that jobs may start."""
    layer_wanted: int | None = None
    """Where the slider must stand for a model that was just chosen; see `app.workbench.place`."""
    layer_asked_again: bool = False
    """The page is being drawn again for that, which is done once."""
    pressed: str = ""
    """The button that was pressed and not yet answered."""
    given_up: set[str] = field(default_factory=set)
    """Keys of jobs the reader cancelled."""
    fresh: set[str] = field(default_factory=set)
    """Keys of jobs to start again even if they failed before."""

    # The link and the fields
    first_model: str = ""
    refused: list[str] = field(default_factory=list)
    """Names of the link's values that could not be used, until the reader is told."""
    run_on_load: bool = False
    """The link asks for its trace."""
    linked_model: str = ""
    """Of the link, where it is not on offer."""
    linked_revision: str = ""
    """Beginning of the revision of the weights the link was made with."""
    fields: dict[str, Any] | None = None
    """What the fields held when the Workbench was last drawn."""
    left: bool = False
    """Another page was shown since."""
    restore: bool = False
    """The fields are to be filled with `fields`."""
    drawn_anew: int = 0
    """How often fields in panels got new keys (`state.key_of`)."""

    # The model
    model_wanted: str = ""
    """A fetched model that the list of models is to turn to."""
    fetching: FetchAsk | None = None

    # The Workbench: questions, layer and token
    look: tuple[str, FirstLook] | None = None
    """(model's key, what it made of the last prompt that was read)."""
    trace_ask: TraceAsk | None = None
    layers_ask: LayersAsk | None = None
    edit_ask: EditAsk | FileAsk | None = None
    trace_before: TraceAsk | None = None
    """The question of the map that a cancelled trace gives way to."""
    score_ask: ScoreAsk | None = None
    score_wanted: bool = False
    """The edit is to be scored as soon as it is active."""
    asked: dict[str, Ask] = field(default_factory=dict)
    """Kind -> the last question of a tab that looks at the same prompt again."""
    compare_ask: CompareAsk | None = None
    compared: tuple[str, str] = ("", "")
    """Names of the branches in that comparison."""
    seen_trace: str = ""
    """Key of the trace whose suggestion has moved the slider."""
    seen_fact: tuple[tuple[str, str, str], int] | None = None
    """(model, prompt, subject) of that trace, and its suggestion."""
    keep_layer: bool = False
    """The layer came with the link, so the first trace does not move the slider."""
    layer_before: int | None = None
    """The layer before a method with a layer of its own was chosen."""
    last_pick: tuple[str, int, int] | None = None
    """(key of the map, token, layer) that was clicked last."""
    token_of: tuple[str, str, str] | None = None
    """(model, prompt, subject) that the chosen token to edit at belongs to."""
    method_shown: bool = False
    """The picker of methods has been drawn; it stays."""
    probes_typed: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Key of the editor of probes -> its rows as they were left, by (kind, prompt, answer)."""
    probes_drawn: str = ""
    """Key of the editor that was drawn last."""
    probes_begun: list[list[Any]] = field(default_factory=list)
    """The rows that editor was first given."""
    probe_rows: tuple[Row, ...] = ()
    """Complete rows of the editor of probes."""

    widgets: dict[str, Any] = field(default_factory=dict)
    """Key -> value of the method and its settings, as drawn last."""

    # The Workbench: edits
    asked_model: str = ""
    """Key of the model in the list, which the edits are asked of."""
    ledger_model: str = ""
    """Key of the weights the edits belong to."""
    ledger: Branches = field(default_factory=no_edits)
    ledgers: dict[str, Branches] = field(default_factory=dict)
    """Key of other weights -> their edits and branches, for the way back."""
    traced: dict[str, TraceAsk] = field(default_factory=dict)
    """Key of another model -> the question of its map."""
    edits_made: dict[str, EditAsk | FileAsk] = field(default_factory=dict)
    """Key of an edit -> the question that made it."""
    scored: dict[tuple[str, ...], ScoreAsk] = field(default_factory=dict)
    """(edit, active edits) by their keys -> the last question for its scores."""
    replacing: str = ""
    """Key of an edit that stands in place of an earlier one of its prompt."""
    kept_broken: str = ""
    """Key of an edit that breaks the model and that the reader wants nevertheless."""

    # Runs
    runs: dict[str, Run] = field(default_factory=dict)
    """By their keys, the oldest first."""
    runs_seen: set[str] = field(default_factory=set)
    """Keys of jobs whose results are among the runs, or were taken off the list."""
    runs_problems: list[str] = field(default_factory=list)
    """What was wrong with the files opened last."""
    runs_tab: str = ""

    # Batch and its experiments
    batch_kept: tuple[str, str] | None = None
    """(name among the uploads, the reader's name) of the file of facts."""
    batch_ask: BatchAsk | None = None
    batch_pressed: tuple[str, str] | None = None
    """(name of the experiment to start, a name for this press of Start)."""
    experiment: str = ""
    """Name of the experiment shown."""
    results_wanted: tuple[str, str] | None = None
    """(experiment, key of the job) of results to be read while it runs."""


def session() -> Session:
    """The session of the reader for whom the page is drawn."""
    if "session" not in st.session_state:
        st.session_state.session = Session()
    mine: Session = st.session_state.session
    return mine
