"""What happens to records and images that are damaged: an error, or left out and counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    def __len__(self) -> int:
        return len(self.messages)

    @contextmanager
    def leave_out(self) -> Iterator[None]:
        """Around the reading of one record: a :class:`~attngraph.errors.UserError` leaves it out.

        Raises:
            UserError: that error, if no more may be left out.
        """
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def add(self, message: str) -> None:
        """Count a record as left out; ``message`` names the file, the record and the remedy.

        Raises:
            UserError: no more may be left out.
        """
        if self.limit == 0:
            raise UserError(message)
        self.messages.append(message)
        if self.limit is not None and len(self.messages) > self.limit:
            raise UserError(
                f"more than {self.limit} records are damaged (--skip-bad {self.limit}); the last one: "
                f"{message}"
            )
