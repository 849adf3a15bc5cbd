"""How every command reads its words: one parser, with errors of one line and one way to tell defaults.

Only the standard library is imported, so that ``attngraph --help`` is quick and ``attngraph doctor`` works
where packages are missing.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NoReturn

from experiments.base.shipped import DEFAULT, SHIPPED

#: Environment variable that ``--quiet`` sets, so that worker processes know too.
QUIET = "ATTNGRAPH_QUIET"

LARGEST = 2**63 - 1  # beyond it, PyTorch and NumPy take no whole number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean ...?)"`` where a known word is near, else nothing."""
    near = get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


@dataclass(frozen=True)
class Between:
    """The type of an option that takes a whole number, in ASCII digits, from ``low`` to ``high``.

    Args:
        low: the least.
        high: the greatest.
    """

    low: int
    high: int

    def __call__(self, text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
            raise argparse.ArgumentTypeError(f"{_short(text)} is no whole number, give one such as 3")
        if len(text) > 100 or not self.low <= int(text) <= self.high:
            raise argparse.ArgumentTypeError(f"{_short(text)} is out of range, give a number {self.range}")
        return int(text)

    @property
    def range(self) -> str:
        """The range in words."""
        return f"from {self.low} on" if self.high == LARGEST else f"from {self.low} to {self.high}"


whole_number = Between(-LARGEST, LARGEST)
seed = Between(0, 2**32 - 1)  # what NumPy takes
positive = Between(1, LARGEST)


def number(text: str) -> float:
    """A finite number in ASCII digits."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{_short(text)} is no finite number, give one such as 1.5")
    return value


def word(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty, give one or leave the option out")
    return text


def path(text: str) -> Path:
    """A path that is not empty (an empty one would be the folder that the command runs in)."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty or holds a zero byte, give a path")
    return Path(text)


def add_model_arguments(parser: argparse.ArgumentParser, about: str) -> None:
    """``--model`` and ``--download``.

    Args:
        parser: gets the options.
        about: what is done with the model, as the beginning of a sentence.
    """
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{about}: {' or '.join(SHIPPED)}, which come with the package, a folder, a hub name or BLIP's "
        f"own file. Default: {DEFAULT}.",
    )
    parser.add_argument(
        "--download", action="store_true", help="Fetch from the hub what is not on this machine."
    )


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."


class EachOnce(argparse.Action):
    """Keeps several values of an option, each of them once."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, list(dict.fromkeys(values)))


class HelpFormatter(argparse.HelpFormatter):
    """Adds each option's default as the last sentence of its help, unless the help tells it in words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = default_in_words(action)
        return f"{text} Default: {default}." if default else text


def default_in_words(action: argparse.Action) -> str:
    """The default of an option as a user would write it; nothing where there is none to tell."""
    value = action.default
    if value is None or value is argparse.SUPPRESS or action.nargs == 0 or value == []:
        return ""
    if "default" in (action.help or "").lower():
        return ""
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values).replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line, with a remedy, and checks numbers, words and paths alike."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": HelpFormatter} | options)
        for kind, convert in ((int, whole_number), (float, number), (Path, path), (None, word)):
            self.register("type", kind, convert)

    def print_help(self, file: IO[str] | None = None) -> None:
        """Prints the help; unlike argparse's it raises OSError where the output cannot be written to."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line."""
        message = re.sub(r"^argument (?=\S)", "", message)
        message = re.sub(r": ignored explicit argument (.*)$", r" takes no value, leave \1 out", message)
        message = re.sub(r": expected (.*)$", r" takes \1", message)
        message = re.sub(r"^the following arguments are required: (.*)$", r"\1 is missing, give it", message)
        if choice := re.match(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.DOTALL):
            option, given, choices = choice.groups()
            names = [name.strip("' ") for name in choices.split(",")]
            message = (
                f"{option}: unknown {given!r}{did_you_mean(given, names)}, choose from {', '.join(names)}"
            )
        message = " ".join(message.split())
        self.exit(2, f"attngraph: {message}; `{self.prog} --help` tells more\n")

    def refuse(self, unknown: list[str]) -> NoReturn:
        """Ends because of words that no option takes."""
        given = unknown[0].partition("=")[0]
        near = did_you_mean(given, self.option_names())
        self.error(f"unknown {'option' if given.startswith('-') else 'word'} {given!r}{near}, leave it out")

    def option_names(self) -> list[str]:
        """All options with their dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def add_quiet(self) -> None:
        """The option that every command has."""
        self.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            help="Show no progress and no notes, only results and errors.",
        )
