"""A row being read: fields are removed as they are taken, and the rest becomes the case's `extra`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from facts.importers.errors import RowError
from facts.importers.values import kind_of
from facts.types import MAX_PROMPT_CHARACTERS


class Fields:
    """One JSON object of a row, and where in the row it is.

    Unless it is read `exact`, texts lose the blanks at their ends, where an answer is joined on; what was written with
    such blanks also stays in the row.  `keeps_same` allows a new answer that is the true one.
    """

    def __init__(
        self, values: dict[str, Any], path: str = "", *, exact: bool = False, keeps_same: bool = False
    ) -> None:
        self._values = values
        self._path = path
        self._exact = exact
        self.keeps_same = keeps_same

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and says something: not null, not a blank text, not an empty list or object."""
        value = self._values.get(name)
        return value not in (None, [], {}) and not (isinstance(value, str) and not value.strip())

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def path(self, name: str) -> str:
        """The field's path in the row."""
        return f"{self._path}.{name}" if self._path else name

    def error(self, name: str, reason: str) -> RowError:
        """What to raise when a field cannot be used."""
        return RowError(self.path(name), reason)

    def peek(self, name: str) -> Any:
        """The field's value, left where it is; None if there is none."""
        return self._values.get(name)

    def take(self, name: str) -> Any:
        """The field's value as it is; None if there is none."""
        return self._values.pop(name, None)

    def text(self, name: str) -> str:
        """A text that must be there."""
        text = self._trimmed(self.see(name))
        self._done(name, [text])
        return text

    def see(self, name: str) -> str:
        """A text that must be there, left where it is."""
        if name not in self:
            raise self.error(name, "is missing" if name not in self._values else "is empty; expected a text")
        return _text(self._values[name], self.path(name))

    def optional(self, name: str) -> str:
        """A text, or the empty one."""
        if name not in self:
            return ""
        return self.text(name)

    def label(self, name: str) -> str:
        """A text or whole number that names the row; empty if there is none."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            return ""
        del self._values[name]
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """One text or a list of texts; none if there is no such field.  Empty ones do not count."""
        if name not in self:
            return ()
        value = self._values[name]
        path = self.path(name)
        if isinstance(value, list):
            texts = tuple(_text(entry, f"{path}[{index}]") for index, entry in enumerate(value))
        else:
            texts = (_text(value, path),)
        texts = tuple(self._trimmed(text) for text in texts)
        self._done(name, texts)
        return tuple(text for text in texts if text)

    def answers(self, name: str) -> tuple[str, ...]:
        """An answer and its other names: a text or number, {"str": ...}, a list of those, or a list of such lists.

        None if there is no such field.  Several lists are several answers, each with its names: their grouping is kept
        in what is left of the row.
        """
        if name not in self:
            return ()
        value = self._values[name]
        if isinstance(value, dict):
            return self.part(name).answers("str")
        names = tuple(dict.fromkeys(text.strip() for text in _answers(value, self.path(name))))
        groups = [entry for entry in value if isinstance(entry, list)] if isinstance(value, list) else []
        if len(groups) < 2:
            self._done(name, names)
        return names

    def some(self, name: str) -> tuple[str, ...]:
        """`answers`, at least one."""
        value = self._values.get(name)
        if isinstance(value, dict):
            return self.part(name).some("str")
        names = self.answers(name)
        if not names:
            raise self.error(name, "is missing" if value is None else "is empty; expected a text")
        return names

    def answer(self, name: str) -> str:
        """The first answer, which must be there."""
        return self.some(name)[0]

    def part(self, name: str) -> Fields:
        """An object that must be there."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.error(name, "is missing" if value is None else f"is {kind_of(value)}; expected an object")
        return self._inner(value, self.path(name))

    def parts(self, name: str) -> tuple[Fields, ...]:
        """A list of objects; none if there is no such field."""
        if name not in self:
            return ()
        value = self._values[name]
        if not isinstance(value, list):
            raise self.error(name, f"is {kind_of(value)}; expected a list of objects")
        found = []
        for index, entry in enumerate(value):
            path = f"{self.path(name)}[{index}]"
            if not isinstance(entry, dict):
                raise RowError(path, f"is {kind_of(entry)}; expected an object")
            found.append(self._inner(entry, path))
        return tuple(found)

    def copied(self, name: str) -> tuple[Fields, ...]:
        """Like `parts`, but whatever is taken also stays in the row: for lists whose order says more than we hold."""
        return self._inner({name: deepcopy(self._values.get(name))}, self._path).parts(name)

    def spread(self, name: str) -> tuple[Fields, ...]:
        """A list of objects, which may be written as one object of lists or single values."""
        value = self._values.get(name)
        if isinstance(value, dict) and value:
            columns = {key: entry if isinstance(entry, list) else [entry] for key, entry in value.items()}
            n = max(map(len, columns.values()))
            for key, column in columns.items():
                if len(column) != n:
                    path = f"{self.path(name)}.{key}"
                    raise RowError(path, f"has {len(column)} entries beside a list of {n}; expected one each")
            self._values[name] = [{key: column[index] for key, column in columns.items()} for index in range(n)]
        return self.parts(name)

    def left(self) -> dict[str, Any]:
        """The fields that were not taken, without empty ones."""
        return {name: entry for name, value in self._values.items() if (entry := _pruned(value)) not in ({}, [])}

    def _inner(self, values: dict[str, Any], path: str) -> Fields:
        return Fields(values, path, exact=self._exact, keeps_same=self.keeps_same)

    def _trimmed(self, text: str) -> str:
        return text if self._exact else text.strip()

    def _done(self, name: str, taken: Sequence[str]) -> None:
        """Removes a field, unless something of its texts was not taken."""
        value = self._values[name]
        if all(text in ("", *taken) for text in _texts_in(value)):
            del self._values[name]


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _texts_in(entry)
    elif value is not None:
        yield str(value)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise RowError(path, f"is {kind_of(value)}; expected a text")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise RowError(path, f"has {len(value)} characters; at most {MAX_PROMPT_CHARACTERS} are taken")
    return value


def _answers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _answers(entry, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif value not in (None, ""):
        text = _text(value, path)
        if text.strip():
            yield text


def _pruned(value: Any) -> Any:
    """Lists keep their length, so that what is left stays in its place, unless nothing is left in them."""
    if isinstance(value, Mapping):
        return {name: kept for name, entry in value.items() if (kept := _pruned(entry)) not in ({}, [])}
    if isinstance(value, list):
        entries = [_pruned(entry) for entry in value]
        return entries if any(entry not in ({}, []) for entry in entries) else []
    return value
