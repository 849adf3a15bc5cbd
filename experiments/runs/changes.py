"""Changes of a YAML file on the command line: ``--set recipe.steps=100``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from attngraph.errors import UserError
from experiments.base.arguments import did_you_mean
from experiments.base.config import Config, Read, checked, parsed

REMEDY = "give NAME=VALUE, such as recipe.learning_rate=1e-3"


@dataclass(frozen=True)
class Change:
    """One of them.

    Args:
        path: names from the outermost one on.
        value: as YAML says it.
        word: as the user wrote it.
    """

    path: tuple[str, ...]
    value: Any
    word: str

    @property
    def field(self) -> str:
        """The path with dots."""
        return ".".join(self.path)


def read_changes(words: Sequence[str], kind: type[Config]) -> list[Change]:
    """The changes that words such as ``recipe.steps=100`` ask for.

    Args:
        words: of the user.
        kind: what is changed, whose fields are known.

    Raises:
        UserError: a word is none, names no field, or contradicts another.
    """
    changes: list[Change] = []
    for word in words:
        name, equals, text = word.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        if not equals or not all(path):
            raise UserError(f"--set {word!r} changes nothing: {REMEDY}")
        _check_path(path, kind, word)
        change = Change(path, parsed(text, f"--set {word!r}", REMEDY), word)
        for earlier in changes:
            shorter = min(len(path), len(earlier.path))
            if path[:shorter] == earlier.path[:shorter]:
                raise UserError(f"--set {earlier.word} and --set {word} contradict each other: leave one out")
        changes.append(change)
    return changes


def changed(content: Any, changes: Sequence[Change]) -> Any:
    """A content with changes: a copy, in which missing sections are made."""
    content = copy.deepcopy(content)
    for change in changes:
        place = content = {} if content is None else content
        for part in change.path[:-1]:
            if not isinstance(place, dict):
                break
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        if not isinstance(place, dict):
            raise UserError(f"--set {change.word}: the file has no fields there: give the section as a whole")
        place[change.path[-1]] = change.value
    return content


def with_changes(
    content: Any, changes: Sequence[Change], kind: type[Read], where: Callable[[str], str] | str, remedy: str
) -> Read:
    """A content with changes as ``kind``.

    Args:
        content: of a file; None for none.
        changes: of :func:`read_changes`.
        kind: what it must be.
        where: the content is from, for errors; or a function of the field's name that says so.
        remedy: what the user can do about them.

    Raises:
        UserError: a field is unknown, missing or of a wrong type; the message names the change or the file.
    """

    def source(field: str) -> str:
        words = [change.word for change in changes if f"{field}.".startswith(f"{change.field}.")]
        return f"--set {words[0]}" if words else where if isinstance(where, str) else where(field)

    return checked(changed(content, changes), kind, source, remedy)


def _check_path(path: Sequence[str], kind: Any, word: str) -> None:
    """Refuses names that are no fields; below fields that hold names of their own everything goes."""
    for place, part in enumerate(path):
        section = next((one for one in (kind, *get_args(kind)) if _is_section(one)), None)
        if section is None:
            if any(one is dict or one is Mapping for one in (kind, getattr(kind, "__origin__", None))):
                return
            above = ".".join(path[:place])
            raise UserError(f"--set {word}: {above} holds a value, no fields: give {above}=VALUE")
        fields = section.model_fields
        if part not in fields:
            name = ".".join(path[: place + 1])
            near = did_you_mean(part, fields)
            raise UserError(f"--set {word}: unknown field {name}{near}, choose from {', '.join(fields)}")
        kind = fields[part].annotation


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)
