"""Texts of errors: unknown names, and errors of other libraries shortened to one line."""

from __future__ import annotations

from collections.abc import Sequence

from attngraph.errors import UserError
from attngraph.names import did_you_mean


def check_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise :class:`~attngraph.UserError` for unknown names, and if there are no names."""
    unknown = [name for name in names if name not in known]
    if not names:
        raise UserError(f"no {what} is given: choose from {', '.join(known)}")
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise UserError(
            f"unknown {what} {', '.join(map(repr, unknown))}{near}: choose from {', '.join(known)}"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
