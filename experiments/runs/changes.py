"""Changes of a YAML file on the command line: ``--set recipe.steps=100``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.config import Read, checked, parsed

REMEDY = "use NAME=VALUE, such as recipe.learning_rate=1e-3"


def with_changes(
    content: Any, words: Sequence[str], kind: type[Read], where: Callable[[str], str] | str, remedy: str
) -> Read:
    """Content of a file with changes, validated as ``kind``; of two changes of one field the last one is
    used.

    Args:
        content: of a file; None if there is no file.
        words: the user's changes, such as ``recipe.steps=100``. Missing sections are created.
        kind: the required type.
        where: source of the content, for errors; or a function from a field's name to its source.
        remedy: what the user can do about errors.

    Raises:
        UserError: a word is not a change, or a field is unknown, missing or of a wrong type; the message
            names the change or the file.
    """
    changes: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        path = [part.strip() for part in name.split(".")]
        if not equals or not all(path):
            raise UserError(f"--set {word!r} is not a change: {REMEDY}")
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
        raise UserError(f"--set {word}: the file has a single value there: set the whole section")
    content = content or {}
    first, *rest = path
    return {**content, first: _changed(content.get(first), rest, value, word) if rest else value}
