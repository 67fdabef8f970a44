"""Eigenvalues and eigenvectors of a second moment, cached on disk: for wide layers they are the costliest step.

The digest of the matrix names the file, and the file holds a digest of its own content; a damaged file is computed
again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from editing.parts.moments import Moment, checksum, write_file
from models.sources.cache import cache_folder, mark_used

LARGEST = 4096
"""Widest matrix whose spectrum is cached: 8 bytes x 4096^2 = 134 MB."""


def spectrum(moment: Moment, folder: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues [d_mlp], rising, and eigenvectors [d_mlp, d_mlp], in columns, of a second moment; float64."""
    place = (cache_folder() if folder is None else folder) / "spectra"
    path = place / f"{checksum(moment.matrix)}.safetensors"
    result = _read(path, len(moment.matrix))
    if result is None:
        values, vectors = torch.linalg.eigh(moment.matrix.double())
        result = values, vectors.contiguous()
        if len(values) <= LARGEST:
            write_file(path, {"values": values, "vectors": result[1]}, {"sha256": checksum(result[1])})
    return result


def _read(path: Path, width: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, values, vectors = file.metadata() or {}, file.get_tensor("values"), file.get_tensor("vectors")
        mark_used(path)
        intact = values.shape == (width,) and vectors.shape == (width, width)
        return (values, vectors) if intact and checksum(vectors) == metadata["sha256"] else None
    except (OSError, SafetensorError, KeyError):
        return None
