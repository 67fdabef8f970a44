"""The ledger: which edits a model has, in which order, on which branch; in a folder or in memory.

    ledger.json                 format, revision of the base, branches: name -> digests, the current branch
    edits/<digest>.safetensors  every edit once, whichever branches it is on

Every change replaces `ledger.json` atomically, after the edit's file is complete, so a crash or a bad file leaves the
ledger as it was.  The model of a branch is a view built from the base and the branch's edits, so removing any edit
gives, bit for bit, the model that never had it.  `facts.branches` holds which edits are on which branch.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from editing.applied.export import export_model
from editing.applied.view import EditedModel, apply_edits, on_base
from editing.edit import Edit
from editing.files import load_edit, save_edit
from facts.branches import Branches
from models import LanguageModel

FORMAT = "engram-ledger-1"
MAIN = "main"


@dataclass(frozen=True)
class Answer:
    """How two branches continue one prompt."""

    prompt: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether the two continuations differ."""
        return self.first != self.second


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two branches side by side."""

    only_first: tuple[Edit, ...]
    only_second: tuple[Edit, ...]
    shared: tuple[Edit, ...]
    answers: tuple[Answer, ...]


class Ledger:
    """The edits of one model.  Safe for threads of one process.

    Args:
        model: the unedited base.
        folder: created if missing, read if it holds a ledger.  None: keep the ledger in memory.

    Raises:
        ValueError: if the folder holds a ledger of other weights, or one that cannot be read.
    """

    def __init__(self, model: LanguageModel, folder: Path | None = None) -> None:
        self.model, self.folder = model, folder
        self._lock = threading.RLock()
        self._edits: dict[str, Edit] = {}
        self._state = Branches({MAIN: ()}, MAIN)
        if folder is not None and (folder / "ledger.json").is_file():
            self._read(folder)
        elif folder is not None:
            (folder / "edits").mkdir(parents=True, exist_ok=True)
            self._write(self._state)

    @property
    def branches(self) -> dict[str, tuple[str, ...]]:
        """Branch name -> digests of its edits, oldest first."""
        return dict(self._state.by_name)

    @property
    def current(self) -> str:
        """The branch that `add` and `undo` change."""
        return self._state.current

    def edits(self, branch: str | None = None) -> tuple[Edit, ...]:
        """The edits of a branch, oldest first; by default the current one's.

        Raises:
            ValueError: if there is no such branch.
        """
        return tuple(self._edits[digest] for digest in self._state.edits(branch))

    def view(self, branch: str | None = None) -> EditedModel:
        """The model with the edits of a branch.

        Raises:
            ValueError: if there is no such branch, or an edit does not fit the model (one that was forced).
        """
        return apply_edits(self.model, self.edits(branch), force=True)

    def add(self, edit: Edit, position: int | None = None) -> Edit:
        """Add an edit to the current branch, by default as its newest.

        Args:
            edit: computed on the base, or on this branch's view.
            position: number of edits before it.

        Raises:
            ValueError: if it belongs to other weights, is there already, or does not fit the model.
        """
        with self._lock:
            active = self.edits()
            if edit.model_revision != self.model.revision and edit.model_revision != self.view().revision:
                raise ValueError(
                    f"the edit was computed from weights {edit.model_revision[:12]}, but the ledger is of "
                    f"{self.model.name!r}, {self.model.revision[:12]}; import it with force, or load its model"
                )
            return self._put(on_base(edit, self.model, active), position)

    def undo(self, digest: str | None = None) -> Edit:
        """Remove one edit from the current branch, by default the newest; `add` puts it back.

        Raises:
            ValueError: if the branch has no such edit, or none at all.
        """
        with self._lock:
            there = self._state.edits()
            if not there:
                raise ValueError(f"the branch {self.current!r} has no edit to undo")
            wanted = there[-1] if digest is None else self._full(digest, there)
            self._change(self._state.without(wanted))
            return self._edits[wanted]

    def branch(self, name: str, keep: int | None = None) -> None:
        """Start a branch with the current one's edits, or the oldest `keep` of them, and switch to it.

        Raises:
            ValueError: if the name is empty or taken, or the branch has fewer edits.
        """
        with self._lock:
            there = self._state.edits()
            if not name.strip() or name in self.branches:
                raise ValueError(f"a branch cannot be called {name!r}; there are {', '.join(self.branches)}")
            if keep is not None and not 0 <= keep <= len(there):
                raise ValueError(f"keep is {keep}, but {self.current!r} has {len(there)} edits")
            self._change(self._state.put(name, there[:keep]).switched(name))

    def switch(self, name: str) -> None:
        """Switch to another branch.

        Raises:
            ValueError: if there is none of that name.
        """
        with self._lock:
            self._change(self._state.switched(name))

    def compare(self, first: str, second: str, prompts: Sequence[str], max_new_tokens: int = 16) -> Comparison:
        """Compare two branches: their edits and their continuations of some prompts.

        Raises:
            ValueError: if a branch does not exist, or a prompt does not fit.
        """
        ours, theirs = self._state.edits(first), self._state.edits(second)
        said = [self.view(name).generate(prompts, max_new_tokens) for name in (first, second)]
        return Comparison(
            only_first=tuple(self._edits[digest] for digest in ours if digest not in theirs),
            only_second=tuple(self._edits[digest] for digest in theirs if digest not in ours),
            shared=tuple(self._edits[digest] for digest in ours if digest in theirs),
            answers=tuple(Answer(*row) for row in zip(prompts, *said, strict=True)),
        )

    def import_edit(self, path: Path, *, force: bool = False) -> Edit:
        """Add an edit from a file to the current branch.

        Args:
            force: accept an edit of other weights and treat it as one of this ledger's model.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a whole saved edit, belongs to other weights, or does not fit the model.
        """
        edit = load_edit(path)
        if edit.model_revision == self.model.revision or not force:
            return self.add(edit)
        with self._lock:
            return self._put(replace(edit, model_revision=self.model.revision), None)

    def export_model(self, folder: Path, branch: str | None = None) -> None:
        """Merge a branch's edits into the weights and write the model for transformers; see
        `editing.applied.export`."""
        export_model(self.view(branch), folder)

    def _put(self, edit: Edit, position: int | None) -> Edit:
        state = self._state.added(edit.digest, position)
        edits = self._edits | {edit.digest: edit}
        apply_edits(
            self.model, [edits[digest] for digest in state.edits()], force=True
        )  # raises now if the edit does not fit
        if self.folder is not None and not self._file(edit.digest).is_file():
            save_edit(edit, self._file(edit.digest))
        self._edits = edits
        self._change(state)
        return edit

    def _full(self, digest: str, there: Sequence[str]) -> str:
        """The full digest of the edit whose digest begins with `digest`."""
        matches = [each for each in there if digest and each.startswith(digest)]
        if len(matches) != 1:
            shown = ", ".join(each[:12] for each in there) or "none"
            raise ValueError(f"{len(matches)} edits of {self.current!r} are called {digest!r}; it has {shown}")
        return matches[0]

    def _change(self, state: Branches) -> None:
        """Write first, then update the state, so that a full disk changes neither."""
        self._write(state)
        self._state = state

    def _file(self, digest: str) -> Path:
        assert self.folder is not None
        return self.folder / "edits" / f"{digest}.safetensors"

    def _write(self, state: Branches) -> None:
        if self.folder is None:
            return
        written = {
            "format": FORMAT,
            "base_revision": self.model.revision,
            "branches": dict(state.by_name),
            "current": state.current,
        }
        scratch = self.folder / "ledger.json.part"
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(written, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, self.folder / "ledger.json")

    def _read(self, folder: Path) -> None:
        try:
            state = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
            if state["format"] != FORMAT:
                raise ValueError(f"its format is {state['format']!r}, expected {FORMAT!r}")
            branches = {str(name): tuple(map(str, digests)) for name, digests in state["branches"].items()}
            revision, stored = state["base_revision"], Branches(branches, state["current"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{str(folder)!r} does not hold a ledger that can be read: {error}") from error
        if revision != self.model.revision:
            raise ValueError(
                f"the ledger in {str(folder)!r} is of weights {revision[:12]}, but {self.model.name!r} has "
                f"{self.model.revision[:12]}; load its model, or give another folder"
            )
        edits = {
            digest: load_edit(folder / "edits" / f"{digest}.safetensors") for digest in set().union(*branches.values())
        }
        for digest, edit in edits.items():
            if edit.digest != digest:
                raise ValueError(f"the ledger's file for edit {digest[:12]} holds another edit, {edit.digest[:12]}")
        self._edits, self._state = edits, stored
