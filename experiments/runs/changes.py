"""Changes of a YAML file on the command line: ``--set recipe.steps=100``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.config import Read, checked, parsed

REMEDY = "give NAME=VALUE, such as recipe.learning_rate=1e-3"


def with_changes(
    content: Any, words: Sequence[str], kind: type[Read], where: Callable[[str], str] | str, remedy: str
) -> Read:
    """A content with changes as ``kind``; of two changes of one field the last one holds.

    Args:
        content: of a file; None for none.
        words: of the user, such as ``recipe.steps=100``. Missing sections are made.
        kind: what it must be.
        where: the content is from, for errors; or a function of the field's name that says so.
        remedy: what the user can do about them.

    Raises:
        UserError: a word is no change, or a field is unknown, missing or of a wrong type; the message names
            the change or the file.
    """
    changes: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        path = [part.strip() for part in name.split(".")]
        if not equals or not all(path):
            raise UserError(f"--set {word!r} changes nothing: {REMEDY}")
        changes[".".join(path)] = word
        content = _changed(content, path, parsed(text, f"--set {word!r}", REMEDY), word)

    def source(field: str) -> str:
        around = [(path, f"{field}.", f"{path}.") for path in changes]
        named = [changes[path] for path, one, two in around if one.startswith(two) or two.startswith(one)]
        return f"--set {named[-1]}" if named else where if isinstance(where, str) else where(field)

    return checked(content, kind, source, remedy)


def _changed(content: Any, path: Sequence[str], value: Any, word: str) -> dict[str, Any]:
    """A section with another value at a path."""
    if not isinstance(content, dict) and content is not None:
        raise UserError(f"--set {word}: the file has no fields there: give the section as a whole")
    content = content or {}
    first, *rest = path
    return {**content, first: _changed(content.get(first), rest, value, word) if rest else value}
