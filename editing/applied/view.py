"""The view of a model with some edits: a model like any other, which shares every tensor that the edits do not change.

Edits nest in one order, Prompt(Route(Weights)):

    weights     changes of one weight are summed in sorted order, so that the sum does not depend on the order of edits;
                codebooks and side weights act on top, built from the edits in their order
    route       a counterfactual model answers prompts in the scope of a stored edit, behind that edit's context;
                the prompt alone decides, as the user wrote it
    prompt      every other prompt is read behind the prefix of the prompt edits

To remove an edit, build the view without it from the same base: (W + delta) - delta would not be W in floating point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from editing import prefix
from editing.applied import codebook, router, side
from editing.applied.router import Memory
from editing.applied.weights import changed, summed
from editing.edit import Edit
from editing.ops import CodebookOp, DenseDelta, PromptOp, SideOp, WeightDelta
from models import LanguageModel, Sampling, as_out_in
from models.views import LowRank, Rewrite

T = TypeVar("T")


class EditedModel(LanguageModel):
    """A model with edits, made by `apply_edits`.  Never changes the base.

    Attributes:
        base: the unedited model.
        edits: those in it, oldest first.
        prefix: token ids put before every prompt.
    """

    def __init__(
        self,
        base: LanguageModel,
        edits: Sequence[Edit],
        inner: LanguageModel,
        prefix: Sequence[int],
        memories: Sequence[Memory],
    ) -> None:
        super().__init__(base.name, inner.revision, inner.module, base.tokenizer)
        self.lock, self.chat, self.findings = inner.lock, base.chat, base.findings
        self.base, self.edits, self.prefix = base, tuple(edits), tuple(prefix)
        self._inner, self._memories = inner, tuple(memories)

    @property
    def plain(self) -> bool:
        """As `LanguageModel.plain`; not with words before the prompt or answers of another model."""
        return not self.prefix and not self._memories and self._inner.plain

    @property
    def bare(self) -> LanguageModel:
        """As `LanguageModel.bare`; a memory decides by the prompt without the words before it, so it keeps the view."""
        return self._inner if self.prefix and not self._memories else self

    def behind_prefix(self, row: Sequence[int]) -> tuple[list[int], int]:
        """As `LanguageModel.behind_prefix`."""
        return prefix.behind(self.base, self.prefix, row)

    @property
    def max_positions(self) -> int:
        """Longest sequence that fits behind the longest prefix or context, in tokens."""
        contexts = (context for memory in self._memories for op in memory.ops for context in op.contexts)
        return self.base.max_positions - max(len(self.prefix), *map(len, contexts), 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on this set of edits, a sentence each."""
        active = {edit.digest for edit in self.edits}
        return tuple(
            f"{edit.method}: {edit.requests[0].fact.prompt!r} was computed on top of edits that have been removed; "
            "its effect may differ"
            for edit in self.edits
            if not active.issuperset(edit.parents)
        )

    def as_hosted(self) -> tuple[LanguageModel, Sequence[LowRank]]:
        """As `LanguageModel.as_hosted`; the changes of one layer are joined."""
        changes: dict[str, list[WeightDelta]] = {}
        for edit in self.edits:
            for op in edit.ops:
                if not isinstance(op, WeightDelta):
                    raise ValueError(
                        f"an edit by {edit.method!r} is not a change of weights of low rank, so it cannot be sent to a "
                        "host; use R-ROME or MEMIT, or run it here"
                    )
                changes.setdefault(op.name.removesuffix(".weight"), []).append(op)
        return self.base, [
            LowRank(path, torch.cat([op.rows for op in ops], dim=1), torch.cat([op.cols for op in ops]))
            for path, ops in changes.items()
        ]

    def as_chat(self) -> EditedModel:
        """As `LanguageModel.as_chat`; what the edits put before a prompt then stands in the user's turn."""
        return apply_edits(self.base.as_chat(), self.edits, force=True)  # they are in this view already

    def with_edit(self, edit: Edit, *, force: bool = False) -> EditedModel:
        """The view with one more edit."""
        return apply_edits(self, [edit], force=force)

    def without(self, digest: str) -> EditedModel:
        """The view with one edit fewer.

        Raises:
            ValueError: if there is no such edit in it.
        """
        kept = [edit for edit in self.edits if edit.digest != digest]
        if len(kept) == len(self.edits):
            raise ValueError(f"the model has no edit {digest[:12]!r}; it has {[e.digest[:12] for e in self.edits]}")
        return apply_edits(self.base, kept)

    @torch.no_grad()
    def logits(
        self,
        input_ids: torch.Tensor,
        lengths: Sequence[int] | torch.Tensor | None = None,
        prompt_lengths: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `LanguageModel.logits`."""
        ids = self.checked_ids(input_ids)
        ends = self.prompt_ends(ids, lengths, prompt_lengths)
        if not self.prefix and not self._memories:
            return self._inner.logits(ids, lengths, ends)
        stops = [ids.shape[1]] * len(ids) if lengths is None else torch.as_tensor(lengths).tolist()
        rows = [row[:stop] for row, stop in zip(ids.tolist(), stops, strict=True)]
        logits = torch.zeros(*ids.shape, self.d_vocab, device=self.device)
        for row, own in enumerate(self.logits_where(rows, [range(stop) for stop in stops], ends.tolist())):
            logits[row, : len(own)] = own
        return logits

    def logits_where(
        self,
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int] | None = None,
    ) -> list[torch.Tensor]:
        """As `LanguageModel.logits_where`; one batch computes all rows, then routed rows are replaced."""
        ends = [len(row) for row in rows] if prompt_lengths is None else list(prompt_lengths)
        logits = self._read(self._inner, self.prefix, rows, places, ends)
        for index, (row, end) in enumerate(zip(rows, ends, strict=True) if self._memories else ()):
            routed = self.route(row[:end])
            if routed is not None:
                memory, context = routed
                (logits[index],) = self._read(memory.answers, context, [row], [places[index]], [end])
        return logits

    def _read(
        self,
        model: LanguageModel,
        before: Sequence[int],
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        ends: Sequence[int],
    ) -> list[torch.Tensor]:
        """`logits_where` of rows that a model reads behind other tokens, which do not count in `places` and `ends`."""
        whole, leads = zip(*(prefix.behind(self.base, before, row) for row in rows), strict=True)
        shift = len(before)
        own = [[pos + shift * (pos >= lead) for pos in some] for some, lead in zip(places, leads, strict=True)]
        return model.logits_where(whole, own, [end + shift for end in ends])

    def continuations(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, begun: Sequence[Sequence[int]] | None = None
    ) -> list[list[int]]:
        """As `LanguageModel.continuations`."""
        first = [()] * len(rows) if begun is None else begun
        behind = [self.behind_prefix(row)[0] for row in rows]
        continued = self._inner.continuations(behind, max_new_tokens, first)
        for index, row in enumerate(rows):
            routed = self.route(list(row))
            if routed is not None:
                memory, context = routed
                read, _ = prefix.behind(self.base, context, row)
                continued[index] = memory.answers.continuations([read], max_new_tokens, [first[index]])[0]
        return continued

    def drawn(self, rows: Sequence[Sequence[int]], length: int, sampling: Sampling) -> list[list[int]]:
        """As `LanguageModel.drawn`; a prefix or context does not count towards `length`."""
        behind = [self.behind_prefix(row)[0] for row in rows]
        drawn = self._inner.drawn(behind, length + len(self.prefix), sampling)
        for index, row in enumerate(rows):
            routed = self.route(list(row))
            if routed is not None:
                memory, context = routed
                read, _ = prefix.behind(self.base, context, row)
                drawn[index] = memory.answers.drawn([read], length + len(context), sampling)[0]
        return drawn

    def route(self, prompt: Sequence[int]) -> tuple[Memory, tuple[int, ...]] | None:
        """The memory and context that answer a prompt; None if it is in no stored edit's scope."""
        hits = [(memory, memory.find(self.base, prompt)) for memory in self._memories]
        in_scope = [(hit[0], memory, hit[1]) for memory, hit in hits if hit is not None]
        if not in_scope:
            return None
        _, memory, context = max(in_scope, key=lambda scored: scored[0])
        return memory, context


def apply_edits(model: LanguageModel, edits: Sequence[Edit], *, force: bool = False) -> EditedModel:
    """A view of `model` with all edits; `model` itself does not change.

    Leave an edit out of `edits` to remove it: the view is always built from the base, so this is exact.

    Args:
        model: the base, or a view, to whose edits these are added.
        edits: oldest first.  Each was computed from the base, from `model`, or from the view with those before it.
        force: also apply an edit that was computed from other weights.

    Raises:
        ValueError: if an edit belongs to other weights, names an unknown weight, or has another shape; if the prefix
            leaves no room; if a router is not there.
    """
    base, active = (model.base, model.edits) if isinstance(model, EditedModel) else (model, ())
    for edit in edits:
        revision = _revision(base, active)
        if edit.model_revision not in (base.revision, model.revision, revision) and not force:
            raise ValueError(
                f"the edit was computed from weights {edit.model_revision[:12]}, but model {model.name!r} has "
                f"{revision[:12]}; load the model it was made for, give the edits that were in that model before it, "
                "or force it"
            )
        _check_sizes(base, edit)
        active = (*active, on_base(edit, base, active))
    inner = _weights_view(base, active)
    return EditedModel(base, active, inner, prefix.fold(base, _told(active)), router.memories(base, active))


def on_base(edit: Edit, base: LanguageModel, active: Sequence[Edit]) -> Edit:
    """The edit as one of the base; one that was computed on a view records that view's edits as its parents."""
    if edit.model_revision == base.revision:
        return edit
    parents = tuple(parent.digest for parent in active)
    return replace(edit, model_revision=base.revision, parents=edit.parents or parents)


def _told(edits: Sequence[Edit]) -> list[PromptOp]:
    """What stands before a prompt, in order.  Of a prompt edited twice only the newer, since many models follow the
    older of two statements."""
    told = [(edit.requests[0].fact.prompt, op) for edit in edits for op in edit.ops if isinstance(op, PromptOp)]
    newest = {prompt: op for prompt, op in told}
    return [op for prompt, op in told if op is newest[prompt]]


def _weights_view(base: LanguageModel, edits: Sequence[Edit]) -> LanguageModel:
    """The innermost level: changed weights, codebooks and side weights."""
    # floating-point sums depend on their order; sorting makes the view independent of the order of edits
    ops = [op for edit in sorted(edits, key=lambda edit: edit.content) for op in edit.weights]
    names: dict[int, str] = {}  # a tied weight has two names and one sum
    grouped = _grouped(ops, lambda op: names.setdefault(id(base.weight(op.name)), op.name))
    replaced = {name: changed(base, name, summed(some, base.device)) for name, some in grouped.items()}
    rewrites = _rewrites(base, edits)
    if not edits:
        return base.view()
    return base.view(replaced, rewrites, _revision(base, edits))


def _revision(base: LanguageModel, edits: Sequence[Edit]) -> str:
    """Of the view with these edits; weight changes add up in any order, the others do not."""
    if not edits:
        return base.revision
    unordered = sorted(edit.content for edit in edits if len(edit.weights) == len(edit.ops))
    ordered = [*unordered, *(edit.content for edit in edits if len(edit.weights) < len(edit.ops))]
    return hashlib.sha256(" ".join([base.revision, *ordered]).encode()).hexdigest()


def _rewrites(base: LanguageModel, edits: Sequence[Edit]) -> dict[str, Rewrite]:
    """Layers with a codebook or side weights; in a layer with both, the codebook acts last."""
    rewrites: dict[str, Rewrite] = {}
    ops = [op for edit in edits for op in edit.ops]
    for name, sides in _grouped([op for op in ops if isinstance(op, SideOp)], lambda op: op.name).items():
        rewrites[name.rpartition(".")[0]] = side.SideRewrite(side.fold(sides))
    for path, books in _grouped([op for op in ops if isinstance(op, CodebookOp)], lambda op: op.module).items():
        book = codebook.CodebookRewrite(codebook.fold(books))
        rewrites[path] = _both(rewrites[path], book) if path in rewrites else book
    return rewrites


def _both(first: Rewrite, second: Rewrite) -> Rewrite:
    return lambda inputs, output: second(inputs, first(inputs, output))


def _check_sizes(base: LanguageModel, edit: Edit) -> None:
    """Compare the edit's shapes with the model's before anything is multiplied: two vectors in a file of 100 kB can be
    the factors of a matrix of gigabytes."""
    shards: dict[str, set[int]] = {}
    for op in edit.ops:
        if isinstance(op, CodebookOp):
            _check_size(base, f"{op.module}.weight", (op.values.shape[1], op.keys.shape[1]))
        elif isinstance(op, WeightDelta | DenseDelta | SideOp):
            _check_size(base, op.name, tuple(op.shape))
        if isinstance(op, SideOp):
            shards.setdefault(op.name, set()).add(op.shard)
    for name, numbers in shards.items():
        if len(numbers) > 1:  # each is stored as a few entries and computed with as a whole matrix
            raise ValueError(f"the edit has {len(numbers)} side weights at {name!r}; no method makes more than one")
    for name, keys in edit.keys.items():
        d_in = _size(base, name)[-1]
        if keys.ndim != 2 or keys.shape[1] != d_in:
            raise ValueError(
                f"the edit keeps keys of shape {list(keys.shape)} for {name!r}, but the model reads [n, {d_in}] there; "
                "it was made for another model"
            )


def _check_size(base: LanguageModel, name: str, shape: tuple[int, ...]) -> None:
    size = _size(base, name)
    if shape != size:
        raise ValueError(
            f"the edit changes {name!r} by a matrix of shape {list(shape)}, but the model has {list(size)} there; "
            "it was made for another model"
        )


def _size(base: LanguageModel, name: str) -> tuple[int, ...]:
    """(d_out, d_in) of a weight, or (d_out,) of a bias."""
    stored = base.weight(name)
    if stored.ndim != 2:
        return tuple(stored.shape)
    return tuple(as_out_in(base.module.get_submodule(name.rpartition(".")[0]), stored).shape)


def _grouped(ops: Sequence[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for op in ops:
        groups.setdefault(name(op), []).append(op)
    return groups
