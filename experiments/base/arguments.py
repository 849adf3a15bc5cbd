"""Command-line parsing: from a dataclass of options to a parser, and from words to its values.

Only the standard library is imported, so that ``--help`` is quick and ``attngraph doctor`` works if packages
are missing. jsonargparse and tyro read dataclasses, too, but their errors are boxes of several lines, without
remedies and near misses, and they lack the ranges of numbers below.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from types import NoneType
from typing import IO, Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from attngraph.experiments.base.types import METAVARS, READERS, Several
from attngraph.names import did_you_mean

#: Environment variable that ``--quiet`` sets, so that worker processes inherit it.
QUIET = "ATTNGRAPH_QUIET"


# ---- options from dataclasses ---------------------------------------------------------------------------

Options = TypeVar("Options")


def option(about: str, default: Any = None, metavar: Any = None, **more: Any) -> Any:
    """A field of a dataclass of options: ``--its-name``.

    Args:
        about: the help text, a sentence; the default is appended to it.
        default: the default value; ``...`` for a required option.
        metavar: name of the value in the help; by default according to the type.
        more: arguments of :meth:`argparse.ArgumentParser.add_argument`; ``flag`` for another name;
            ``fields``, for an option that sets fields, maps words that users may mistake for options to the
            fields.
    """
    value = {} if default is ... else {"default": default}
    return field(**value, metadata={"help": about, "metavar": metavar, **more})


def argument(about: str, metavar: str, default: Any = ...) -> Any:
    """A positional argument, with the arguments of :func:`option`."""
    return option(about, default, metavar, flag=None)


class Each(argparse.Action):
    """Collects several values in a tuple, also those of an option that is given several times. Duplicates are
    dropped, unless the number of values is fixed.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        values = values if isinstance(values, list) else [values]
        if isinstance(self.type, Several):
            values = [value for of_word in values for value in of_word]
        if not values:
            return
        if not isinstance(self.nargs, int):
            before = getattr(namespace, self.dest)
            values = dict.fromkeys([*(() if before is self.default else before), *values])
        setattr(namespace, self.dest, tuple(values))


def add_options(parser: Parser, kind: type) -> None:
    """Add the options of a dataclass to a parser.

    Args:
        parser: the parser to extend.
        kind: a dataclass whose fields have types in :data:`READERS`, ``bool``, ``Literal``, ``Annotated``
            with the function that reads them, or tuples of these; ``X | None`` for optional values.
    """
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        if one.init:
            flag, how = _described(one, hints[one.name])
            for word, field_name in how.pop("fields", {}).items():
                parser.instead[f"--{word}"] = f"{flag} {field_name}=VALUE"
            parser.add_argument(flag, **how)


def read_options(kind: type[Options], args: argparse.Namespace) -> Options:
    """An instance of the dataclass, with the values read by a parser with :func:`add_options` of it."""
    return kind(**{one.name: getattr(args, one.name) for one in fields(kind) if one.init})  # type: ignore


def asked(kind: type[Options], words: Sequence[str], program: str = "attngraph") -> Options:
    """Words parsed as options of a dataclass; invalid ones end the process, as for a command."""
    parser = Parser(prog=program)
    add_options(parser, kind)
    return read_options(kind, parser.parse_args(words))


def _described(one: Field, hint: Any) -> tuple[str, dict[str, Any]]:
    """The flag of an option, and its arguments for argparse."""
    how = dict(one.metadata)
    flag = how.pop("flag", f"--{one.name.replace('_', '-')}")
    is_required = one.default is MISSING
    how["default"] = None if is_required else one.default
    if hint is bool:
        del how["metavar"]
        return flag, {"action": "store_true", **how}
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    several = False
    if get_origin(hint) is tuple:
        hint, *others = get_args(hint)
        several = ... in others and "nargs" not in how
        how = {"action": Each, "nargs": "+" if ... in others else 1 + len(others), **how}
    if get_origin(hint) is Annotated:
        hint, how["type"] = get_args(hint)
    elif get_origin(hint) is Literal and several:
        how["type"] = Several(READERS[None], get_args(hint))
    elif get_origin(hint) is Literal:
        how["choices"] = get_args(hint)
    elif hint in (str, int, float) and several:
        how["type"] = Several(READERS[None if hint is str else hint])
    elif hint is not str:
        how["type"] = hint
    how["metavar"] = how["metavar"] or METAVARS.get(get_origin(hint) or hint, "NAME")
    if flag is not None:
        return flag, {**how, "dest": one.name, "required": is_required}
    if not is_required and "nargs" not in how:
        how["nargs"] = "?"
    elif not is_required and several:
        how["nargs"] = "*"
    return one.name, how


# ---- the parser -----------------------------------------------------------------------------------------


class HelpFormatter(argparse.HelpFormatter):
    """Appends the default of each option to its help, unless the help states it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, value = action.help or "", action.default
        is_told = "default" in text.lower() or value in (None, argparse.SUPPRESS, []) or action.nargs == 0
        values = value if isinstance(value, tuple) else (value,)
        if is_told or not values:
            return text
        words = " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)
        return f"{text} Default: {words.replace('%', '%%')}."


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors that contain a remedy, also for numbers, words and paths."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": HelpFormatter} | options)
        self.instead: dict[str, str] = {}  # word that is no option -> what to give instead
        for kind, read in READERS.items():
            self.register("type", kind, read)

    def print_help(self, file: IO[str] | None = None) -> None:
        """Print the help; unlike argparse's, raises OSError if the output cannot be written to."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and a one-line message."""
        message = message.removeprefix("argument ")
        if choice := re.match(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.DOTALL):
            option, given, choices = choice.groups()
            known = [name.strip("' ") for name in choices.split(",")]
            near = did_you_mean(given, known)
            message = f"{option}: unknown {given!r}{near}, choose from {', '.join(known)}"
        self.exit(2, f"attngraph: {' '.join(message.split())}; see `{self.prog} --help`\n")

    def refuse(self, unknown: list[str]) -> NoReturn:
        """Exit because of unknown words."""
        given = unknown[0].partition("=")[0]
        if instead := self.instead.get(given.replace("_", "-")):
            self.error(f"unknown option {given!r}, use {instead}")
        near = did_you_mean(given, [name for action in self._actions for name in action.option_strings])
        self.error(f"unknown {'option' if given.startswith('-') else 'word'} {given!r}{near}, remove it")
