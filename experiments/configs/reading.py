"""From a YAML file to a checked value, with errors that name the file, the field and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from attngraph.errors import UserError
from experiments.arguments import did_you_mean
from experiments.datasets.reading import read_text


class Config(BaseModel):
    """A typed part of a YAML file: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Read = TypeVar("Read", bound=Config)


def read_config(file: Path, kind: type[Read], remedy: str) -> Read:
    """The file's content as ``kind``.

    Args:
        file: YAML.
        kind: what it must be.
        remedy: what the user can do about a damaged file.

    Raises:
        UserError: no such file, no YAML, or a field that is unknown, missing or of a wrong type.
    """
    text = read_text(file, remedy)
    try:
        content = yaml.safe_load(text)
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}: {_in_words(error, kind)}; {remedy}") from None
    except RecursionError:
        raise UserError(f"{file} cannot be read (too many brackets inside one another); {remedy}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read ({reason}); {remedy}") from None


def _in_words(error: ValidationError, kind: type[Config]) -> str:
    """The first error in words."""
    first: Any = error.errors()[0]
    if not first["loc"]:
        return "it must hold fields with values (name: value)"
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown field {field}" + did_you_mean(str(first["loc"][-1]), _field_names(kind))
    if first["type"] == "missing":
        return f"field {field} is missing"
    said = first["msg"].removeprefix("Value error, ")
    return f"field {field}: {said[0].lower()}{said[1:]}"


def _field_names(kind: Any) -> list[str]:
    """The fields of a type and of the types inside it."""
    if not (isinstance(kind, type) and issubclass(kind, Config)):
        return [name for part in get_args(kind) for name in _field_names(part)]
    fields = kind.model_fields.items()
    return [name for key, field in fields for name in (key, *_field_names(field.annotation))]
