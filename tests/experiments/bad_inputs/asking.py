"""Asking: words that mean nothing, one wrong value for each option of the commands' own parsers, and options
that contradict one another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from experiments.base.arguments import Between
from experiments.cli import COMMANDS, command_parser
from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.world import World

LOOKED_AT = ("attention", "tsne", "heterophily")
NO_INTEGER = ("x", "", "1.5", "nan", "1e3", "٣", "99999999999999999999999")
NO_NUMBER = ("x", "", "nan", "inf", "-inf", "٣")
NO_DEVICE = ("", "gpu", "meta", "cuda:99", "cpu,cuda", "é")
NO_PLACE = ("", " ", "/no/such/place", "no such name", "é\u2028x")
NO_FOLDER = ("", " ", "/dev/null", "/dev/null/out", "/proc/out", "/proc/self/mem/x")
MANY = {"--questions", "--hypotheses", "--captions"}  # options that take three numbers
ANY_WORDS = {"--title"}
#: An experiment of a second.
SMALL = tuple(
    part
    for word in ("method=majority", "task=vqa", "scenes.questions=[12, 6, 6]")
    for part in ("--set", word)
)


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
    yield from _words()
    yield from _options()
    yield from _together()


def _case(command: str, *words: str, named: tuple[str, ...] = ()) -> Case:
    """The words after good ones; the message names one of them, or what is given."""
    option = words[0].partition("=")[0]
    said = [repr(word).strip("'") for word in words[1:] if len(word) > 3 and word.isascii()]
    return Case(
        " ".join((command, *map(repr, words))),
        lambda world, spot: [*good_words(command, world, spot), *(w.format(world=world) for w in words)],
        (option, *said, *named, *(["é"] if "é" in words[-1] else [])),
    )


def _words() -> Iterator[Case]:
    """No command, no such option, a word too many, a switch with a value, and nothing at all."""
    for words in (["paint"], ["scens"], [""], ["--plugin"], ["--verison"], ["--plug", "x", "scenes"], ["-x"]):
        yield Case(f"attngraph {words}", lambda world, spot, words=words: words, (*words, "COMMAND"))
    for number, command in enumerate(list(COMMANDS)[::4]):
        word = ("--no-such-option", "word-too-many", "--quiet=yes")[number % 3]
        yield _case(command, word)
    for words, named in (
        (["scenes"], "--out"),
        (["table"], "TABLE"),
        (["table", "mian"], "mian"),
        (["significance"], "FOLDER"),
        (["report", "nowhere", "--out", "nothing"], "nowhere"),
        (["score", "--task", "vqa"], "FILE"),
    ):
        yield Case(f"{' '.join(words)} alone", lambda world, spot, words=words: words, (named,))


def _options() -> Iterator[Case]:
    """Each option once, of one of the commands that have it, with one of the values that its type does not
    hold; the folder for results and the device with all of them.
    """
    found: dict[str, list[tuple[str, argparse.Action]]] = {}
    for command in COMMANDS:
        for action in command_parser(command)._actions:
            if action.option_strings and action.nargs != 0:
                found.setdefault(action.option_strings[-1], []).append((command, action))
    for turn, (name, places) in enumerate(found.items()):
        for again in range({"--out": len(NO_FOLDER), "--device": len(NO_DEVICE)}.get(name, 1)):
            command, action = places[(turn + again) % len(places)]
            yield from _of_option(command, name, action, turn + again)


def _of_option(command: str, name: str, action: argparse.Action, turn: int) -> Iterator[Case]:
    if action.nargs != "?" and turn % 8 == 0:
        yield _case(command, name)
    if action.choices is not None:
        first = str(next(iter(action.choices)))
        values: tuple[str, ...] = ("", first + "x", first.upper(), "Ünïcode", "1")
    elif isinstance(action.type, Between):
        values = (*NO_INTEGER, str(action.type.low - 1), str(action.type.high + 1))
    elif action.type is int:
        values = (*NO_INTEGER, "-1")
    elif action.type is float:
        yield _case(command, f"{name}={(*NO_NUMBER, '-1')[turn % 7]}")
        return
    elif name == "--device":
        values = NO_DEVICE
    elif name == "--out":
        values = NO_FOLDER
    else:
        values = NO_PLACE[:2] if name in ANY_WORDS else NO_PLACE
    value = values[turn % len(values)]
    yield _case(command, name, *([value] * 3 if name in MANY else [value]))


def _together() -> Iterator[Case]:
    """Values that only the command can judge, and options that do not go together."""
    for number, words in enumerate(
        (
            ["--data", "{world.data}"],
            ["--heads", "99"],
            ["--layers", "*crossattentoin*"],
            ["--layers", "encoder.layer.0.attention.slef"],
            ["--model", "no/such-model"],
            ["--model", "minibert"],
        )
    ):
        yield _case(LOOKED_AT[number % 3], *words)
    for command, *words in (
        ("heterophily", "--model", "{world.folder}/models/vit"),  # which reads no texts
        ("tsne", "--images", "{world.picture}"),  # and sees none
        ("attention", "--tokens", "frist"),
        ("attention", "--tokens", "99"),
        ("tsne", "--points", "2"),
        ("tsne", "--perplexity", "1e6"),
        ("heterophily", "--clusters", "1"),
        ("significance", "--rows", "pgn"),
        ("significance", "--rows", ","),
        ("significance", "--rows", "gcn"),
        ("significance", "--baseline", "GCN"),
        ("significance", "--columns", "vqa.accuracy,vqa"),
        ("report", "--baseline", "pgn"),
        ("ablation", "--gnn", "gcn,,appnpp"),
        ("ablation", "--gnn", "gcn;appnp"),
        ("ablation", "--tasks", "vqa,captions"),
        ("ablation", "--preset", "quik"),
        ("ablation", "--gnn", "pgn", "--dry-run"),
        ("ablation", "--seeds", "0"),
        ("ablation", "--model", "{world.folder}/models/bert"),
        ("search", "--model", "{world.folder}/models/vit"),
        ("table", "--rows", "GCN"),
        ("table", "--tasks", "vqa"),
        ("table", "--tasks", "vqa2,coc"),
        ("table", "--size", "paper"),  # without --data and --model
        ("table", "--settings", "nowhere.yaml"),
        ("score", "--split", "validation"),
        ("score", "--task", "ve"),
        ("score", "--task", "easy_vqa"),
        ("train", "--set", "method=pgn"),
        ("train", "--set", "recipe.steps=0"),
        ("predict", "--split", "dev"),
        ("data", "--leave-out", "--split", "val"),
        ("data", "--format", "xml"),
        ("heterophily", "--adapter", "{world.adapter}"),  # of another model
        ("attention", "--adapter", "{world.folder}/models/blip"),
    ):
        named = (
            "data",
            "row",
            "column",
            "baseline",
            "answers.json",
            "models",
            "adapter",
            "--texts",
            "method",
        )
        yield _case(command, *words, named=(*words[-1].split(","), "bert", "vit", *named))
