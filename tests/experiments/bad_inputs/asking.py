"""Asking: words that mean nothing, a wrong value for each type of option, values that only the command can
judge, and options that contradict one another. Whatever an option's type is, one function reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attngraph.experiments.base.shipped import CHECKPOINTS
from tests.experiments.bad_inputs.world import Case, World

LOOKED_AT = ("attention", "tsne", "heterophily")
#: An experiment of a second.
SMALL = ("--set", "method=majority", "--set", "task=vqa", "--set", "scenes.questions=[12, 6, 6]")


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
        "planted": ["planted", "--preset", "quick", *out],
        "detect": ["detect", "--examples", "40", *out],
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
        "data": ["data", "check", "coco", "--root", str(world.six / "coco")],
        "convert": ["convert", "blip", str(world.original), *out],
        "parameters": ["parameters", "gcn"],
        "doctor": ["doctor"],
    }[command]


#: Values of another type than the option's, values that only the command can judge, and options that do not
#: go together: command, and words after good ones, one of which the message names.
ASKED = (
    ("heterophily", "--heads", "1.5"),
    ("tsne", "--points", "2"),
    ("pretrain", "--seed", "4294967296"),
    ("pretrain", "--check"),
    ("heterophily", "--p", "nan"),
    ("score", "--split", "tset"),
    ("train", "--track", "tensorbord"),
    ("evaluate", "--data", "/no/such/place"),
    ("evaluate", "--data", ""),
    ("table", "--rows", ","),
    ("ablation", "--seeds", "3-1"),
    ("parameters", "--model", "no/such-model"),
    ("parameters", "--model", "hub:"),
    ("attention", "--device", "cuda:99"),
    ("attention", "--device", "é"),
    ("bench", "--out", "/dev/null"),
    ("planted", "--preset", "quik"),
    ("detect", "--tasks", "vqa,caption"),
    ("detect", "--models", "mini-blip", str(CHECKPOINTS / "mini-blip")),
    ("scenes", "--size", "x", "1", "1"),
    ("sweep", "--set", "sedes=3"),
    ("search", "--on", "lokal"),
    ("search", "--on", "threads=nan"),
    ("search", "--on"),
    ("attention", "--data", "{world.data}"),
    ("tsne", "--layers", "*crossattentoin*"),
    ("heterophily", "--model", "{world.folder}/models/vit"),  # which reads no texts
    ("tsne", "--images", "{world.picture}"),  # and sees none
    ("attention", "--tokens", "frist"),
    ("attention", "--task", "vqaa"),
    ("tsne", "--perplexity", "1e6"),
    ("heterophily", "--clusters", "1"),
    ("heterophily", "--labels", "spacy:nowhere"),
    ("heterophily", "--adapter", "{world.adapter}"),  # of another model
    ("significance", "--rows", "pgn"),
    ("significance", "--columns", "vqa.accuracy,vqa"),
    ("report", "--baseline", "pgn"),
    ("ablation", "--tasks", "vqa,captions"),
    ("ablation", "--preset", "quik"),
    ("ablation", "--dry-run", "--rows", "pgn"),
    ("ablation", "--model", "{world.folder}/models/bert"),
    ("table", "--settings", "nowhere.yaml"),
    ("score", "--split", "validation"),
    ("score", "--task", "easy_vqa"),
    ("bench", "--only", "stpe"),
    ("train", "--set", "method=pgn"),
    ("train", "--set", "recipe.steps=0"),
    ("predict", "--split", "dev"),
    ("convert", "--as", "whole"),
    ("data", "--leave-out", "--split", "val"),
    ("data", "--format", "xml"),
)
WORDS = (
    (["paint"], "COMMAND"),
    ([""], "COMMAND"),
    (["--plugin"], "--plugin"),
    (["-x"], "-x"),
    (["doctor", "--no-such-option"], "--no-such-option"),
    (["parameters", "gcn", "word-too-many"], "word-too-many"),
    (["list", "gnns"], "gnns"),
    (["scenes"], "--out"),
    (["table", "mian"], "mian"),
    (["table", "main", "--size", "paper", "--out", "nothing"], "--data"),
    (["report", "nowhere", "--out", "nothing"], "nowhere"),
)


def cases() -> Iterator[Case]:
    for words, named in WORDS:
        yield Case(f"attngraph {words}", lambda world, spot, words=words: words, (named,))
    for command, *words in ASKED:

        def asked(world, spot, command=command, words=words) -> list[str]:
            return [*good_words(command, world, spot), *(word.format(world=world) for word in words)]

        said = [part for word in words[1:] for part in re.split("[,=/]", word) if len(part) > 2]
        yield Case(f"{command} {' '.join(words)}", asked, (words[0].partition("=")[0], *said))
