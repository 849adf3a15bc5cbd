"""Reading: each kind of file that a command reads, damaged in some of the ways that there are, so that each
way occurs in several kinds of files; and the contents that only this kind of file can have.

Data sets in their official files have a table of their own, ``tests/experiments/data/test_damaged.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from tests.experiments.bad_inputs.asking import LOOKED_AT, good_words
from tests.experiments.bad_inputs.damage import (
    ANY_FILE,
    DEEP,
    JSON_FILE,
    PICTURES,
    TENSORS,
    TRUNCATED,
    Damage,
    changed,
    written,
)
from tests.experiments.bad_inputs.world import PRESET, SIZE, TABLE, Case, World

#: The words of a command, and the file that is damaged, in a folder of its own.
Prepared = tuple[list[str], Path]
REGIONS = '{"picture.png": [{"box": [0, 0, 8, 8], "words": ["ball"]}]}'
BINARY = ANY_FILE | TRUNCATED


@dataclass(frozen=True)
class Input:
    """A kind of file.

    Args:
        name: in the names of cases.
        prepare: given the world and an empty folder, writes the file in there.
        named: the message holds one of these.
        ways: to damage it, some of which are taken in turn.
        most: how many are taken.
        but: ways that are no fault.
        contents: further damages, all of which are taken.
    """

    name: str
    prepare: Callable[[World, Path], Prepared]
    named: tuple[str, ...]
    ways: dict[str, Damage]
    most: int = 3
    but: tuple[str, ...] = ()
    contents: dict[str, Damage] | None = None


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
    (spot / "mine.yaml").write_text(TABLE)
    return ["table", str(spot / "mine.yaml"), "--size", str(world.size), "--out", str(spot / "out")], (
        spot / "mine.yaml"
    )


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


def _original(name: str, command: str) -> Callable[[World, Path], Prepared]:
    """A checkpoint in its authors' names, or the vocabulary beside it."""

    def prepare(world: World, spot: Path) -> Prepared:
        folder = world.copy(world.original.parent, spot)
        good, file = good_words(command, world, spot), str(folder / "blip.pth")
        words = ["convert", "blip", file, *good[3:]] if command == "convert" else [*good, "--model", file]
        return words, folder / name

    return prepare


def _checked(world: World, spot: Path) -> Prepared:
    folder = world.copy(world.model("blip"), spot)
    (folder / "scores.json").write_text(json.dumps({"exact_average": 0.5}))
    return ["pretrain", "--check", "--out", str(folder)], folder / "scores.json"


def _answers(world: World, spot: Path) -> Prepared:
    file = world.copy(world.answers, spot)
    return ["score", str(file), "--task", "vqa", "--data", str(world.data), "--out", str(spot / "out")], file


def _asked(world: World, spot: Path) -> Prepared:
    (spot / "mine.jsonl").write_text(json.dumps({"image": str(world.picture), "text": "what ?"}) + "\n")
    words = ["predict", str(world.cell), "--data", str(world.data), "--file", str(spot / "mine.jsonl")]
    return [*words, "--out", str(spot / "out")], spot / "mine.jsonl"


def _box(part: str) -> Damage:
    return written(f'{{"picture.png": [{part}]}}')


QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
INPUTS = (
    Input("questions", _data(f"vqa_v2/{QUESTIONS}", "vqa", "heterophily"), (QUESTIONS,), JSON_FILE, contents={
        "no questions": changed("questions", value=[]),
        "an image that is not there": changed("questions", 0, "image_id", value=999_999),
        "a field of another type": changed("questions", 0, "question", value=3),
    }),
    Input("pairs", _data("snli_ve/snli_ve_dev.jsonl", "ve", "tsne"), ("snli_ve_dev.jsonl",), JSON_FILE),
    Input("captions", _data("karpathy/dataset_coco.json", "caption", "attention"), ("dataset_coco.json",),
          JSON_FILE, contents={"out of the folder": changed("images", 4, "filename", value="../../x.png")}),
    Input("scenes", _data("vqa_v2/scenes.json", "vqa", "heterophily"), ("scenes.json",), JSON_FILE,
          but=("missing", "a link to itself", "a record without fields"), contents={
        f"a scene {value!r}": lambda file, value=value: file.write_text(
            json.dumps(dict.fromkeys(json.loads(file.read_text()), value)))
        for value in (None, [], {})
    }),
    Input("texts", _after("tsne", "--texts", "mine.txt", "a ball"), ("mine.txt",), ANY_FILE, 5,
          ("zero bytes",), {"blank lines": written(" \n\t\n"), "BOM alone": written("\ufeff")}),
    Input("labels", _after("heterophily", "--labels", "mine.json", '{"ball": "noun"}'), ("mine.json",),
          JSON_FILE, contents={"a class a list": written('{"ball": ["noun"]}')}),
    Input("regions", _regions, ("mine.json",), JSON_FILE, contents={
        "another picture": written('{"photo.png": [{"box": [0, 0, 8, 8]}]}'),
        "an unknown field": _box('{"bbox": [0, 0, 8, 8]}'),
        "a box outside": _box('{"box": [0, 0, 8, 17]}'),
    }),
    Input("preset", _after("ablation", "--preset", "mine.yaml", PRESET),
          ("mine.yaml", "preset", "gcm", "vqaa"), ANY_FILE, contents={
        "deep": written(DEEP), "no YAML": written("a: [1"), "a date": written("2020-01-01"),
        "code": written("!!python/object/apply:os.getcwd []"),
        "unknown field": written(PRESET + "sedes: 3"),
        "seeds of nobody": written(PRESET.replace("gcn", "gcm")),
        "steps nan": written(PRESET.replace("steps: 2", "steps: .nan")),
        "sizes huge": written(PRESET.replace("[24", "[1000000000000000")),
    }),
    Input("search preset", _after("search", "--preset", "mine.yaml", PRESET), ("mine.yaml", "preset"),
          ANY_FILE, 2),
    Input("table", _table, ("mine.yaml", "rows", "gcm", "vqa", "mian"), ANY_FILE, contents={
        "a row twice": written(TABLE.replace("gcn, pgnn]}", "gcn, gcn]}")),
        "a task on drawn scenes": written(TABLE.replace("vqa2", "vqa")),
        "published of nobody": written(TABLE + "published: [mian]"),
    }),
    Input("size", _after("table", "--size", "mine.yaml", SIZE), ("mine.yaml",), ANY_FILE, 2, contents={
        "a field of the table": written(SIZE + "baseline: gcn"),
        "settings of a text": written(SIZE + "settings: {methods: {gcn: {vqa2: {learning_rate: fast}}}}"),
    }),
    Input("settings", _after("table", "--settings", "mine.yaml", "reduction: 4"), ("mine.yaml",), ANY_FILE),
    Input("plugin", _plugin, ("mine.py",), ANY_FILE, 3, ("empty",), {
        "no Python": written("def ("), "two lines": written("raise ValueError('one\\ntwo')\n"),
        "exit": written("raise SystemExit(0)\n"), "recursion": written("def f(): f()\nf()\n"),
        "base exception": written("class Mine(BaseException): pass\nraise Mine('mine')\n"),
    }),
    Input("picture", _picture, ("picture.png",), BINARY, 5, contents=PICTURES),
    *(
        Input(f"{name} {command}", _cell(command, name), (name,), ways, 3, but)
        for (name, ways, but), command in zip(
            (
                ("config.json", JSON_FILE, ()),
                ("scores.json", JSON_FILE, ("missing", "a link to itself")),  # it is unfinished then
                ("predictions.json", JSON_FILE, ()),
                ("statistics.npz", BINARY, ()),
            ),
            ("significance", "report") * 2,
        )
    ),
    Input("archive", _archive, ("seed-01.tar.xz",), BINARY, 3, ("missing",)),  # the other seeds' stay
    Input("model config", _model("heterophily", "bert", "config.json"), ("bert",), JSON_FILE, contents={
        f"{field} {value!r}": changed(field, value=value)
        for field, value in (("model_type", "no-such-type"), ("model_type", None), ("num_hidden_layers", -1),
                             ("hidden_size", 10**9), ("num_attention_heads", 3), ("vocab_size", "x"))
    }),
    Input("model weights", _model("tsne", "bert", "model.safetensors"), ("bert",), BINARY, 3,
          contents=TENSORS),
    Input("model tokenizer", _model("heterophily", "bert", "tokenizer.json"), ("bert",), JSON_FILE),
    Input("captioner config", _model("attention", "captioner", "config.json"), ("captioner",), JSON_FILE, 3),
    Input("trained model weights", _model("ablation", "blip", "model.safetensors"), ("blip",),
          BINARY | TENSORS),
    Input("adapter settings", _model("heterophily", "", "adapter_config.json", "--adapter"), ("adapter",),
          JSON_FILE, contents={
        f"{field} {value!r}": changed(field, value=value)
        for field, value in (("gnn", "pgmn"), ("peft_type", "LORA"), ("p", -1), ("mu", "x"), ("join", "glue"),
                             ("reduction", 10**9))
    }),
    Input("adapter weights", _model("tsne", "", "adapter_model.safetensors", "--adapter"), ("adapter",),
          BINARY | TENSORS),
    Input("checked scores", _checked, ("blip", "--check"), JSON_FILE, contents={
        "a score nan": written('{"exact_average": NaN}'), "a score a text": written('{"exact_average": "a"}'),
    }),
    Input("original weights", _original("blip.pth", "convert"), ("blip.pth",), BINARY, 3),
    Input("original vocabulary", _original("vocab.txt", "attention"), ("vocab.txt", "blip.pth"), BINARY, 2),
    Input("answers", _answers, ("answers.json",), JSON_FILE, 3, contents={
        "an unknown question": changed(0, "question_id", value=7),
        "an answer too few": changed(0, value=...),
    }),
    Input("asked", _asked, ("mine.jsonl", "a.png"), ANY_FILE, 3, contents={
        "no text": written('{"image": "a.png"}'), "no picture": written('{"image": "a.png", "text": "?"}'),
    }),
)  # fmt: skip


def cases() -> Iterator[Case]:
    turn = count()
    for one in INPUTS:
        ways = {how: damage for how, damage in one.ways.items() if how not in one.but}
        names = list(ways)
        for place in islice(turn, min(one.most, len(ways))):
            how = names[place % len(names)]
            yield _case(one, how, ways[how])
        for how, damage in (one.contents or {}).items():
            yield _case(one, f"with {how}", damage)
    for task, folder in {"vqa": "vqa_v2/val2014", "caption": "karpathy/val2014"}.items():
        command = LOOKED_AT[len(task) % 3]
        prepared = Input(f"pictures of {task}", _data(folder, task, command), (folder.split("/")[1],), {})
        yield _case(prepared, "missing", lambda place: [*map(os.unlink, place.iterdir()), place.rmdir()])
        yield _case(prepared, "empty", lambda place: [*map(os.unlink, place.iterdir())])
    if hasattr(os, "mkfifo"):
        pipe = Input("picture", _picture, ("picture.png",), {})
        yield _case(pipe, "a pipe", lambda file: [file.unlink(), os.mkfifo(file)])


def _case(one: Input, how: str, damage: Damage) -> Case:
    def words(world: World, spot: Path) -> list[str]:
        given, file = one.prepare(world, spot)
        damage(file)
        return given

    return Case(f"{one.name} {how}", words, one.named)
