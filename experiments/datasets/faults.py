"""What happens to records and images that are damaged: an error, or left out and counted."""

from __future__ import annotations

from contextlib import AbstractContextManager

from attngraph.errors import UserError


class Faults:
    """Counts what is left out of a data set because it is damaged.

    Args:
        limit: how many records may be left out (``--skip-bad``); 0 makes the first fault an error, None
            collects them all.
    """

    def __init__(self, limit: int | None = 0):
        self.limit = limit
        self.messages: list[str] = []
        self._guard = _Guard(self)

    def __len__(self) -> int:
        return len(self.messages)

    def leave_out(self) -> AbstractContextManager[None]:
        """Around the reading of one record: a :class:`~attngraph.errors.UserError` leaves it out.

        Raises:
            UserError: that error, if no more may be left out.
        """
        return self._guard

    def add(self, message: str) -> None:
        """Count a record as left out; ``message`` names the file, the record and the remedy.

        Raises:
            UserError: no more may be left out.
        """
        if self.limit == 0:
            raise UserError(message)
        self.messages.append(message)
        if self.limit is not None and len(self.messages) > self.limit:
            raise UserError(f"{self.too_few(len(self.messages))}: {message}")

    def too_few(self, found: int) -> str:
        """What to say of the limit when so many records are damaged; the last one's message follows."""
        return f"--skip-bad {self.limit} is too few: {found} damaged records so far; the last one"


class _Guard(AbstractContextManager[None]):
    """A class of its own rather than a generator: it stands around a million records."""

    def __init__(self, faults: Faults):
        self._faults = faults

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError):
            self._faults.add(str(error))
            return True
        return False
