"""From a YAML file to a checked value, with errors that name the file, the field and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from attngraph.errors import UserError
from attngraph.experiments.base.reading import read_text
from attngraph.experiments.base.shipped import CONFIGS, names_of
from attngraph.names import did_you_mean, nearest, spelled

SUFFIXES = (".yaml", ".yml")


class Config(BaseModel):
    """A typed part of a YAML file; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Read = TypeVar("Read", bound=Config)


INT, FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))


class _Loader(yaml.SafeLoader):
    """Reads numbers as in YAML 1.2: ``1e-3`` is a number, ``010`` is ten (not eight), and ``1:30`` is a text
    (not 90). Duplicate names are errors, whereas YAML would use the last one.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (INT, FLOAT)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, names = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} appears twice", problem_mark=key.start_mark
                    )
                names.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10)


_Loader.add_implicit_resolver(
    INT, re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(INT, _Loader.construct_yaml_int)


def read_config(file: Path, kind: type[Read], remedy: str) -> Read:
    """The content of a YAML file as ``kind``, see :func:`read_yaml` and :func:`checked`."""
    return checked(read_yaml(file, remedy), kind, lambda field: f"{file}", remedy)


def read_yaml(file: Path, remedy: str) -> Any:
    """The content of a YAML file; a :class:`UserError` with the remedy if it is missing or not YAML."""
    return parsed(read_text(file, remedy), f"{file}", remedy)


def parsed(text: str, where: str, remedy: str) -> Any:
    """The content of a YAML text.

    Args:
        text: YAML.
        where: name of its source, for errors.
        remedy: what the user can do about errors.

    Raises:
        UserError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise UserError(f"{where} cannot be read (too many nested brackets); {remedy}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        reason = " ".join(str(error).split())
        raise UserError(f"{where} cannot be read ({reason}); {remedy}") from None


def checked(content: Any, kind: type[Read], where: Callable[[str], str], remedy: str) -> Read:
    """Content validated as ``kind``.

    Args:
        content: values read from YAML.
        kind: the required type.
        where: maps a field's dotted name to the source of its value, for errors.
        remedy: what the user can do about errors.

    Raises:
        UserError: a field is unknown, missing or of a wrong type.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
        # a misspelt name is also a missing one: the name that is there says more
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{where(field)}: {_in_words(first, field, kind)}; {remedy}") from None
    except RecursionError:
        raise UserError(f"{where('')} cannot be read (it contains itself); {remedy}") from None


def file_named(name: str, what: str) -> Path:
    """A shipped file by its name, or a user's file by its path.

    Args:
        name: name or path, as given by the user.
        what: "experiment", "preset", "table" or "size".

    Raises:
        UserError: there is no such file.
    """
    known = names_of(what)
    file = Path(name) if name.endswith(SUFFIXES) else CONFIGS / f"{what}s" / f"{spelled(name, known)}.yaml"
    if not file.exists():
        choices = f"choose from {', '.join(known)}" if known else "install attngraph again"
        near = did_you_mean(name, known)
        raise UserError(f"unknown {what} {name!r}{near}: {choices}, or use a YAML file")
    return file


def _in_words(error: Any, field: str, kind: type[Config]) -> str:
    """An error of pydantic about a field, in one sentence."""
    if not field and error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        longest_first = sorted(_paths(kind), key=len, reverse=True)
        paths = {path[-1]: path for path in longest_first}
        near = nearest(name, paths)
        if near is None:
            return f"unknown field {field}"
        elsewhere = near == name or len(error["loc"]) < len(paths[near])
        return f"unknown field {field} (did you mean {'.'.join(paths[near]) if elsewhere else near}?)"
    if error["type"] == "missing":
        return f"field {field} is missing"
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("model_type", "dict_type"):
        said = "must consist of fields with values (name: value)"
    return (f"field {field}: " if field else "") + f"{said[0].lower()}{said[1:]}"


def _paths(kind: Any) -> list[tuple[str, ...]]:
    """Names that lead to the fields of a type and of the types inside it; ``*`` for any key of a mapping."""
    if not (isinstance(kind, type) and issubclass(kind, Config)):
        keys = ("*",) * (get_origin(kind) in (dict, Mapping))
        return [(*keys, *path) for part in get_args(kind) for path in _paths(part)]
    fields = kind.model_fields.items()
    return [(name, *path) for name, field in fields for path in ((), *_paths(field.annotation))]
