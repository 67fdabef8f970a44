"""A session's question as a Python script that gives the same numbers.

The Workbench's tab *As code* shows `script(form.trace_ask(), [edit_ask, ...])`: pass the trace that is shown, and the
questions of the active edits, the oldest first (an edit from a file is a `FileAsk`).  The script needs no page; what it
prints is what the page shows, to the last digit on the same kind of machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.server.catalog import AS_USUAL, CHAT, choice_of
from app.session.asks import SITES, EditAsk, FileAsk, TraceAsk

_HEAD = '"""Made by Engram\'s Workbench; run it where `pip install -e .` installed Engram, or in its folder."""\n'
_IMPORT = "import engram\n"
_IMPORT_WITH_PROBES = "from dataclasses import replace\n\nimport engram\nfrom app.probes import probes_of\n"


def script(
    trace: TraceAsk | None,
    edits: Sequence[EditAsk | FileAsk] = (),
    probes: Sequence[tuple[str, str, str]] | None = None,
) -> str:
    """The source of a script that asks the same.

    Args:
        trace: the map's question; None leaves the trace out.
        edits: the active edits, oldest first; each is computed with those before it in the model, and all are measured
            together at the end, by the request of the last.
        probes: (kind, prompt, expected answer) of `ScoreAsk.probes`; None takes those the edit came with.

    Raises:
        ValueError: if there is neither, or they are of different models.
    """
    asks = [*([] if trace is None else [trace]), *edits]
    if not asks:
        raise ValueError("there is nothing to write down yet; run a trace or apply an edit first")
    weights = {ask.model.removesuffix(CHAT) for ask in asks}
    if len(weights) > 1:
        raise ValueError(f"the trace and the edits are of different models ({', '.join(sorted(weights))})")
    parts = [_HEAD, _IMPORT if probes is None or not edits else _IMPORT_WITH_PROBES, _load(weights.pop())]
    if trace is not None:
        parts.append(_trace(trace))
    if edits:
        parts.append("edits = []")
        parts += [_edit(edit) for edit in edits]
        parts.append(_evaluate(_model(edits[-1]), probes))
    return "\n".join(parts)


def _load(key: str) -> str:
    choice = choice_of(key)
    settings = {"dtype": choice.settings.dtype}
    if choice.settings.device != AS_USUAL.device:
        settings["device"] = choice.settings.device
    given = "".join(f", {name}={value!r}" for name, value in settings.items())
    return f"model = engram.load_model({choice.source!r}{given})\n"


def _model(ask: TraceAsk | EditAsk | FileAsk) -> str:
    return "model.as_chat()" if ask.model.endswith(CHAT) else "model"


def _trace(ask: TraceAsk) -> str:
    sites = [SITES[code] for code in ask.sites]
    occurrence = f", occurrence={ask.occurrence}" if ask.occurrence else ""
    against = f",\n    against={ask.against!r}" if ask.against else ""
    return f"""\
fact = engram.Fact.from_prompt({ask.prompt!r}, {ask.subject!r}, {ask.answer!r}{occurrence})
located = engram.locate(
    {_model(ask)},
    fact,
    {sites!r},
    window={ask.window},
    noise={ask.noise!r},
    samples={ask.samples},
    seed={ask.seed}{against},
)
for result in located.results:
    print(result.config.site, "total effect", result.total_effect, "largest", result.largest())
print(located.suggestion().reason)
"""


def _edit(ask: EditAsk | FileAsk) -> str:
    if isinstance(ask, FileAsk):
        return f"""\
edits.append(engram.load_edit({ask.file!r}))  # the file that was opened on the page
request = edits[-1].requests[0]
"""
    occurrence = f", occurrence={ask.occurrence}" if ask.occurrence else ""
    words = f"{ask.prompt!r}, {ask.subject!r}, {ask.answer!r}, {ask.new!r}"
    model = _model(ask)
    return f"""\
request = engram.request_for({model}, {words}{occurrence})
edits.append(engram.edit({model}, request, {ask.method!r}, {dict(ask.config)!r}, active=edits))
"""


def _evaluate(model: str, probes: Sequence[tuple[str, str, str]] | None) -> str:
    given = None if probes is None else [tuple(row) for row in probes]
    rows = f"request = replace(request, probes=probes_of({given!r}, request.probes))\n" if probes is not None else ""
    return f"""\
{rows}report = engram.evaluate({model}, edits[-1], request, active=edits)
print(report.to_markdown())

edited = engram.apply_edits({model}, edits)  # a view: the model itself does not change
print(edited.generate([request.fact.prompt], 12))
"""
