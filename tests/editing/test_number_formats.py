"""Edits in bfloat16 and float16, on weights spread by accelerate, and the models that are refused."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from functools import cache
from pathlib import Path

import accelerate
import pytest
import torch
from torch import nn

from editing import METHODS, Edit, apply_edits
from editing.ops import DenseDelta, WeightDelta
from editing.train.trainers import make_trainer
from facts import Probe
from metrics import evaluate
from models import LanguageModel, as_out_in, load_model
from tests.editing.quick import CORPUS, NEEDLE, QUICK, asked, quick
from tests.tiny import build_tiny

HALVES = ("bfloat16", "float16")
SIDE = {"grace": {"layer": 1, "steps": 3}, "wise": {"layer": 1, "steps": 3}}
"""Settings of the methods that keep their answers beside the weights."""
PROBED = dataclasses.replace(
    NEEDLE,
    probes=(
        Probe("paraphrase", "The Space Needle stands in", NEEDLE.target_new),
        Probe("neighborhood", "The Colosseum is located in the city of", "Rome"),
        Probe("neighborhood", "The Eiffel Tower is located in the city of", "Paris"),
    ),
)


@cache
def folder_of(family: str) -> Path:
    folder = Path(tempfile.mkdtemp())
    module, tokenizer = build_tiny(family)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "corpus.txt").write_text(CORPUS)
    return folder


@cache
def loaded(family: str, dtype: str = "float32", device_map: str = "") -> LanguageModel:
    return load_model(folder_of(family), dtype=dtype, device_map=device_map)


def compute(name: str, model: LanguageModel, family: str = "gpt2", **changes: object) -> Edit:
    if name in SIDE:
        config = METHODS[name].config_type(**SIDE[name])
    else:
        config = quick(name, str(folder_of(family) / "corpus.txt"), **changes)
    return METHODS[name].compute(model, asked(name), config)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", [*QUICK, *SIDE])
def test_every_method_edits_a_model_in_half_precision(name: str, dtype: str) -> None:
    model = loaded("gpt2", dtype)
    before = model.weights_digest()
    edit = compute(name, model)
    assert model.weights_digest() == before
    view = apply_edits(model, [edit])
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    assert view.logits(ids).isfinite().all()
    measured = [score for score in evaluate(model, view, PROBED).scores if score.value is not None]
    assert {score.metric for score in measured} >= {"reliability", "generalization", "locality", "efficiency"}
    assert all(math.isfinite(score.value) for score in measured if score.value is not None)


@pytest.mark.parametrize("dtype", HALVES)
def test_metrics_of_half_precision_are_those_of_whole(dtype: str) -> None:
    """The same edit's vectors, judged on the rounded model: probabilities differ by what rounding explains."""
    whole, half = loaded("llama"), loaded("llama", dtype)
    edit = compute("ft-m", whole, "llama")
    moved = dataclasses.replace(edit, model_revision=half.revision)
    one, other = (evaluate(m, apply_edits(m, [e]), PROBED) for m, e in ((whole, edit), (half, moved)))
    for score, close in zip(one.scores, other.scores, strict=True):
        if score.value is not None and score.unit == "probability":
            assert close.value == pytest.approx(score.value, rel=0.1, abs=1e-3), score.name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("name", ["rome", "r-rome"])
def test_a_rank_one_edit_is_rounded_once(name: str, family: str, dtype: str) -> None:
    """The view's weight is W + u v' computed in float64 and rounded to the model's format, not a sum of roundings."""
    model = loaded(family, dtype)
    edit = compute(name, model, family)
    (delta,) = edit.ops
    assert isinstance(delta, WeightDelta)
    assert delta.rows.dtype == delta.cols.dtype == torch.float32
    module = model.module.get_submodule(delta.name.removesuffix(".weight"))
    old = as_out_in(module, model.weight(delta.name)).double()
    new = as_out_in(module, apply_edits(model, [edit]).weight(delta.name))
    assert new.dtype == getattr(torch, dtype)
    assert torch.equal(new, (old + delta.rows.double() @ delta.cols.double()).to(new.dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["ft", "ft-l", "ft-m"])
def test_small_steps_are_not_lost(name: str, dtype: str) -> None:
    """Twenty steps of 1e-4 are each below what bfloat16 resolves at most weights, and together above it."""
    changes = {"steps": 21, "learning_rate": 1e-4, "rate_unit": "absolute"}
    whole, half = (compute(name, loaded("gpt2", kind), **changes).ops[0] for kind in ("float32", dtype))
    assert isinstance(whole, DenseDelta)
    assert isinstance(half, DenseDelta)
    direction = torch.nn.functional.cosine_similarity(whole.change.flatten(), half.change.float().flatten(), dim=0)
    assert direction > 0.7
    model = loaded("gpt2", dtype)
    module = model.module.get_submodule(half.name.removesuffix(".weight"))
    stored = as_out_in(module, model.weight(half.name)).float() + half.change
    assert torch.equal(stored, stored.to(model.dtype).float())  # the change leads to a number of the model's format


@pytest.mark.parametrize("name", [*QUICK, *SIDE])
def test_a_device_map_changes_no_edit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spread, plain = loaded("gpt2", device_map="auto"), loaded("gpt2")
    assert compute(name, spread).digest == compute(name, plain).digest


class Packed(nn.Linear):
    """A layer as a library for 4 bits keeps one: bytes in another shape, turned into numbers when it runs."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.scale = float(linear.weight.abs().max()) / 7
        levels = (linear.weight / self.scale).round().clamp(-7, 7).to(torch.int16) + 8
        pairs = levels.reshape(-1, 2)
        self.weight = nn.Parameter((pairs[:, :1] * 16 + pairs[:, 1:]).to(torch.uint8), requires_grad=False)
        if linear.bias is not None:
            self.bias = linear.bias

    def whole(self) -> torch.Tensor:
        """[d_out, d_in], the numbers the bytes stand for."""
        pairs = torch.cat([self.weight >> 4, self.weight & 15], dim=1).float() - 8
        return self.scale * pairs.reshape(self.out_features, self.in_features)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As a Linear of those numbers."""
        return nn.functional.linear(inputs, self.whole(), self.bias)


def packed() -> LanguageModel:
    """A tiny Llama whose blocks are held in 4 bits."""
    module, tokenizer = build_tiny("llama")
    for path, child in list(module.model.layers.named_modules(prefix="model.layers")):
        if isinstance(child, nn.Linear):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, Packed(child))
    return LanguageModel("packed", "0", module, tokenizer)


def offloaded() -> LanguageModel:
    """A tiny Llama whose weights are fetched when a layer runs."""
    module, tokenizer = build_tiny("llama")
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    return LanguageModel("offloaded", "0", module, tokenizer)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("make", "words"),
    [(packed, "packed holds its weights in 8 or 4 bits"), (offloaded, "offloaded does not fit in memory")],
)
def test_no_method_edits_weights_that_are_not_there(name: str, make: object, words: str) -> None:
    model = make()  # type: ignore[operator]
    config = least(name)
    with pytest.raises(ValueError, match=words):
        METHODS[name].compute(model, asked(name), config)
    if name in ("mend", "ke", "serac"):
        with pytest.raises(ValueError, match=words):
            make_trainer(name, model)


def least(name: str) -> object:
    """The method's settings where only the layer must be given."""
    config_type = METHODS[name].config_type
    fields = config_type.__dataclass_fields__
    return config_type(**({"layer": 1} if "layer" in fields else {}))


def test_a_packed_model_is_traced_like_its_numbers() -> None:
    """By replaying whole forwards, since nothing is known of such layers but what they give."""
    from facts import Fact
    from tests.tracing.agreement import LEVEL
    from tracing import TraceConfig, trace_all

    bits = packed()
    assert (bits.d_mlp, bits.dtype) == (48, torch.float32)
    module, tokenizer = build_tiny("llama")
    for path, child in list(module.named_modules()):
        other = bits.module.get_submodule(path)
        if isinstance(other, Packed):
            child.weight = nn.Parameter(other.whole(), requires_grad=False)
    whole = LanguageModel("whole", "0", module, tokenizer)
    fact = Fact.from_prompt("the Space Needle is in", "Space Needle", "Rome")
    configs = [TraceConfig(samples=2), TraceConfig(site="mlp_out", window=2, samples=2)]
    for one, other in zip(*(trace_all(m, fact, configs, level=LEVEL) for m in (bits, whole)), strict=True):
        assert (one.engine, other.engine) == ("replay", "packed")
        torch.testing.assert_close(torch.from_numpy(one.restored), torch.from_numpy(other.restored))
