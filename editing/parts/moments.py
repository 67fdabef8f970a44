"""The second moment of the keys, C = E[k k^T]: which keys the down-projection usually receives.

Meng et al. 2022, section 3.1 and appendix E.5 (arXiv:2202.05262).  C is uncentred and a *mean* over tokens, as in the
public code (`layer_stats.py`).  ROME divides by it, so that a new key disturbs the usual ones least.  The estimate is
streamed over batches and summed in float64.  It is cached on disk under the weights' revision, the layer, the corpus's
digest and the number of tokens; a damaged file is computed again.

The first token of a text, an attention sink with keys of another size, counts like the others although it holds half of
C's trace in some layers: without it an edit there moves the first token of every text twice as far and spares nothing
else (docs/performance.md).
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from editing.parts.settings import MomentSettings
from facts.regular import check_regular
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, pad
from models.forwards.hooks import visit_states
from models.reference.corpus import sample_texts
from models.sources.cache import cache_folder, mark_used, trim

STAGE = "second moments of the keys, once per model"
BATCH_TOKENS = 2048
"""Tokens in one forward pass, padding included."""
MOST_ENTRIES = 2**27
"""Most entries of the matrices that one set of passes estimates: 1 GiB in float64."""
DEPTHS = (0.25, 0.5, 1.0)
"""Shares of the depth at which a set of passes may stop: most edits are early, and a pass to a quarter of the depth
takes a quarter of the time."""
BLOCK = 512
"""Rows of a matrix that are computed at once, each from the diagonal on."""


@dataclass(frozen=True, eq=False)
class Moment:
    """An estimate of C, with the number of tokens behind it."""

    matrix: torch.Tensor
    """[d_mlp, d_mlp], float32."""
    n_tokens: int
    condition_number: float
    """Largest over smallest eigenvalue, infinite when C is singular to float64 rounding."""
    source: str
    """What it was estimated from, for display."""


def identity(d_mlp: int) -> Moment:
    """C = I: the update then points along the key itself, which disturbs other keys more."""
    return Moment(torch.eye(d_mlp), 0, 1.0, "C = I (no second moment)")


def corpus_digest(texts: Sequence[str]) -> str:
    """sha256 over the texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def condition_number(matrix: torch.Tensor) -> float:
    """Largest over smallest eigenvalue of a symmetric positive semidefinite matrix [d, d]."""
    values = torch.linalg.eigvalsh(matrix.double())
    smallest, largest = float(values[0]), float(values[-1])
    # A smallest eigenvalue below the float64 rounding of the largest is noise.
    return largest / smallest if smallest > largest * 1e-15 else float("inf")


def estimate(
    model: LanguageModel,
    layers: Sequence[int],
    texts: Sequence[str],
    max_tokens: int,
    *,
    skip: int = 0,
    source: str = "texts",
    watch: Watch = UNWATCHED,
) -> dict[int, Moment]:
    """C of several layers from the first `max_tokens` tokens of the texts, in one set of forward passes.

    Leaves the condition numbers as NaN, because on wide models they cost more than the estimate (`condition_number`).

    Args:
        skip: tokens at the beginning of each text that are read but not counted.

    Raises:
        ValueError: if the texts hold no token.
        Cancelled: if `watch` says to stop.
    """
    sums = {layer: torch.zeros(model.d_mlp, model.d_mlp, dtype=torch.float64) for layer in layers}
    seen = 0
    watch.step(0, max_tokens, STAGE)
    for rows in _batches(model, texts, max_tokens, skip):
        ids, lengths = pad(rows, model.pad_id)
        positions = torch.arange(ids.shape[1])
        mask = ((positions >= skip) & (positions < lengths[:, None])).to(model.device)
        visit_states(model, ids, {("mlp_key", layer): _Adding(total, mask) for layer, total in sums.items()})
        seen += int(mask.sum())
        watch.step(seen, max_tokens)
    if not seen:
        raise ValueError("the corpus for the second moment holds no text; give a file with sentences")
    label = f"{seen:,} tokens of {source}"
    return {layer: Moment(_mirrored(total / seen).float(), seen, math.nan, label) for layer, total in sums.items()}


@dataclass(frozen=True, eq=False)
class _Adding:
    """Adds the keys of one forward pass to a layer's sum at once, so that memory holds one layer's keys only."""

    total: torch.Tensor
    """[d_mlp, d_mlp], float64; complete on and above the diagonal blocks."""
    mask: torch.Tensor
    """[row, pos], which positions are tokens."""

    def __call__(self, states: torch.Tensor) -> None:
        keys = states[self.mask].float()
        for start in range(0, len(self.total), BLOCK):
            product = keys[:, start : start + BLOCK].T @ keys[:, start:]
            self.total[start : start + BLOCK, start:] += product.cpu()


def _mirrored(total: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix with this upper triangle."""
    return total.triu() + total.triu(1).T


def _batches(model: LanguageModel, texts: Sequence[str], max_tokens: int, skip: int) -> Iterator[list[list[int]]]:
    """The first `max_tokens` tokens behind the skipped ones as rows of ids, at most `BATCH_TOKENS` padded tokens a
    batch."""
    left, pieces = max_tokens, list[list[int]]()
    for ids in _pieces(model, texts):
        if len(ids) <= skip:
            continue
        pieces.append(ids[: skip + left])
        left -= len(pieces[-1]) - skip
        if not left:
            break
    rows: list[list[int]] = []
    for piece in sorted(pieces, key=len):  # rows of like length need little padding
        if rows and len(piece) * (len(rows) + 1) > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(piece)
    if rows:
        yield rows


def _pieces(model: LanguageModel, texts: Sequence[str]) -> Iterator[list[int]]:
    """Every text as token ids, cut where the model's context ends, and first where it takes no more characters."""
    for text in texts:
        for begin in range(0, len(text), model.most_characters):
            part = text[begin : begin + model.most_characters]
            ids = model.tokenize(part) if part.strip() else []
            for start in range(0, len(ids), model.max_positions):
                yield ids[start : start + model.max_positions]


def regular(moment: Moment, ridge: float) -> torch.Tensor:
    """C + ridge x its mean eigenvalue x I: [d_mlp, d_mlp], float64."""
    matrix = moment.matrix.double()
    return matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)


def factor(matrix: torch.Tensor) -> torch.Tensor:
    """The lower Cholesky factor of a positive definite matrix [d, d] in float64.

    Raises:
        ValueError: if it is not positive definite to rounding.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise ValueError("the second moment of the keys is singular; raise moment_tokens or ridge")
    return lower


def load_or_estimate(
    model: LanguageModel,
    layer: int,
    texts: Sequence[str],
    max_tokens: int,
    *,
    source: str = "texts",
    folder: Path | None = None,
    watch: Watch = UNWATCHED,
) -> Moment:
    """C of one layer with its condition number, from the cache if possible.

    The same passes estimate and cache the other layers up to a quarter, half or all of the depth, whichever holds this
    layer first, as far as they fit in memory.

    Raises:
        ValueError, Cancelled: see `estimate`.
    """
    place = (cache_folder() if folder is None else folder) / "moments"
    stem = f"{model.revision[:16]}-{corpus_digest(texts)[:16]}-{max_tokens}"
    files = [place / f"{stem}-{index}.safetensors" for index in range(model.n_layers)]
    moment = _read(files[layer], model.d_mlp)
    if moment is None:
        missing = [other for other in _together(model, layer) if other == layer or not files[other].exists()]
        estimates = estimate(model, missing, texts, max_tokens, source=source, watch=watch)
        for other, estimated in estimates.items():
            if other != layer:
                _write(files[other], estimated)
        moment = estimates[layer]
    elif moment.condition_number == moment.condition_number:  # not NaN: written by an earlier request for this layer
        return moment
    moment = replace(moment, condition_number=condition_number(moment.matrix))
    _write(files[layer], moment)
    return moment


def _together(model: LanguageModel, layer: int) -> range:
    """The layers that are estimated in the passes for one."""
    end = next(end for share in DEPTHS if (end := math.ceil(share * model.n_layers)) > layer)
    most = max(1, MOST_ENTRIES // model.d_mlp**2)
    first = layer // most * most
    return range(first, min(first + most, end))


def moment_for(
    base: LanguageModel,
    layer: int,
    settings: MomentSettings,
    *,
    watch: Watch = UNWATCHED,
) -> Moment:
    """The second moment for a method's settings.

    Args:
        base: the unedited model; its keys are the old keys, so a thousand edits in a row need one estimate.

    Raises:
        FileNotFoundError: if the corpus file does not exist.
        ValueError, Cancelled: see `estimate`.
    """
    if settings.second_moment == "identity":
        return identity(base.d_mlp)
    if settings.corpus:
        path = Path(settings.corpus)
        check_regular(path, "give a text file with a document a line")
        if not path.exists():
            raise FileNotFoundError(f"there is no text file {settings.corpus!r}; give one with a document a line")
        texts, source = path.read_text(encoding="utf-8").splitlines(), path.name
    else:
        # every document has several tokens, so this many suffice
        texts, source = _bundled(max(1, settings.moment_tokens // 8)), "the bundled corpus"
    return load_or_estimate(base, layer, texts, settings.moment_tokens, source=source, watch=watch)


@lru_cache(maxsize=1)
def _bundled(n: int) -> list[str]:
    """The first `n` documents of the bundled corpus; cached because every edit needs them."""
    return sample_texts(n)


def checksum(matrix: torch.Tensor) -> str:
    """sha256 over the bytes of a tensor on the CPU."""
    return hashlib.sha256(matrix.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _write(path: Path, moment: Moment) -> None:
    metadata = {
        "n_tokens": str(moment.n_tokens),
        "condition_number": repr(moment.condition_number),
        "source": moment.source,
        "sha256": checksum(moment.matrix),
    }
    write_file(path, {"matrix": moment.matrix.contiguous()}, metadata)


def write_file(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write atomically: beside the final path, then rename; then keep the cache within its cap.

    Ignores errors, because the file is only a cache.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError):
        return
    trim(path.parent.parent)


def _read(path: Path, d_mlp: int) -> Moment | None:
    """The cached estimate; None if there is none or the file is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, matrix = file.metadata() or {}, file.get_tensor("matrix")
        intact = matrix.shape == (d_mlp, d_mlp) and checksum(matrix) == metadata["sha256"]
        number = float(metadata["condition_number"])
        mark_used(path)
        return Moment(matrix, int(metadata["n_tokens"]), number, metadata["source"]) if intact else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
