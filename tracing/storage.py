"""Results on disk: an .npz with the arrays and everything else as JSON.  No pickle, so opening a file is safe."""

from __future__ import annotations

import json
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np

from facts.records import as_tuples
from facts.regular import check_regular

BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError, MemoryError, EOFError, OSError),
    *(KeyError, ValueError, TypeError, AttributeError, IndexError),
)
"""What reading raises for an archive that is damaged, encrypted or claims to be huge, and for parts of other kinds."""


@contextmanager
def saved(path: str | Path) -> Iterator[None]:
    """Refuse what is not as it was saved in one sentence.

    Raises:
        ValueError: naming the file.
    """
    try:
        yield
    except BROKEN:
        raise ValueError(f"{str(path)!r} is not a saved result of a trace or a lens") from None


class Stored:
    """Saving, loading and JSON for a frozen dataclass of plain values, tuples, arrays and mappings of arrays."""

    KIND: ClassVar[str]
    """Names the kind of result and its version in the file."""
    NESTED: ClassVar[Mapping[str, type]] = {}
    """Field -> the dataclass it holds, or holds a tuple of."""

    def save(self, path: str | Path) -> None:
        """Write the result to an .npz file, whatever the name's ending."""
        arrays, header = self._parts()
        text = json.dumps({"kind": self.KIND} | header, ensure_ascii=False, allow_nan=False)
        with open(path, "wb") as file:
            np.savez_compressed(file, header=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds something else.
        """
        header, arrays = read(path)
        if header.pop("kind") != cls.KIND:
            raise ValueError(f"{str(path)!r} holds no {cls.__name__}; expected what {cls.__name__}.save wrote")
        with saved(path):
            values: dict[str, Any] = {name: as_tuples(value) for name, value in header.items()}
            for name, kind in cls.NESTED.items():
                held = header[name]
                values[name] = kind(**held) if isinstance(held, dict) else tuple(kind(**each) for each in held)
            for key, array in arrays.items():
                name, slash, inner = key.partition("/")
                if slash:
                    values.setdefault(name, {})[inner] = array
                else:
                    values[name] = array
            return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain values; NaN becomes None."""
        arrays, record = self._parts()
        for key, array in arrays.items():
            name, slash, inner = key.partition("/")
            if slash:
                record.setdefault(name, {})[inner] = plain(array)
            else:
                record[name] = plain(array)
        return {"kind": self.KIND} | record

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def _parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(arrays by name, with "field/key" for those in a mapping, and the other fields as JSON-ready values)."""
        arrays: dict[str, Any] = {}
        header: dict[str, Any] = {}
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = value
            elif isinstance(value, dict) and all(isinstance(inner, np.ndarray) for inner in value.values()):
                arrays |= {f"{field.name}/{key}": inner for key, inner in value.items()}
            else:
                header[field.name] = _jsonable(value)
        return arrays, header


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header with its "kind", arrays by name) of a saved result.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a saved result.
    """
    check_regular(path, "give the path of a saved trace or lens")
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    # opened here, since np.load leaves a broken archive open
    with saved(path), open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
        header: dict[str, Any] = dict(json.loads(arrays.pop("header").tobytes().decode()))
        if "kind" not in header:
            header["kind"] = header["format"]  # how a trace names it
    return header, arrays


def plain(array: np.ndarray[Any, Any]) -> Any:
    """An array as nested lists, NaN as None."""
    if array.ndim:
        return [plain(row) for row in array]
    value = array.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_jsonable(inner) for inner in value] if isinstance(value, tuple) else value
