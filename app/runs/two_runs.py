"""Runs as rows of a table, and two runs compared."""

from __future__ import annotations

from collections.abc import Sequence

from app.language.say import later, said, say
from app.session.run import SITES, EditRun, Run, RunScore, TraceRun
from app.shared.wording import NONE, Cells, amount, short, visible
from metrics.definitions import METRICS


def overview(runs: Sequence[Run]) -> list[Cells]:
    """A row for each run: what it was, and its numbers."""
    return [_trace_row(run) if isinstance(run, TraceRun) else _edit_row(run) for run in runs]


def matching(runs: Sequence[Run], words: str, kind: str = "all") -> list[Run]:
    """The runs of a kind ("trace", "edit" or "all") whose row holds every one of the words."""
    wanted = words.casefold().split()
    rows = zip(runs, overview(runs), strict=True)
    with_words = [
        run
        for run, row in rows
        if all(word in " ".join([*row.values(), *translated(row).values()]).casefold() for word in wanted)
    ]
    kinds: dict[str, type] = {"trace": TraceRun, "edit": EditRun}
    return [run for run in with_words if kind not in kinds or isinstance(run, kinds[kind])]


def translated(row: Cells) -> Cells:
    """A row of `overview` as a table shows it; a file holds it in English."""
    return row | {name: said(row[name]) for name in ("run", "how", "largest effect")}


def _trace_row(run: TraceRun) -> Cells:
    position, layer = run.largest
    effect = f"{short(run.effect[position][layer])} at {visible(run.tokens[position])}, layer {layer}"
    about = {"run": later("Trace"), "prompt": run.prompt, "subject": run.subject, "change": run.answer.strip()}
    about |= {"how": SITES[run.site], "layer": str(layer), "largest effect": effect}
    return (
        about | dict.fromkeys((metric.label for metric in METRICS.values()), "") | {"protocol": "", "model": run.model}
    )


def _edit_row(run: EditRun) -> Cells:
    about = {
        "run": later("Edit"),
        "prompt": run.prompt,
        "subject": run.subject,
        "change": f"{run.old or '?'} → {run.new}",
    }
    about |= {"how": run.method, "layer": run.layer, "largest effect": ""}
    numbers = {metric.label: _after(run.headline(name)) for name, metric in METRICS.items()}
    return about | numbers | {"protocol": run.protocol, "model": run.model}


def _after(score: RunScore | None) -> str:
    return NONE if score is None or score.after is None else amount(score.after, score.unit)


# ---- two runs


def why_not(left: Run, right: Run) -> str:
    """Why two runs cannot be compared; empty if they can."""
    if isinstance(left, TraceRun) and isinstance(right, TraceRun):
        if left.measure != right.measure:
            return (
                f"One trace shows {_measure(left)} and the other {_measure(right)}, which have no common scale; "
                "choose two of one measure."
            )
        return ""
    if isinstance(left, EditRun) and isinstance(right, EditRun):
        if left.protocol != right.protocol:
            return (
                f"These edits were measured under different protocols, {left.protocol} and {right.protocol}, whose "
                "numbers mean different things; choose two of one protocol."
            )
        if left.way != right.way:
            return "These edits were measured with different settings of the same protocol; choose two with the same."
        return ""
    return "A trace and an edit have no numbers in common; choose two of one kind."


def _measure(run: TraceRun) -> str:
    return run.measure.replace("_", " ")


def what_differs(left: Run, right: Run) -> list[tuple[str, str, str]]:
    """(setting, left, right) of every setting in which the two differ."""
    sides = (_asked(left), _asked(right))
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    values = [(name, sides[0].get(name, NONE), sides[1].get(name, NONE)) for name in names]
    return [row for row in values if row[1] != row[2]]


def _asked(run: Run) -> Cells:
    about = {"model": run.model, "weights": run.revision[:12], "prompt": run.prompt, "subject": run.subject}
    if isinstance(run, EditRun):
        about |= {"old answer": run.old or "?", "new answer": run.new, "method": run.method, "layer": run.layer}
        return about | {"active edits": str(run.active_edits), "seed": str(run.seed)}
    about |= {"answer": run.answer.strip(), "map": SITES[run.site], "samples": str(run.samples)}
    return about | {name.replace("_", " "): value for name, value in run.settings.items()}


def pair_rows(left: EditRun, right: EditRun) -> list[Cells]:
    """The five numbers as a table: value, interval and n of both, the unedited model's, and the difference."""
    rows = []
    for name, metric in METRICS.items():
        sides = a, b = left.headline(name), right.headline(name)
        score = a or b
        measured = a is not None and b is not None and a.after is not None and b.after is not None
        before = [NONE if side is None or side.before is None else _before(side) for side in sides]
        rows.append(
            {
                "metric": said(metric.label),
                "left": with_interval(a),
                "right": with_interval(b),
                "difference": amount(b.after - a.after, b.unit, signed=True) if measured else NONE,
                "before, left": before[0],
                "before, right": before[1],
                "n": " / ".join(str(side.n if side else 0) for side in sides),
                "protocol": score.protocol if score is not None else NONE,
            }
        )
    return rows


def score_rows(run: EditRun) -> list[Cells]:
    """Every number of one edit, the five headlines first."""
    order = list(METRICS)
    ordered = sorted(run.scores, key=lambda score: (not score.headline, order.index(score.metric)))
    return [
        {
            "metric": said(METRICS[score.metric].label),
            "score": said(score.label),
            "before": NONE if score.before is None else _before(score),
            "after": _after(score)
            if score.after is not None
            else say("not measured: {reason}", reason=said(score.reason)),
            "change": NONE if score.change is None else amount(score.change, score.unit, signed=True),
            "95 % interval": NONE if score.ci is None else interval(score.ci, score.unit),
            "n": str(score.n),
            "protocol": score.protocol,
        }
        for score in ordered
    ]


def trace_rows(left: TraceRun, right: TraceRun) -> list[Cells]:
    """The numbers of two traces and their differences."""
    places = {
        later("largest effect"): (left.largest, right.largest),
        later("largest at last subject token"): (left.peak, right.peak),
    }
    values = {
        later("clean"): (left.clean, right.clean),
        later("corrupted"): (left.corrupted, right.corrupted),
        later("total effect"): (left.total, right.total),
        **{name: (left.effect[a[0]][a[1]], right.effect[b[0]][b[1]]) for name, (a, b) in places.items()},
    }
    rows = [
        {"number": said(name), "left": short(a), "right": short(b), "difference": _signed(b - a)}
        for name, (a, b) in values.items()
    ]
    for name, (a, b) in places.items():
        words = [
            say("layer {layer}, {token}", layer=layer, token=visible(run.tokens[pos]))
            for run, (pos, layer) in ((left, a), (right, b))
        ]
        moved = say("{n:+d} layers", n=b[1] - a[1]).replace("-", "−") if left.tokens[a[0]] == right.tokens[b[0]] else ""
        rows.append(
            {"number": say("{name}: where", name=said(name)), "left": words[0], "right": words[1], "difference": moved}
        )
    samples = (left.samples, right.samples)
    return [*rows, {"number": say("n (samples)"), "left": str(samples[0]), "right": str(samples[1]), "difference": ""}]


def with_interval(score: RunScore | None) -> str:
    """A value with its interval."""
    if score is None or score.after is None:
        return NONE
    value = amount(score.after, score.unit)
    return value if score.ci is None else f"{value} ({interval(score.ci, score.unit)})"


def interval(ci: tuple[float, float], unit: str) -> str:
    """Both ends of an interval, with the unit once."""
    low, high = (amount(end, unit) for end in ci)
    return say("{low} to {high}", low=low.removesuffix(" %"), high=high)


def _before(score: RunScore) -> str:
    return amount(score.before or 0.0, score.unit)


def _signed(value: float) -> str:
    return f"+{short(value)}" if value > 0 else short(value)
