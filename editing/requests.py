"""Checks of what a method is given, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from facts import EditRequest
from models import LanguageModel


def check_layer(model: LanguageModel, layer: int) -> None:
    """Check that the model has this layer.

    Raises:
        ValueError: if there is no such layer.
    """
    if not 0 <= layer < model.n_layers:
        raise ValueError(f"layer {layer} is out of range: this model has layers 0 to {model.n_layers - 1}")


def check_editable(model: LanguageModel) -> None:
    """Check that edits can be computed from a model's weights.

    Raises:
        ValueError: if some weights are quantised, not in memory, or on a device without float64.
    """
    weights = list(model.module.parameters())
    if any(not weight.is_floating_point() for weight in weights):
        raise ValueError(
            f"{model.name} holds its weights in 8 or 4 bits, which allows traces only; load it without --load "
            "to edit it"
        )
    if any(weight.is_meta for weight in weights):
        raise ValueError(
            f"{model.name} does not fit in memory and keeps weights elsewhere, which allows traces only; to edit it, "
            "load it without --device-map on a machine with more memory, or in bfloat16"
        )
    if model.device.type == "mps":
        raise ValueError("edits are computed in float64, which the device mps does not have; give --device cpu")


def check_batch(model: LanguageModel, requests: Sequence[EditRequest]) -> None:
    """Check a batch: the model can be edited, and every prompt is given one new answer.

    Raises:
        ValueError: as `check_editable`, and if there is no request, or two have the same prompt.
    """
    check_editable(model)
    if not requests:
        raise ValueError("there is nothing to edit; give at least one request")
    seen: dict[str, EditRequest] = {}
    for request in requests:
        prompt = request.fact.prompt
        if prompt in seen:
            answers = f"{seen[prompt].target_new!r} and {request.target_new!r}"
            raise ValueError(
                f"two requests have the prompt {prompt!r}, with the new answers {answers}; keep one of them"
            )
        seen[prompt] = request


def check_single(model: LanguageModel, requests: Sequence[EditRequest], title: str) -> None:
    """Check that the model can be edited and that there is exactly one request.

    Raises:
        ValueError: as `check_editable`, and if there is none or more than one.
    """
    check_editable(model)
    if len(requests) != 1:
        raise ValueError(
            f"{title} takes one request at a time, but {len(requests)} were given; compute one edit for each, "
            "or choose a method for batches, such as memit"
        )
