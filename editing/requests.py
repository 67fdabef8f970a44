"""What is asked of a method, checked before any work; and the reader's progress through its stages."""

from __future__ import annotations

from collections.abc import Sequence

from editing.edit import Progress
from facts import EditRequest
from models import LanguageModel


def check_layer(model: LanguageModel, layer: int) -> None:
    """Hold a layer to those the model has.

    Raises:
        ValueError: if there is no such layer.
    """
    if layer >= model.n_layers:
        raise ValueError(f"layer {layer} is out of range: this model has layers 0 to {model.n_layers - 1}")


def check_batch(requests: Sequence[EditRequest]) -> None:
    """Hold a batch to one answer for each question.

    Raises:
        ValueError: if there is no request, or two ask the same question.
    """
    if not requests:
        raise ValueError("there is nothing to edit; give at least one request")
    seen: dict[str, EditRequest] = {}
    for request in requests:
        prompt = request.fact.prompt
        if prompt in seen:
            answers = f"{seen[prompt].target_new!r} and {request.target_new!r}"
            raise ValueError(f"two requests ask {prompt!r}, for {answers}; keep one of them")
        seen[prompt] = request


def single(requests: Sequence[EditRequest], title: str) -> EditRequest:
    """The only request.

    Raises:
        ValueError: if there is none or more than one.
    """
    if len(requests) != 1:
        raise ValueError(
            f"{title} takes one request at a time, but {len(requests)} were given; compute one edit for each, "
            "or choose a method for batches, such as memit"
        )
    return requests[0]


def part(progress: Progress | None, first: int, last: int) -> Progress | None:
    """Progress of one stage, in percent of the whole."""
    if progress is None:
        return None
    whole = progress
    return lambda done, total: whole(first + (last - first) * min(done, total) // max(total, 1), 100)
