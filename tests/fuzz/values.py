"""Values that a hostile or broken file may hold, and files that were changed in one place."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, 0, -1, 2**70, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "=1+1", "{}", "{0.__class__}",
    "x" * 5000, [], {}, [None], [[]], {"": ""}, {"a": {"b": [None]}}, "os.system", "../../etc/passwd", "<script>",
]  # fmt: skip
anything = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
texts = st.text(max_size=60) | st.sampled_from([value for value in ODD if isinstance(value, str)])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a JSON value."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        found += _places(part, (*path, key))
    return found


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """The JSON value with one to three places replaced, taken out or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        holder = value
        for key in path:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "drop", "rename"]))
        if how == "replace":
            holder[last] = copy.deepcopy(draw(anything))  # the next change may be inside it
        elif how == "drop":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(last)
    return value


@st.composite
def corrupted(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with a few bits flipped, a part cut out, or other bytes put in."""
    changed_bytes = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(changed_bytes) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "insert"]))
        if how == "flip" and changed_bytes:
            changed_bytes[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del changed_bytes[at : at + draw(st.integers(1, 200))]
        else:
            changed_bytes[at:at] = draw(st.binary(min_size=1, max_size=20))
    return bytes(changed_bytes)
