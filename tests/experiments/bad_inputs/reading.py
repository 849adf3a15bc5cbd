"""Reading: each kind of file that a command reads, damaged in some of the ways that there are, so that each
way occurs in several kinds of files; and contents that only this kind of file can have.

Data sets in their official files and the files of tables have tests of their own (``data/test_damaged.py``,
``tables/test_grid.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from tests.experiments.bad_inputs.asking import good_words
from tests.experiments.bad_inputs.damage import (
    ANY_FILE,
    BINARY_FILE,
    JSON_FILE,
    PICTURES,
    TENSORS,
    Damage,
    changed,
    written,
)
from tests.experiments.bad_inputs.world import PRESET, SIZE, TABLE, Case, World

#: The words of a command, and the file that is damaged, in a folder of its own.
Prepared = tuple[list[str], Path]
MOST = 2  # ways of each kind of file
REGIONS = '{"picture.png": [{"box": [0, 0, 8, 8], "words": ["ball"]}]}'


@dataclass(frozen=True)
class Input:
    """A kind of file.

    Args:
        name: in the names of cases.
        prepare: given the world and an empty folder, writes the file in there.
        named: the message holds one of these.
        ways: to damage it, some of which are taken in turn.
        but: ways that are no fault.
        contents: further damages, all of which are taken.
    """

    name: str
    prepare: Callable[[World, Path], Prepared]
    named: tuple[str, ...]
    ways: dict[str, Damage]
    but: tuple[str, ...] = ()
    contents: dict[str, Damage] = field(default_factory=dict)


def _after(command: str, option: str, name: str, content: str) -> Callable[[World, Path], Prepared]:
    """A file of that name and content, after an option."""

    def prepare(world: World, spot: Path) -> Prepared:
        (spot / name).write_text(content)
        return [*good_words(command, world, spot), option, str(spot / name)], spot / name

    return prepare


def _data(file: str, task: str, command: str) -> Callable[[World, Path], Prepared]:
    """A file of drawn data."""

    def prepare(world: World, spot: Path) -> Prepared:
        data = world.copy(world.data, spot)
        about = ["--model", str(world.model("blip")), "--task", task, "--examples", "2"]
        return [command, *about, "--data", str(data), "--out", str(spot / "out")], data / file

    return prepare


def _model(command: str, name: str, file: str, option: str = "--model") -> Callable[[World, Path], Prepared]:
    """A file of a model or an adapter."""

    def prepare(world: World, spot: Path) -> Prepared:
        folder = world.copy(world.adapter if option == "--adapter" else world.model(name), spot)
        good = [command, "--examples", "2", "--out", str(spot / "out")]
        words = good if option == "--adapter" else good_words(command, world, spot)
        return [*words, option, str(folder)], folder / file

    return prepare


def _regions(world: World, spot: Path) -> Prepared:
    words, file = _after("heterophily", "--regions", "mine.json", REGIONS)(world, spot)
    words[words.index("--model") + 1] = str(world.model("captioner"))
    return [*words, "--images", str(world.picture)], file


def _table(world: World, spot: Path) -> Prepared:
    file = spot / "mine.yaml"
    file.write_text(TABLE)
    return ["table", str(file), "--size", str(world.size), "--out", str(spot / "out")], file


def _plugin(world: World, spot: Path) -> Prepared:
    (spot / "mine.py").write_text("x = 1\n")
    return ["--plugin", str(spot / "mine.py"), *good_words("scenes", world, spot)], spot / "mine.py"


def _picture(world: World, spot: Path) -> Prepared:
    file = world.copy(world.picture, spot)
    model = ["--model", str(world.model("vit")), "--images", str(file)]
    return ["attention", *model, "--out", str(spot / "out")], file


def _cell(command: str, name: str) -> Callable[[World, Path], Prepared]:
    def prepare(world: World, spot: Path) -> Prepared:
        folder = world.copy(world.run, spot)
        file = folder / "cells" / "pgnn" / "vqa" / "seed0" / name
        return [command, str(folder), "--out", str(spot / "out")], file

    return prepare


def _archive(world: World, spot: Path) -> Prepared:
    folder = world.copy(world.archives, spot)
    return ["significance", str(folder), "--out", str(spot / "out")], folder / "seed-01.tar.xz"


def _original(name: str) -> Callable[[World, Path], Prepared]:
    """A checkpoint in its authors' names, or the vocabulary beside it."""

    def prepare(world: World, spot: Path) -> Prepared:
        folder = world.copy(world.original.parent, spot)
        return ["convert", "blip", str(folder / "blip.pth"), "--out", str(spot / "out")], folder / name

    return prepare


def _checked(world: World, spot: Path) -> Prepared:
    folder = world.copy(world.model("blip"), spot)
    (folder / "scores.json").write_text(json.dumps({"scores": {"exact_average": 0.5}}))
    return ["pretrain", "--check", "--out", str(folder)], folder / "scores.json"


def _answers(world: World, spot: Path) -> Prepared:
    file = world.copy(world.answers, spot)
    return ["score", str(file), "--task", "vqa", "--data", str(world.data), "--out", str(spot / "out")], file


def _asked(world: World, spot: Path) -> Prepared:
    (spot / "mine.jsonl").write_text(json.dumps({"image": str(world.picture), "text": "what ?"}) + "\n")
    words = ["predict", str(world.cell), "--data", str(world.data), "--file", str(spot / "mine.jsonl")]
    return [*words, "--out", str(spot / "out")], spot / "mine.jsonl"


QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
INPUTS = (
    Input("questions", _data(f"vqa_v2/{QUESTIONS}", "vqa", "heterophily"), (QUESTIONS,), JSON_FILE),
    Input("pairs", _data("snli_ve/snli_ve_dev.jsonl", "ve", "tsne"), ("snli_ve_dev.jsonl",), JSON_FILE),
    Input("captions", _data("karpathy/dataset_coco.json", "caption", "attention"), ("dataset_coco.json",),
          JSON_FILE),
    Input("scenes", _data("vqa_v2/scenes.json", "vqa", "heterophily"), ("scenes.json",), JSON_FILE,
          ("missing", "a record without fields"), {
        "a scene null": lambda file: file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()))))
    }),
    Input("texts", _after("tsne", "--texts", "mine.txt", "a ball"), ("mine.txt",), ANY_FILE, ("zero bytes",),
          {"blank lines": written(" \n\t\n")}),
    Input("labels", _after("heterophily", "--labels", "mine.json", '{"ball": "noun"}'), ("mine.json",),
          JSON_FILE, contents={"a class a list": written('{"ball": ["noun"]}')}),
    Input("regions", _regions, ("mine.json",), JSON_FILE, contents={
        "another picture": written('{"photo.png": [{"box": [0, 0, 8, 8]}]}'),
        "a box outside": written('{"picture.png": [{"box": [0, 0, 8, 17]}]}'),
    }),
    Input("preset", _after("ablation", "--preset", "mine.yaml", PRESET), ("mine.yaml", "preset"), ANY_FILE,
          contents={
        "no YAML": written("a: [1"), "a date": written("2020-01-01"),
        "code": written("!!python/object/apply:os.getcwd []"),
        "steps nan": written(PRESET.replace("steps: 2", "steps: .nan")),
    }),
    Input("table", _table, ("mine.yaml", "rows"), ANY_FILE),
    Input("size", _after("table", "--size", "mine.yaml", SIZE), ("mine.yaml",), ANY_FILE),
    Input("settings", _after("table", "--settings", "mine.yaml", "reduction: 4"), ("mine.yaml",), ANY_FILE),
    Input("plugin", _plugin, ("mine.py",), ANY_FILE, ("empty",), {
        "no Python": written("def ("), "two lines": written("raise ValueError('one\\ntwo')\n"),
        "exit": written("raise SystemExit(0)\n"), "recursion": written("def f(): f()\nf()\n"),
    }),
    Input("picture", _picture, ("picture.png",), BINARY_FILE,
          contents=PICTURES | {"a pipe": lambda file: [file.unlink(), os.mkfifo(file)]}),
    Input("config.json", _cell("significance", "config.json"), ("config.json",), JSON_FILE),
    Input("scores.json", _cell("report", "scores.json"), ("scores.json",), JSON_FILE, ("missing",)),
    Input("predictions.json", _cell("significance", "predictions.json"), ("predictions.json",), JSON_FILE),
    Input("statistics.npz", _cell("report", "statistics.npz"), ("statistics.npz",), BINARY_FILE),
    Input("archive", _archive, ("seed-01.tar.xz",), BINARY_FILE, ("missing",)),  # the other seeds' stay
    Input("model config", _model("heterophily", "bert", "config.json"), ("bert",), JSON_FILE, contents={
        f"{name} {value!r}": changed(name, value=value)
        for name, value in (("model_type", "no-such-type"), ("num_hidden_layers", -1), ("vocab_size", "x"))
    }),
    Input("model weights", _model("tsne", "bert", "model.safetensors"), ("bert",), BINARY_FILE,
          contents=TENSORS),
    Input("model tokenizer", _model("heterophily", "bert", "tokenizer.json"), ("bert",), JSON_FILE),
    Input("trained model weights", _model("ablation", "blip", "model.safetensors"), ("blip",),
          BINARY_FILE | TENSORS),
    Input("adapter settings", _model("heterophily", "", "adapter_config.json", "--adapter"), ("adapter",),
          JSON_FILE, contents={
        f"{name} {value!r}": changed(name, value=value)
        for name, value in (("gnn", "pgmn"), ("peft_type", "LORA"), ("p", -1), ("reduction", 10**9))
    }),
    Input("adapter weights", _model("tsne", "", "adapter_model.safetensors", "--adapter"), ("adapter",),
          BINARY_FILE | TENSORS),
    Input("checked scores", _checked, ("scores.json",), JSON_FILE, contents={
        f"a score {value}": written(f'{{"scores": {{"exact_average": {value}}}}}') for value in ("NaN", '"a"')
    }),
    Input("original weights", _original("blip.pth"), ("blip.pth",), BINARY_FILE),
    Input("original vocabulary", _original("vocab.txt"), ("vocab.txt", "blip.pth"), BINARY_FILE),
    Input("answers", _answers, ("answers.json",), JSON_FILE, contents={
        "an unknown question": changed(0, "question_id", value=7),
    }),
    Input("asked", _asked, ("mine.jsonl", "a.png"), ANY_FILE, contents={
        "no text": written('{"image": "a.png"}'), "no picture": written('{"image": "a.png", "text": "?"}'),
    }),
)  # fmt: skip


def cases() -> Iterator[Case]:
    turn = count()
    for one in INPUTS:
        ways = [how for how in one.ways if how not in one.but]
        for place in islice(turn, MOST):
            how = ways[place % len(ways)]
            yield _case(one, how, one.ways[how])
        for how, damage in one.contents.items():
            yield _case(one, f"with {how}", damage)


def _case(one: Input, how: str, damage: Damage) -> Case:
    def words(world: World, spot: Path) -> list[str]:
        given, file = one.prepare(world, spot)
        damage(file)
        return given

    return Case(f"{one.name} {how}", words, one.named)
