"""What is asked of a method, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from facts import EditRequest
from models import LanguageModel


def check_layer(model: LanguageModel, layer: int) -> None:
    """Hold a layer to those the model has.

    Raises:
        ValueError: if there is no such layer.
    """
    if layer >= model.n_layers:
        raise ValueError(f"layer {layer} is out of range: this model has layers 0 to {model.n_layers - 1}")


def check_editable(model: LanguageModel) -> None:
    """Hold a model to weights that an edit can be computed from and written into.

    Raises:
        ValueError: if some weights are quantised, not in memory, or on a device without float64.
    """
    weights = list(model.module.parameters())
    if any(not weight.is_floating_point() for weight in weights):
        raise ValueError(
            f"{model.name} holds its weights in 8 or 4 bits, which serves traces only; load it whole, without --load, "
            "to edit it"
        )
    if any(weight.is_meta for weight in weights):
        raise ValueError(
            f"{model.name} does not fit in memory and keeps weights elsewhere, which serves traces only; load it "
            "without --device-map on a machine with more memory, or in bfloat16, to edit it"
        )
    if model.device.type == "mps":
        raise ValueError("edits are solved in float64, which the device mps lacks; say --device cpu to edit the model")


def check_batch(model: LanguageModel, requests: Sequence[EditRequest]) -> None:
    """Hold a batch to a model that can be edited, and to one answer for each question.

    Raises:
        ValueError: as `check_editable`, and if there is no request, or two ask the same question.
    """
    check_editable(model)
    if not requests:
        raise ValueError("there is nothing to edit; give at least one request")
    seen: dict[str, EditRequest] = {}
    for request in requests:
        prompt = request.fact.prompt
        if prompt in seen:
            answers = f"{seen[prompt].target_new!r} and {request.target_new!r}"
            raise ValueError(f"two requests ask {prompt!r}, for {answers}; keep one of them")
        seen[prompt] = request


def check_single(model: LanguageModel, requests: Sequence[EditRequest], title: str) -> None:
    """Hold what a method without batches is given to one request, and to a model that can be edited.

    Raises:
        ValueError: as `check_editable`, and if there is none or more than one.
    """
    check_editable(model)
    if len(requests) != 1:
        raise ValueError(
            f"{title} takes one request at a time, but {len(requests)} were given; compute one edit for each, "
            "or choose a method for batches, such as memit"
        )
