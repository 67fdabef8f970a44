"""A result as bytes: one line of JSON, then each array as .npy.  No pickle, and equal results give equal bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.plan import canonical

LARGEST = 64 * 2**20
"""Bytes of one result; SQLite takes more, but a row is read and written in one piece."""


def encode(result: Mapping[str, Any]) -> bytes:
    """The result's bytes.

    Args:
        result: JSON values, and numpy arrays of numbers or booleans at the top level; JSON has no NaN, arrays may.

    Raises:
        ValueError: if a value is neither, or the whole is too large.
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
        raise ValueError(f"the result takes {buffer.tell()} bytes; at most {LARGEST} are kept, so store less of it")
    return buffer.getvalue()


def decode(payload: bytes) -> dict[str, Any]:
    """What `encode` was given; tuples come back as lists."""
    buffer = io.BytesIO(payload)
    header = json.loads(buffer.readline())
    result: dict[str, Any] = dict(header["values"])
    for name in header["arrays"]:
        result[name] = np.lib.format.read_array(buffer, allow_pickle=False)
    return result
