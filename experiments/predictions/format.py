"""What a format of predictions is: a JSON list with one record for each example."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from experiments.datasets.reading import is_text

KINDS = {
    int: "a whole number",
    float: "a decimal number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Format:
    """A list of records with the id of an example and the text that was generated for it.

    Subclasses take other values than texts.

    Args:
        name: as messages call such files.
        id_field: the field that names the example.
        id_type: ``int`` or ``str``, as the data's annotations have it.
        value_field: the field with the prediction.
    """

    name: str
    id_field: str
    id_type: type
    value_field: str

    @property
    def sample(self) -> str:
        """A record, for messages."""
        identity = 1000 if self.id_type is int else "..."
        return json.dumps({self.id_field: identity, self.value_field: self.value_sample})

    @property
    def value_sample(self) -> Any:
        """A value, for messages."""
        return "a red ball" if self.value_field == "caption" else "yes"

    def record(self, id: str, prediction: Any) -> dict[str, Any]:
        """The record of a prediction.

        Raises:
            ValueError: the id is no whole number, where these are asked for.
        """
        identity = self.id_type(id)
        if str(identity) != id:
            raise ValueError(f"{id!r} is no whole number")
        return {self.id_field: identity, self.value_field: self.value(prediction)}

    def value(self, prediction: Any) -> Any:
        """What the file holds of a model's prediction."""
        return prediction

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """What is wrong with a value, and what to do, in words that go on from "field 'answer' ...".

        Args:
            value: as the file holds it.
            allow_empty: whether a text may be empty.
        """
        if not isinstance(value, str):
            return f"is {kind(value)}, not text; write it in quotes"
        if not is_text(value):
            return "holds half a character; write the text again"
        if not value.strip() and not allow_empty:
            return (
                "is empty; write an answer, or allow empty ones (--allow-empty), which evaluators score too"
            )
        return None


def kind(value: Any) -> str:
    """The type of a JSON value in words."""
    return KINDS.get(type(value), type(value).__name__)
