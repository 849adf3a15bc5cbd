"""Asking: words that mean nothing, a wrong value for each type of option, values that only the command can
judge, and options that contradict one another. Whatever an option's type is, one function reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
        "data": ["data", "check", "coco", "--root", str(world.six / "coco")],
        "convert": ["convert", "blip", str(world.original), *out],
        "parameters": ["parameters", "gcn"],
        "doctor": ["doctor"],
    }[command]


#: Type of an option -> the command and option that stand for it, and values that are none of the type.
OF_TYPES = {
    "whole number": ("heterophily", "--heads", ("x", "1.5", "٣", "99999999999999999999999")),
    "range": ("tsne", "--points", ("2", "1e3")),
    "seed": ("pretrain", "--seed", ("-1", "4294967296")),
    "number": ("heterophily", "--p", ("x", "nan", "٣")),
    "choice": ("score", "--split", ("tset", "", "TEST")),
    "several choices": ("train", "--track", ("tensorbord",)),
    "path": ("evaluate", "--data", ("", "/no/such/place", "é\u2028x")),
    "names": ("table", "--rows", (",", "GCNN")),
    "seeds": ("ablation", "--seeds", ("0", "3-1", "1-", "0-9999999999")),
    "model": ("parameters", "--model", ("", "no/such-model", "minibert", "hub:")),
    "device": ("attention", "--device", ("", "gpu", "meta", "cuda:99", "é")),
    "folder": ("bench", "--out", ("", " ", "/dev/null", "/proc/out")),
    "switch": ("planted", "--quick=yes", (None,)),
    "three numbers": ("scenes", "--size", ("0", "x")),
    "change": ("sweep", "--set", ("seeds", "sedes=3", "scenes=1", "runs.recipe.steps=0")),
    "execution": ("search", "--on", ("lokal", "jobs=0", "cpus=2", "threads=nan")),
}
#: Values that only the command can judge, and options that do not go together.
TOGETHER = (
    ("attention", "--data", "{world.data}"),
    ("tsne", "--layers", "*crossattentoin*"),
    ("heterophily", "--model", "{world.folder}/models/vit"),  # which reads no texts
    ("tsne", "--images", "{world.picture}"),  # and sees none
    ("attention", "--tokens", "frist"),
    ("attention", "--task", "vqaa"),
    ("tsne", "--perplexity", "1e6"),
    ("heterophily", "--clusters", "1"),
    ("heterophily", "--labels", "spacy:nowhere"),
    ("significance", "--rows", "pgn"),
    ("significance", "--baseline", "GCN"),
    ("significance", "--columns", "vqa.accuracy,vqa"),
    ("report", "--baseline", "pgn"),
    ("ablation", "--tasks", "vqa,captions"),
    ("ablation", "--preset", "quik"),
    ("ablation", "--dry-run", "--rows", "pgn"),
    ("ablation", "--model", "{world.folder}/models/bert"),
    ("search", "--model", "{world.folder}/models/vit"),
    ("table", "--tasks", "vqa2,coc"),
    ("table", "--size", "paper"),  # without --data and --model
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
    ("heterophily", "--adapter", "{world.adapter}"),  # of another model
)
NAMED = (
    "data",
    "row",
    "method",
    "column",
    "baseline",
    "answers.json",
    "models",
    "adapter",
    "--texts",
    "task",
    "bert",
    "vit",
)
WORDS = (
    (["paint"], "COMMAND"),
    (["scens"], "scens"),
    ([""], "COMMAND"),
    (["--plugin"], "--plugin"),
    (["--plug", "x", "scenes"], "--plug"),
    (["-x"], "-x"),
    (["doctor", "--no-such-option"], "--no-such-option"),
    (["parameters", "gcn", "word-too-many"], "word-too-many"),
    (["scenes"], "--out"),
    (["table"], "TABLE"),
    (["table", "mian"], "mian"),
    (["report", "nowhere", "--out", "nothing"], "nowhere"),
    (["score", "--task", "vqa"], "FILE"),
)


def cases() -> Iterator[Case]:
    for words, named in WORDS:
        yield Case(f"attngraph {words}", lambda world, spot, words=words: words, (named,))
    for kind, (command, option, values) in OF_TYPES.items():
        if option != "--quick=yes":
            yield _case(f"{kind} missing", command, option)
        for value in values:
            number = 3 if kind == "three numbers" else 1
            yield _case(f"{kind} {value!r}", command, option, *([] if value is None else [value] * number))
    for command, *words in TOGETHER:
        yield _case(" ".join(words), command, *words, named=(*words[-1].split(","), *NAMED))


def _case(name: str, command: str, *words: str, named: tuple[str, ...] = ()) -> Case:
    """The words after good ones; the message names one of them, or what is given."""
    option = words[0].partition("=")[0]
    said = [repr(word).strip("'") for word in words[1:] if len(word) > 3 and word.isascii()]
    return Case(
        f"{command} {name}",
        lambda world, spot: [*good_words(command, world, spot), *(w.format(world=world) for w in words)],
        (option, *said, *named, *(["é"] if "é" in words[-1] else [])),
    )
