"""From a fact to five numbers, without a web page.  Read this file first.

    look      how the model reads a prompt: tokens, subject, its own answer
    locate    which states carry the fact, and a layer to start editing at       (package `tracing`)
    request   what is to be rewritten, with the probes that judge the rewrite    (package `facts`)
    edit      the change of weights that rewrites it; computed, not applied      (package `editing`)
    evaluate  five metrics, before and after, on a view of the model             (package `metrics`)

`run_edit` does the last two in one call.  The command lines, the page and the tests all go through here.  The model
handed in is never changed: an edit is applied as a view that shares every tensor but the edited ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from app.first_look import look as look
from app.probes import Row, find_fact, make_request, probes_of
from editing import Edit, apply_edits, make_edit
from editing.parts.suggest import choose_layer
from editing.registry import DEFAULT_METHOD
from experiments.guard import ordinary_texts
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from facts.watch import UNWATCHED, Watch
from metrics import EditReport, Efficiency
from metrics import evaluate as score
from metrics.efficiency import stopwatch
from models import LanguageModel, run, subject_span
from models.cards import LayerChoice
from models.published import usual_layer
from tracing import TraceConfig, TraceResult, measure_noise, trace_sites
from tracing.suggestion import Suggestion

REPORT_TEXTS = 40
"""Ordinary texts whose perplexity a report gives; the guard, which reads them at every edit, takes fewer."""


@dataclass(frozen=True, eq=False)
class Located:
    """The traces of one prompt, and the layer they suggest to edit, if any."""

    results: tuple[TraceResult, ...]
    """One for each site that was asked for."""
    silent: Mapping[int, frozenset[int]]
    """Position of a token -> layers whose MLP input is zero there, so that changing its weights has no effect."""
    usual: int
    """Where to begin if the traces suggest none: a layer card's layer, the published one, or one by depth."""
    source: str = ""
    """Where that layer comes from, in a sentence."""
    measured: bool = False
    """Whether a layer card measured it; then it is where to begin whatever the traces suggest."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """A notebook shows the trace that the suggestion is read from."""
        return self.main._repr_mimebundle_()

    @property
    def main(self) -> TraceResult:
        """The trace the suggestion is read from: the MLP's where there are several, since an edit rewrites an MLP."""
        return next((result for result in self.results if result.config.site == "mlp_out"), self.results[0])

    def suggestion(self, position: int | None = None) -> Suggestion:
        """The layer that stands out at a token (by default the subject's last), where an edit has an effect."""
        return self.main.suggestion(position, self.silent)

    @property
    def suggested(self) -> int | None:
        """The layer suggested at the last subject token, or None."""
        return self.suggestion().layer

    @property
    def start(self) -> int:
        """The layer a card measured, else the one suggested at the last subject token, else the usual one."""
        return self.usual if self.measured or self.suggested is None else self.suggested


def locate(
    model: LanguageModel,
    fact: Fact,
    sites: Sequence[str] = ("mlp_out",),
    *,
    window: int = 1,
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    against: str = "",
    watch: Watch = UNWATCHED,
) -> Located:
    """One causal trace for each site, from the same corrupted runs, and the layers where an edit can have an effect.

    Shows `watch` the same of the first noise sample, before the others are run.

    Args:
        sites: of `tracing.TraceConfig.site`.
        window: layers restored together, for MLP and attention outputs; states are restored one at a time, as in ROME.
        noise: times the standard deviation of the embeddings of the atlas's subjects, as ROME measures it on its facts.
        against: another answer, to measure the logit difference too.

    Raises:
        ValueError: if the prompt, the subject or a setting does not fit the model.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    silent = silent_layers(model, fact)
    shared: dict[str, Any] = {"noise": noise, "samples": samples, "seed": seed, "against": against}
    configs = [TraceConfig(site=site, window=1 if site == "resid_post" else window, **shared) for site in sites]
    watch.step(0, 0, "measuring the noise")
    level = measure_noise(model, load_atlas().subjects())
    watch.step(0, 0, "tracing")
    choice = _usual_layer(model)
    measured = choice.source in ("measured", "measured on its size")

    def located(results: Iterable[TraceResult]) -> Located:
        return Located(tuple(results), silent, choice.layer, choice.sentence, measured)

    show = watch.show
    first = None if show is None else lambda results: show(located(results))
    return located(trace_sites(model, fact, configs, level=level, first=first, watch=watch).values())


def _usual_layer(model: LanguageModel) -> LayerChoice:
    """The layer to begin at without a trace, also where no MLP of the model can be edited."""
    try:
        return choose_layer(model)
    except ValueError:
        return LayerChoice(usual_layer(model.n_layers), "depth")


def silent_layers(model: LanguageModel, fact: Fact) -> dict[int, frozenset[int]]:
    """Position of each subject token, and of the prompt's last -> layers whose MLP is silent there: the input of its
    down-projection is zero.

    Every method that rewrites an MLP changes what a key is mapped to, and a zero key is mapped to zero by any weight.

    Raises:
        ValueError: if the prompt is too long for the model or does not hold the subject.
    """
    span, ids = subject_span(model, fact.prompt, fact.subject, fact.start), model.encode(fact.prompt)
    sites = [("mlp_key", layer) for layer in range(model.n_layers)]
    keys = run(model, torch.tensor([ids]), captures=sites, last_only=True).captured  # type: ignore[arg-type]
    return {
        pos: frozenset(layer for (_, layer), key in keys.items() if not key[0, pos].any())
        for pos in {*range(span.start, span.stop), len(ids) - 1}
    }


def request_for(
    model: LanguageModel,
    prompt: str,
    subject: str,
    answer: str,
    new: str,
    rows: Sequence[Row] | None = None,
    *,
    occurrence: int = 0,
) -> EditRequest:
    """The request behind the page's fields; without a true answer, the model's own answer is taken.

    Args:
        rows: probes as (kind, prompt, answer); None takes those the atlas derives.
        occurrence: which occurrence of the subject in the prompt is meant, counted from 0.

    Raises:
        ValueError: if the prompt, the subject or the new answer is unusable.
    """
    fact = find_fact(prompt, subject, answer, occurrence)
    if not fact.target_true:
        own = look(model, prompt, subject, occurrence=occurrence).answer
        if own == new.strip():
            raise ValueError(f"the model itself answers {own!r} here; give a new answer that differs from it")
        fact = dataclasses.replace(fact, target_true=own)
    request = make_request(fact, new)
    if rows is None:
        return request
    return dataclasses.replace(request, probes=probes_of(rows, request.probes))


def edit(
    model: LanguageModel,
    request: EditRequest,
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    active: Sequence[Edit] = (),
    watch: Watch = UNWATCHED,
) -> Edit:
    """Compute the change that rewrites the fact; the model itself does not change.

    Args:
        method: a name of `editing.METHODS`.
        config: the method's config, or its fields by name.
        active: edits that are in effect already, oldest first; the new one is computed with them in the model.

    Raises:
        ValueError: if the method is unknown, a setting is out of range, or the request does not fit the model.
        FileNotFoundError: if the config names a corpus file that is not there.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    return make_edit(model, [request], method, config, active=active, watch=watch)


def evaluate(
    model: LanguageModel,
    change: Edit,
    request: EditRequest,
    *,
    active: Sequence[Edit] | None = None,
    trace_seconds: float | None = None,
    guard_texts: Sequence[str] | None = None,
    watch: Watch = UNWATCHED,
) -> EditReport:
    """Five metrics of an edit, before and after, on a view of the model.

    Args:
        active: all edits in effect, `change` among them; by default it alone.
        trace_seconds: what finding the layer took, for the report.
        guard_texts: neutral texts for the perplexity guard; by default from the bundled corpus, with a separate seed.

    Raises:
        ValueError: if the edit belongs to other weights, or the edit prompt does not fit the model.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    with stopwatch() as applying:
        edited = apply_edits(model, [change] if active is None else active)
    with stopwatch() as undoing:
        apply_edits(model, [])
    seconds = dict(change.seconds or {})
    efficiency = Efficiency(
        trace_seconds=trace_seconds,
        moments_seconds=seconds.get("moments"),
        value_seconds=_searching(seconds),
        solve_seconds=seconds.get("solve"),
        apply_seconds=applying.seconds,
        undo_seconds=undoing.seconds,
    )
    placed = getattr(change.config, "fact_token", "subject_last")
    about: dict[str, str | int | float] = {
        "method": change.method,
        "layer": getattr(change.config, "layer", "-"),
        "edit": change.digest[:16],
        **({} if placed == "subject_last" else {"fact token": placed}),
    }
    return score(
        model,
        edited,
        request,
        guard_texts=ordinary_texts(REPORT_TEXTS) if guard_texts is None else guard_texts,
        efficiency=efficiency,
        about=about if active is None or len(active) < 2 else about | {"active edits": len(active)},
        watch=watch,
    )


def _searching(seconds: Mapping[str, float]) -> float | None:
    """Seconds of a method's search for a value or neurons, or of its training; None if it has none."""
    stages = [value for stage, value in seconds.items() if stage not in ("moments", "solve")]
    return sum(stages) if stages else None


def run_edit(
    model: LanguageModel,
    request: EditRequest,
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    trace_seconds: float | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[Edit, EditReport]:
    """`edit`, then `evaluate`; arguments and errors as there.  `watch` counts the steps of each anew."""
    change = edit(model, request, method, config, watch=watch)
    report = evaluate(model, change, request, trace_seconds=trace_seconds, watch=watch)
    return change, report
