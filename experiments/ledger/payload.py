"""A result as bytes: one line of JSON, then each array as .npy.  No pickle, and equal results give equal bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.plan import canonical

LARGEST = 64 * 2**20
"""Most bytes of one result.  SQLite takes more, but a row is sent, hashed, written and read in one piece, and readers
hold several rows at once."""


class ResultTooLargeError(ValueError):
    """A cell's result is larger than `LARGEST`; computing it again would not help."""


def encode(result: Mapping[str, Any]) -> bytes:
    """The result's bytes.

    Args:
        result: JSON values, and numpy arrays of numbers or booleans at the top level; NaN is allowed in arrays only.

    Raises:
        ValueError: if a value is neither.
        ResultTooLargeError: if the result is larger than `LARGEST`.
    """
    arrays = {name: value for name, value in sorted(result.items()) if isinstance(value, np.ndarray)}
    values = {name: value for name, value in result.items() if name not in arrays}
    buffer = io.BytesIO()
    buffer.write(canonical({"values": values, "arrays": list(arrays)}).encode() + b"\n")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"the array {name!r} holds {array.dtype}; expected numbers or booleans")
        np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    if buffer.tell() > LARGEST:
        raise ResultTooLargeError(
            f"the cell's result takes {buffer.tell() / 2**20:.1f} MiB, and at most {LARGEST / 2**20:g} MiB of one are "
            "kept; ask for less in a cell, such as fewer facts or positions, and for the rest in further cells"
        )
    return buffer.getvalue()


def decode(payload: bytes) -> dict[str, Any]:
    """What `encode` was given; tuples come back as lists."""
    buffer = io.BytesIO(payload)
    header = json.loads(buffer.readline())
    result: dict[str, Any] = dict(header["values"])
    for name in header["arrays"]:
        result[name] = np.lib.format.read_array(buffer, allow_pickle=False)
    return result
