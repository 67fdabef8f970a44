"""What a layer card says, read off its cells: an edit's score, the rule that recommends a layer, orders of the layers.

The rule, set before any result was seen:

* A fact's score at a layer is the harmonic mean of three shares: the edit prompt, its paraphrases, and the neighbours
  that the unedited model answers; a share without a prompt is left out.  Where the perplexity of ordinary text is more
  than `HARM` times the unedited model's, the score is divided by what it is above.  A refused edit scores 0.
* The layer with the best mean stands out if the 95 % interval of the paired difference to each other layer lies above
  0 (bootstrap over facts).  Then it is recommended.
* Otherwise none stands out, and the middle one of the layers that cannot be told from the best is the default (of two,
  the lower): its neighbours in the grid do as well.
* At that layer a few settings are tried on the same facts.  One is recommended if the interval of its paired gain over
  the method's defaults lies above 0, the one with the largest gain first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from experiments.cells import average as average_cells
from experiments.ledger.records import Entry
from experiments.studies.parts import output

HARM = 1.1
"""Ratio of perplexities above which an edit's score is lowered."""
SHARES = ("reliability", "paraphrase", "neighborhood")
ORDERS = {"edit": "edit score", "resid_post": "states", "mlp_out": "MLP outputs", "gradient": "gradients"}
"""What orders the layers, in words."""
Array = NDArray[np.float64]
ByFact = Mapping[str, Array]
"""A fact's prompt -> its values, [layer]."""


def score_of(result: Mapping[str, Any]) -> float:
    """One edit's score, from 0 to 1; see the first lines of the module."""
    from metrics.statistics import harmonic_mean

    if "refused" in result:
        return 0.0
    shares = [float(np.mean(result[name])) for name in SHARES if result[name]]
    ratio = result["perplexity_ratio"]
    if ratio is None:  # the edited model gives no finite number
        return 0.0
    return harmonic_mean(shares) / max(1.0, ratio / HARM)


def scores_of(cells: Sequence[Entry], layers: Sequence[int]) -> tuple[list[int], ByFact]:
    """(layers that can be edited, scores there) of the facts whose edits are all finished.

    Raises:
        ValueError: if fewer than `FEWEST` facts are.
    """
    from metrics.statistics import FEWEST

    by_fact: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in cells:
        if entry.result is not None:
            by_fact.setdefault(prompt_of(entry.spec["request"]["fact"]), {})[entry.spec["layer"]] = entry.result
    whole = {fact: results for fact, results in by_fact.items() if set(layers) <= results.keys()}
    if len(whole) < FEWEST:
        raise ValueError(f"{len(whole)} facts are edited at all layers; at least {FEWEST} are needed; resume the run")
    usable = [layer for layer in layers if any("refused" not in results[layer] for results in whole.values())]
    return usable, {fact: np.array([score_of(results[layer]) for layer in usable]) for fact, results in whole.items()}


def prompt_of(fact: Mapping[str, Any]) -> str:
    """The prompt of a fact as a cell states it."""
    return str(fact["template"].replace("{}", fact["subject"]))


def effects_of(traced: Sequence[Entry]) -> dict[str, ByFact]:
    """Of the states and of the MLP outputs, at the last subject token, of the facts that were traced."""
    average = average_cells.merged(
        [entry.result or {} for entry in traced], average_cells.configs_of(traced[0].spec) if traced else ()
    )
    return {
        name: dict(zip(average.prompts, average.values(name, "last_subject").astype(np.float64), strict=True))
        for name in ("resid_post", "mlp_out")
    }


def recommend(layers: Sequence[int], scores: Array) -> dict[str, Any]:
    """The layer by the rule of the module's first lines: `layer`, `stands_out`, `tied`, `score` and `interval`, and
    `against_best` of every layer, the interval of the best one's lead over it.

    Args:
        scores: [fact, layer].
    """
    from metrics.statistics import bootstrap, paired_bootstrap

    best = int(scores.mean(axis=0).argmax())
    leads = [paired_bootstrap(scores[:, place], scores[:, best]) for place in range(len(layers))]
    tied = [place for place, lead in enumerate(leads) if place == best or lead is None or lead[0] <= 0]
    chosen = tied[(len(tied) - 1) // 2]
    return {
        "layer": layers[chosen],
        "stands_out": len(tied) == 1,
        "tied": [layers[place] for place in tied],
        "score": float(scores[:, chosen].mean()),
        "interval": list(bootstrap(scores[:, chosen]) or (0.0, 1.0)),
        "best": layers[best],
        "against_best": [list(lead or (0.0, 0.0)) for lead in leads],
    }


def curve(values: Array) -> dict[str, list[float]]:
    """Mean over facts by layer, with 95 % bootstrap intervals.

    Raises:
        ValueError: if the facts, the rows, are too few for one.
    """
    from metrics.statistics import FEWEST, Interval, bootstrap

    if len(values) < FEWEST:
        raise ValueError(
            f"{len(values)} of the facts could be traced; a card needs at least {FEWEST}, so take facts that the model "
            "knows"
        )
    ends = [cast(Interval, bootstrap(column)) for column in values.T]
    return {
        "mean": [short(value) for value in values.mean(axis=0)],
        "low": [short(low) for low, _ in ends],
        "high": [short(high) for _, high in ends],
    }


def short(value: float) -> float:
    """Four digits, as the card keeps them."""
    return float(f"{value:.4g}")


def correlations(layers: Sequence[int], scores: ByFact, effects: Mapping[str, ByFact]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of the layers' means for each two of `ORDERS`, over the layers edited at and the
    facts that have both, with 95 % bootstrap intervals over facts; None where one of the two does not vary."""
    from metrics.statistics import bootstrap_cases

    columns = {"edit": scores}
    for name, effect in effects.items():
        columns[name] = {fact: row[list(layers)] for fact, row in effect.items()}
    names = [name for name in ORDERS if name in columns]
    rows = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            one, other = columns[first], columns[second]
            both = np.array([np.concatenate([one[fact], other[fact]]) for fact in one if fact in other])
            rho = float(_rank_correlation(both))
            ends = bootstrap_cases(both, _rank_correlation) if np.isfinite(rho) else None
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "rho": short(rho) if np.isfinite(rho) else None,
                    "interval": [short(end) for end in ends] if ends else None,
                    "n_layers": len(layers),
                }
            )
    return rows


def _rank_correlation(values: Array) -> Array:
    """[..., fact, 2 layers] -> [...]: Spearman's rho of the means of the first and the second half; NaN where one does
    not vary."""
    from scipy.stats import rankdata

    first, second = np.split(values.mean(axis=-2), 2, axis=-1)
    x, y = (rankdata(half, axis=-1) for half in (first, second))
    x, y = (half - half.mean(axis=-1, keepdims=True) for half in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def title_of(card: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    best = card["recommended"]
    score = _with(best["score"], best["interval"])
    verdict = (
        f"layer {best['layer']} stands out"
        if best["stands_out"]
        else f"none of layers {', '.join(map(str, best['tied']))} stands out, {best['layer']} is the middle one"
    )
    return f"{card['n']} facts edited by {card['method']}: {verdict}, score {score}"


def _with(value: float | None, ends: Sequence[float] | None) -> str:
    """A number with its interval, two digits each."""
    low, high = ends or (None, None)
    return output.between(value, low, high, 2)


def layer_rows(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a layer of the grid, flat."""
    rows = []
    for row in card["layers"]:
        effects = {name: curve["mean"][row["layer"]] for name, curve in card["effects"].items()}
        (low, high), (least, most) = row["interval"], row["behind_best"]
        flat = {name: value for name, value in row.items() if not isinstance(value, list)}
        rows.append({**flat, "score_low": low, "score_high": high, "behind_low": least, "behind_high": most, **effects})
    return rows


def shown_tables(card: Mapping[str, Any]) -> str:
    """The card as Markdown: layers, settings that were tried, and how the orders of the layers agree."""
    heads = ("Layer", "score", "behind the best", "edit prompt", "paraphrases", "neighbours", "perplexity")
    rows = []
    for row in card["layers"]:
        low, high = row["behind_best"]
        ratio = "–" if row["perplexity_ratio"] is None else f"{row['perplexity_ratio']:.3f} x"
        effects = [f"{card['effects'][name]['mean'][row['layer']]:.3g}" for name in ORDERS if name != "edit"]
        rows.append(
            (
                row["layer"],
                _with(row["score"], row["interval"]),
                "best" if row["layer"] == card["recommended"]["best"] else f"{low:.2f} to {high:.2f}",
                *("–" if row[name] is None else f"{row[name]:.2f}" for name in SHARES),
                ratio,
                *effects,
            )
        )
    words = [*heads, *(words for name, words in ORDERS.items() if name != "edit")]
    settings = [
        (
            ", ".join(f"{name}={value}" for name, value in one["settings"].items()),
            one["n"],
            _with(one["score"], one["interval"]),
            _with(one["gain"], one["gain_interval"]),
        )
        for one in card["tried"]
    ]
    orders = [
        (
            f"{ORDERS[one['first']]} and {ORDERS[one['second']]}",
            one["n_layers"],
            _with(one["rho"], one["interval"]),
        )
        for one in card["correlations"]
    ]
    parts = [output.markdown(words, rows)]
    if settings:
        heads_tried = (f"Tried at layer {card['tried'][0]['layer']}", "n", "score", "gain over the defaults")
        parts.append(output.markdown(heads_tried, settings))
    parts.append(output.markdown(("Orders of the layers", "layers", "Spearman (95 % interval over facts)"), orders))
    return "\n".join(parts)
