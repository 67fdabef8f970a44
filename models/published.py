"""What was published about known models, by their family and size: layers that edits used, and results to reproduce.

Layers are from the hyper-parameters of ROME, MEMIT and EasyEdit and of arnab-api/romba (pythia-2.8b).  Hardly any of
them was measured: for models after GPT-J the authors used MEMIT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PUBLISHED: dict[tuple[str, int, int], tuple[int, ...]] = {
    ("gpt2", 24, 1024): (8,),
    ("gpt2", 36, 1280): (12,),
    ("gpt2", 48, 1600): (13, 14, 15, 16, 17),
    ("gptj", 28, 4096): (3, 4, 5, 6, 7, 8),
    ("gpt_neox", 32, 2560): (15,),
    ("gpt_neox", 44, 6144): (15,),
    ("llama", 28, 3072): (4, 5, 6, 7, 8),
    ("llama", 32, 4096): (4, 5, 6, 7, 8),
    ("mistral", 32, 4096): (4, 5, 6, 7, 8),
    ("qwen2", 28, 3584): (4, 5, 6, 7, 8),
}
"""(family, layers, d_model) -> layers of MEMIT, or of ROME where only that was published."""
PUBLISHED_ONE: dict[tuple[str, int, int], int] = {
    ("gpt2", 48, 1600): 17,
    ("gptj", 28, 4096): 5,
    ("llama", 28, 3072): 5,
    ("llama", 32, 4096): 5,
    ("mistral", 32, 4096): 5,
    ("qwen2", 28, 3584): 5,
}
"""The same for ROME, where that is not the only layer above."""

FIRST, LAST = 0.1, 0.25
"""The published ranges lie between these shares of the depth, those of GPT-2 XL, the oldest, a little later."""


def usual_layer(n_layers: int, layers: Sequence[int] = ()) -> int:
    """The one layer to begin with: the middle of the published layers of a model, or else of its `usual_layers`."""
    layers = layers or usual_layers(n_layers)
    return min(layers[len(layers) // 2], n_layers - 1)


def usual_layers(n_layers: int) -> range:
    """Where edits usually begin in a model of so many layers that has no published ones."""
    first = round(FIRST * n_layers)
    return range(first, max(first, round(LAST * n_layers)) + 1)


@dataclass(frozen=True)
class Result:
    """One published number."""

    size: tuple[str, int, int]
    """(family, layers, d_model) of the model."""
    method: str
    """Of editing; empty where nothing was edited."""
    data: str
    """Format of the dataset (`facts.importers`), or "traces"."""
    protocol: str
    """Of `metrics.protocols`; empty where none of them measures the number."""
    name: str
    """Of the score in that protocol."""
    value: float
    """Share or probability."""
    source: str
    before: bool = False
    """Of the unedited model."""
    how: str = ""
    """How it was measured, where a study of single edits measures something else."""


GPT2_SMALL, GPT2_MEDIUM, GPT2_LARGE, GPT2_XL = (
    ("gpt2", *size) for size in ((12, 768), (24, 1024), (36, 1280), (48, 1600))
)
GPT_J, LLAMA_7B = ("gptj", 28, 4096), ("llama", 32, 4096)
_ROME = "Meng et al. 2022 (arXiv:2202.05262)"
_PLUS = "Hoelscher-Obermaier et al. 2023 (arXiv:2305.17553)"
_EASYEDIT = "Wang et al. 2023 (arXiv:2308.07269), Llama-2-7B"
_ALPHA = "Fang et al. 2024 (arXiv:2410.02355)"
_BATCHES = "2,000 edits in batches of 100, asked after the last"


def _results() -> tuple[Result, ...]:
    rows = [
        Result(GPT2_XL, "rome", "counterfact", "rome", name, value, _ROME)
        for name, value in {"S": 0.892, "ES": 1.0, "PS": 0.964, "NS": 0.754}.items()
    ]
    for size, before, after in ((GPT2_MEDIUM, 0.334, 0.874), (GPT2_LARGE, 0.328, 0.882), (GPT2_XL, 0.305, None)):
        rows.append(Result(size, "rome", "counterfact", "rome", "S", before, _ROME, before=True))
        if after is not None:
            rows.append(Result(size, "rome", "counterfact", "rome", "S", after, _ROME))
    for name, value in {"rewrite_acc": 0.998, "rephrase_acc": 0.881}.items():
        rows.append(Result(GPT2_XL, "rome", "zsre", "easyedit", name, value, _ROME))
    specificity = "accuracy on unrelated questions; no protocol here asks those"
    rows.append(Result(GPT2_XL, "rome", "zsre", "", "specificity", 0.242, _ROME, how=specificity))
    for size, first, last in ((GPT2_MEDIUM, 0.753, 0.722), (GPT2_XL, 0.784, 0.759), (GPT_J, 0.834, 0.791)):
        rows.append(Result(size, "rome", "counterfact", "counterfact+", "NS", first, _PLUS, before=True))
        rows.append(Result(size, "rome", "counterfact", "counterfact+", "NS", last, _PLUS))
    for size, first, last in ((GPT2_MEDIUM, 0.457, 0.105), (GPT2_XL, 0.524, 0.138)):
        rows.append(Result(size, "rome", "counterfact", "counterfact+", "NS+", first, _PLUS, before=True))
        rows.append(Result(size, "rome", "counterfact", "counterfact+", "NS+", last, _PLUS))
    names = ("rewrite_acc", "rephrase_acc", "locality", "portability")
    for method, scores in {
        "rome": (0.925, 0.870, 0.996, 0.575),
        "memit": (0.929, 0.860, 0.995, 0.606),
        "ike": (1.0, 1.0, 0.692, 0.676),
    }.items():
        for name, value in zip(names, scores, strict=True):
            rows.append(Result(LLAMA_7B, method, "zsre", "easyedit", name, value, _EASYEDIT))
    for size, method, values in (
        (LLAMA_7B, "alphaedit", (0.989, 0.942, 0.679)),
        (LLAMA_7B, "memit", (0.657, 0.647, 0.516)),
        (GPT2_XL, "alphaedit", (0.995, 0.940, 0.664)),
        (GPT2_XL, "memit", (0.947, 0.858, 0.605)),
    ):
        source = f"{_ALPHA}, Llama-3-8B" if size == LLAMA_7B else _ALPHA
        for name, value in zip(("ES", "PS", "NS"), values, strict=True):
            rows.append(Result(size, method, "counterfact", "rome", name, value, source, how=_BATCHES))
    thousand = {"clean": 0.270, "corrupted": 0.0847, "ate": 0.186, "resid_post 15": 0.087, "mlp_out 15": 0.066}
    for name, value in (thousand | {"attn_out 15": 0.016}).items():
        rows.append(Result(GPT2_XL, "", "traces", "", name, value, _ROME))
    rows.append(Result(GPT2_SMALL, "", "traces", "", "known", 342 / 1209, "a public log of known_1000 on a CPU"))
    return tuple(rows)


RESULTS = _results()
"""Published results that studies of this project can be held against."""


def results_for(size: tuple[str, int, int], data: str) -> tuple[Result, ...]:
    """The published results for models of a size on one kind of data."""
    return tuple(result for result in RESULTS if (result.size, result.data) == (size, data))
