"""Read the header of a GGUF file within bounds, before anything is built from it.

The libraries that read GGUF map the file and trust its counts: a header of a few bytes that states 2^60 tensors keeps
them busy forever.  Here every count and length is checked against the file's size.  Format: version 2 or 3,
little-endian; a count of tensors and of key-value pairs, the pairs, the tensor table, and aligned data.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import _type_traits as dequantisable

from facts.regular import check_regular

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 100_000
_MAX_NAME_BYTES = 65_535  # the format's own limit for keys
_MAX_TEXT_BYTES = 10_000_000
_MAX_ARRAY = 8_000_000
_MAX_DIMENSIONS = 4
_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """In GGUF's order: the fastest dimension first."""
    format: str
    offset: int
    """From the start of the data, in bytes."""

    @property
    def n_elements(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.format]]
        return self.n_elements // per_block * block_bytes


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself."""

    values: dict[str, Any]
    """Key -> number or text; for an array the number of its entries."""
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """GGUF's name of the family."""
        return str(self.values.get("general.architecture", ""))

    def value(self, key: str) -> Any:
        """A value of the family's own, such as `block_count`, or None."""
        return self.values.get(f"{self.architecture}.{key}")

    @cached_property
    def n_elements(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def origin(self) -> str:
        """What the weights are stored as: the number formats of the matrices, the most frequent first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors:
            if len(tensor.shape) > 1:
                counts[tensor.format] += tensor.n_elements
        formats = [name for name, _ in counts.most_common()]
        listed = " and ".join(filter(None, [", ".join(formats[:-1]), *formats[-1:]]))
        return f"{'converted' if set(formats) <= set(_PLAIN) else 'dequantised'} from {listed}"


def read_table(path: Path) -> Header:
    """Read and check the header of a GGUF file; the weights are not touched, and torch is not imported.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an ordinary file, not whole, not GGUF, or of a number format that cannot be read; in
            one sentence.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the path of a GGUF file")
    check_regular(path, "give the path of a GGUF file")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            header, start = _Reader(file, size, path.name).header()
        except (struct.error, UnicodeDecodeError):
            raise ValueError(f"{path.name!r} ends within its header or is damaged; download it again") from None
    _check_tensors(header, size - start, path.name)
    return header


class _Reader:
    """Reads one header from the start of a file."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.size, self.name = file, size, name

    def header(self) -> tuple[Header, int]:
        """The header and the offset at which the data begins."""
        if self.file.read(4) != b"GGUF":
            raise ValueError(f"{self.name!r} is not a GGUF file: it does not begin with 'GGUF'")
        (version,) = self.numbers("I")
        if version not in (2, 3):
            raise ValueError(f"{self.name!r} is GGUF version {version}; versions 2 and 3 are read, little-endian")
        n_tensors, n_values = self.numbers("QQ")
        self.bounded(n_tensors, _MAX_ENTRIES, "tensors")
        self.bounded(n_values, _MAX_ENTRIES, "key-value pairs")
        values: dict[str, Any] = {}
        for _ in range(n_values):
            key = self.text(_MAX_NAME_BYTES)
            if key in values:
                raise ValueError(f"{self.name!r} states {key!r} twice")
            values[key] = self.value(self.numbers("I")[0])
        tensors = tuple(self.tensor() for _ in range(n_tensors))
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"{self.name!r} aligns its tensors to {alignment!r}; expected a power of two")
        return Header(values, tensors), -(-self.file.tell() // alignment) * alignment

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Little-endian numbers, by the letters of `struct`."""
        return struct.unpack(f"<{form}", self.file.read(struct.calcsize(f"<{form}")))

    def text(self, limit: int) -> str:
        """A string with its length before it."""
        (length,) = self.numbers("Q")
        self.bounded(length, min(limit, self.size), "bytes of text in one value")
        data = self.file.read(length)
        if len(data) < length:
            raise struct.error
        return data.decode()

    def value(self, kind: int) -> Any:
        """A number or text; of an array the number of its entries, which are skipped."""
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind])[0]
        if kind == _STRING:
            return self.text(_MAX_TEXT_BYTES)
        if kind != _ARRAY:
            raise ValueError(f"{self.name!r} holds a value of the unknown type {kind}; it is damaged or too new")
        entry, count = self.numbers("IQ")
        self.bounded(count, min(_MAX_ARRAY, self.size), "entries in one array")
        if entry in _SCALARS:
            self.file.seek(count * struct.calcsize(_SCALARS[entry]), 1)
        elif entry == _STRING:
            for _ in range(count):
                self.text(_MAX_TEXT_BYTES)
        else:
            raise ValueError(f"{self.name!r} holds an array of the type {entry}; arrays of numbers and texts are read")
        return count

    def tensor(self) -> Tensor:
        """One entry of the tensor table."""
        name = self.text(_MAX_NAME_BYTES)
        (n_dimensions,) = self.numbers("I")
        self.bounded(n_dimensions, _MAX_DIMENSIONS, f"dimensions of {name!r}")
        shape = self.numbers("Q" * n_dimensions)
        kind, offset = self.numbers("IQ")
        try:
            form = GGMLQuantizationType(kind)
        except ValueError:
            form = None
        if form is None or not (form.name in _PLAIN or form in dequantisable):
            listed = ", ".join([*_PLAIN, *sorted(known.name for known in dequantisable if known.name not in _PLAIN)])
            stated = form.name if form else f"number {kind}"
            raise ValueError(f"{self.name!r} stores {name!r} in the format {stated}, which cannot be read; of {listed}")
        return Tensor(name, shape, form.name, offset)

    def bounded(self, count: int, limit: int, what: str) -> None:
        """Refuse a count beyond its limit."""
        if count > limit:
            raise ValueError(
                f"{self.name!r} states {count} {what}, more than the {limit} that it can have; it is damaged"
            )


def _check_tensors(header: Header, data_bytes: int, name: str) -> None:
    """Every tensor lies within the file, and none is listed twice."""
    if not header.tensors:
        raise ValueError(f"{name!r} holds no tensors; give the file with the model's weights")
    seen: set[str] = set()
    for tensor in header.tensors:
        if tensor.name in seen:
            raise ValueError(f"{name!r} lists the tensor {tensor.name!r} twice; it is damaged")
        seen.add(tensor.name)
        per_block = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.format]][0]
        if not tensor.n_elements or tensor.shape[0] % per_block:
            raise ValueError(
                f"{name!r} states the shape {list(tensor.shape)} for {tensor.name!r}, which it cannot have"
            )
        if tensor.offset + tensor.n_bytes > data_bytes:
            raise ValueError(f"{name!r} ends before its tensor {tensor.name!r} does; download it again")
