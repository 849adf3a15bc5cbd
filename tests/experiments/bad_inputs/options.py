"""Bad values of every option of every command, taken from the commands' own parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from experiments.arguments import Between
from experiments.cli import COMMANDS, command_parser
from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.world import World

NO_INTEGER = ("x", "", "1.5", "nan", "1e3", "٣", "99999999999999999999999")
NO_NUMBER = ("x", "", "nan", "inf", "-inf", "٣")
ZERO_IS_FINE = {"--seed", "--map-seeds", "--heads", "--clusters", "--permutations", "--cache-gb"}
MANY = {"--questions", "--hypotheses", "--captions"}  # options that take three numbers
ANY_WORDS = {"--title"}
SEEDS = {"--seed", "--map-seeds"}
HUGE = 10**15
#: Options of which much is merely much: nothing is made for it before it is needed.
HUGE_IS_FINE = {
    "--examples",
    "--pictures",
    "--batch",
    "--points",
    "--jobs",
    "--steps",
    "--repeats",
    "--heads",
}
#: An experiment of a second.
SMALL = tuple(
    part
    for word in ("method=majority", "task=vqa", "scenes.questions=[12, 6, 6]")
    for part in ("--set", word)
)
LOOKED_AT = ("attention", "tsne", "heterophily")


def good_words(command: str, world: World, spot: Path) -> list[str]:
    """Words that the command accepts, quick where it can be."""
    out = ["--out", str(spot / "out")]
    if command in LOOKED_AT:
        pictures = ["--images", str(world.picture)] if command == "attention" else []
        model = world.model("captioner" if pictures else "bert")
        texts = ["--texts", str(world.texts), "--examples", "2"]
        texts += ["--perplexity", "1"] if command == "tsne" else []
        return [command, "--model", str(model), *pictures, *texts, *out]
    return {
        "scenes": ["scenes", *out],
        "bench": ["bench", "--quick", "--only", "step", *out],
        "planted": ["planted", "--quick", *out],
        "train": ["train", *SMALL, *out],
        "evaluate": ["evaluate", str(world.cell), "--data", str(world.data), *out],
        "ablation": ["ablation", "--preset", str(world.preset), *out],
        "table": ["table", str(world.table), "--size", str(world.size), *out],
        "sweep": ["sweep", str(world.table), "--size", str(world.size), *out],
        "search": ["search", "--preset", str(world.preset), *out],
        "pretrain": ["pretrain", "--steps", "1", *out],
        "significance": ["significance", str(world.run), *out],
        "report": ["report", str(world.run), *out],
        "score": ["score", str(world.answers), "--task", "vqa", "--data", str(world.data), *out],
        "predict": ["predict", str(world.cell), "--data", str(world.data), *out],
        "data": ["data", "check", "coco", "--root", str(world.six / "coco"), *out],
        "convert": ["convert", "blip", str(world.original), *out],
        "parameters": ["parameters", "gcn"],
        "doctor": ["doctor"],
    }[command]


def cases() -> Iterator[Case]:
    """Every command and option, with each value that its type does not hold."""
    for command in COMMANDS:
        for action in command_parser(command)._actions:
            if action.option_strings and action.nargs != 0:
                yield from _of_option(command, action)
        yield _case(command, "--no-such-option")
        yield _case(command, "word-too-many", named=("word-too-many",))
        for switch in ("--quiet=yes", "--seed=") if command != "doctor" else ("--quiet=yes",):
            yield _case(command, switch, named=(switch.partition("=")[0],))
    for words in (["paint"], ["scens"], [""], ["--plugin"], ["--verison"], ["--plug", "x", "scenes"], ["-x"]):
        yield Case(
            f"attngraph {' '.join(words)}",
            lambda world, spot, words=words: words,
            tuple(words) + ("COMMAND",),
        )


def _of_option(command: str, action: argparse.Action) -> Iterator[Case]:
    name = action.option_strings[-1]
    if action.nargs != "?":
        yield _case(command, name)
    if action.choices is not None:
        first = str(next(iter(action.choices)))
        for value in ("", first + "x", first.upper(), "Ünïcode", "1"):
            yield _case(command, name, value)
    elif isinstance(action.type, Between):
        values = [*NO_INTEGER, str(action.type.low - 1), str(action.type.high + 1)]
        for value in values:
            yield _case(command, name, *([value] * 3 if name in MANY else [value]))
    elif action.type is int:
        values = [*NO_INTEGER, "-1"]
        values += [] if name in ZERO_IS_FINE else ["0"]
        values += [str(2**63 - 1)] if name in SEEDS and command != "pretrain" else []
        values += [str(HUGE)] if name not in HUGE_IS_FINE | SEEDS else []
        for value in values:
            yield _case(command, name, *([value] * 3 if name in MANY else [value]))
    elif action.type is float:
        for value in (*NO_NUMBER, "-1", *([] if name in ZERO_IS_FINE else ["0"])):
            yield _case(command, f"{name}={value}")
    elif name == "--device":
        for value in ("", "gpu", "meta", "cuda:99", "cpu:x", "cpu,cuda", "CPU", "fpga:0", "é"):
            yield _case(command, name, value)
    elif name == "--out":
        for value in ("", " "):
            yield _case(command, name, value)
        for place in ("/dev/null", "/dev/null/out", "/proc/out", "/proc/self/mem/x"):
            yield _case(command, name, place)
        yield Case(f"{command} --out a file", lambda w, s: _at_file(command, w, s, ""), ("--out", "out"))
        yield Case(
            f"{command} --out below a file", lambda w, s: _at_file(command, w, s, "x"), ("--out", "out")
        )
    else:
        for value in (
            ("", " ") if name in ANY_WORDS else ("", " ", "/no/such/place", "no such name", "é\u2028x")
        ):
            yield _case(command, name, value)


def _case(command: str, *words: str, named: tuple[str, ...] | None = None) -> Case:
    option = words[0].partition("=")[0]
    return Case(
        " ".join((command, *map(repr, words))),
        lambda world, spot: [*good_words(command, world, spot), *words],
        named
        or (
            option,
            *(repr(word).strip("'") for word in words[1:] if len(word) > 3),
            "é" if "é" in words[-1] else option,
        ),
    )


def _at_file(command: str, world: World, spot: Path, below: str) -> list[str]:
    (spot / "file").write_text("mine")
    return [*good_words(command, world, spot), "--out", str(spot / "file" / below)]
