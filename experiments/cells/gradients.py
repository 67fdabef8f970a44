"""The kind `gradients`: how the gradients of a fact's old and new answer agree in each layer's MLP.  Settings:

    fact         {"subject", "template", "target_true", "relation"}
    target_new   the answer that an edit would write

Layer Gradient Analysis (Datta et al. 2026, arXiv:2602.20207) ranks layers by the inner product

    LGA(l) = < dL_old / dW_l , dL_new / dW_l >

of the gradients of the mean negative log-likelihood of the old and of the new answer after the prompt, averaged over
facts.  W_l is here the down-projection of the layer's MLP, which is what rank-one edits change.  With its inputs k_t
and the gradients g_t at its outputs, dL / dW = sum_t g_t k_t^T, so the inner product is sum_{t,s} (g_t . g'_s)
(k_t . k'_s), and no gradient of the size of the weight is ever held.

The result has `inner`, `old` and `new` [layer]: the inner product and the two gradients' norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.cells import trace as trace_cells
from experiments.kinds import Context, kind
from experiments.plan import Spec, digest
from facts import Fact

if TYPE_CHECKING:
    from torch import Tensor

    from models import LanguageModel

SETTINGS = ("fact", "target_new")


def complete(spec: Spec) -> Spec:
    """The settings.

    Raises:
        ValueError: if one is missing or unknown.
    """
    if set(spec) != set(SETTINGS):
        raise ValueError(f"gradients take {' and '.join(SETTINGS)}; given are {', '.join(sorted(spec)) or 'none'}")
    return dict(spec)


@kind("gradients", version=1, complete=complete, group=digest, estimate_bytes=trace_cells.least_bytes)
def gradients(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Two passes back and forth."""
    import numpy as np

    fact = Fact(**spec["fact"])
    old, new = (mlp_gradients(model, fact.prompt, answer) for answer in (fact.target_true, spec["target_new"]))

    def inner(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> Any:
        products = [
            float(((keys @ others.T) * (slopes @ bends.T)).sum())
            for (keys, slopes), (others, bends) in zip(first, second, strict=True)
        ]
        return np.array(products, dtype=np.float64)

    return {"inner": inner(old, new), "old": np.sqrt(inner(old, old)), "new": np.sqrt(inner(new, new))}


def mlp_gradients(model: LanguageModel, prompt: str, answer: str) -> list[tuple[Tensor, Tensor]]:
    """For each layer, the inputs of the MLP's down-projection [pos, d_mlp] and the gradients at its outputs
    [pos, d_model], float64, of the mean negative log-likelihood of the answer's tokens.

    Raises:
        ValueError: if the prompt does not fit the model, or its MLPs are mixtures of experts.
    """
    import torch

    from models import join
    from models.forwards.hooks import hung

    ids, n_prompt = join(model, prompt, answer)
    rows = torch.tensor([ids], device=model.device)
    keys: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}

    def begin(value: Tensor) -> Tensor:
        return value.detach().requires_grad_(True)

    def keep_key(layer: int, value: Tensor) -> None:
        keys[layer] = value

    def keep_output(layer: int, value: Tensor) -> Tensor:
        outputs[layer] = value
        return value.clone()  # some families add to a module's output in place

    visits: dict[Any, Any] = {("embed", 0): begin}
    for layer in range(model.n_layers):
        visits["mlp_key", layer] = lambda value, layer=layer: keep_key(layer, value)
        visits["mlp_out", layer] = lambda value, layer=layer: keep_output(layer, value)
    with torch.enable_grad(), model.lock, hung(model, visits, len(ids)):
        logits = model.module(input_ids=rows, use_cache=False).logits[0, n_prompt - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.float(), rows[0, n_prompt:])
        slopes = torch.autograd.grad(loss, list(outputs.values()))
    return [
        (keys[layer][0].detach().double().cpu(), slope[0].double().cpu())
        for layer, slope in zip(outputs, slopes, strict=True)
    ]
