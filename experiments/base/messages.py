"""What errors say: names that are not known, and errors of other libraries in one line."""

from __future__ import annotations

from collections.abc import Sequence

from attngraph.errors import UserError
from attngraph.names import did_you_mean


def check_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise :class:`~attngraph.UserError` for names that are not known, and where there are none."""
    unknown = [name for name in names if name not in known]
    if not names:
        raise UserError(f"no {what} is named: choose from {', '.join(known)}")
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise UserError(
            f"unknown {what} {', '.join(map(repr, unknown))}{near}: choose from {', '.join(known)}"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
