"""Damaged files that an option names: texts, labels, presets, plugins, pictures."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import ANY_FILE, DEEP, JSON_FILE, TRUNCATED
from tests.experiments.bad_inputs.options import LOOKED_AT, good_words
from tests.experiments.bad_inputs.world import PRESET, SIZE, TABLE, World


def cases() -> Iterator[Case]:
    yield from _texts()
    yield from _labels()
    yield from _regions()
    yield from _presets()
    yield from _tables()
    yield from _plugins()
    yield from _pictures()
    yield from _cells()


def _damaged(
    command: str, option: str, name: str, content: str, how: str, damage: Callable[[Path], object]
) -> Case:
    """The command with a damaged file of that name after the option."""

    def words(world: World, spot: Path) -> list[str]:
        file = spot / name
        file.write_text(content)
        damage(file)
        return [*good_words(command, world, spot), option, str(file)]

    return Case(f"{command} {option} {how}", words, (name,))


def _written(command: str, option: str, name: str, content: str | bytes, how: str) -> Case:
    content = content if isinstance(content, bytes) else content.encode()
    return _damaged(command, option, name, "", how, lambda file: file.write_bytes(content))


def _texts() -> Iterator[Case]:
    blank = {"blank lines": " \n\t\n", "BOM alone": "\ufeff"}
    for command in LOOKED_AT:
        for how, damage in ANY_FILE.items():
            if how != "zero bytes":
                yield _damaged(command, "--texts", "mine.txt", "a ball", how, damage)
        for how, content in blank.items():
            yield _written(command, "--texts", "mine.txt", content, how)


def _labels() -> Iterator[Case]:
    content = {
        "class null": '{"ball": null}',
        "class a list": '{"ball": ["noun"]}',
    }
    for how, damage in JSON_FILE.items():
        yield _damaged("heterophily", "--labels", "mine.json", '{"ball": "noun"}', how, damage)
    for how, text in content.items():
        yield _written("heterophily", "--labels", "mine.json", text, how)


def _regions() -> Iterator[Case]:
    """Of a picture of 16 x 16 pixels."""
    good = '{"picture.png": [{"box": [0, 0, 8, 8], "words": ["ball"]}]}'
    content = {
        "another picture": '{"photo.png": [{"box": [0, 0, 8, 8]}]}',
        "no parts": '{"picture.png": []}',
        "a part null": '{"picture.png": [null]}',
        "an unknown field": '{"picture.png": [{"bbox": [0, 0, 8, 8]}]}',
        "box and mask": '{"picture.png": [{"box": [0, 0, 8, 8], "mask": "picture.png"}]}',
        "a box of three": '{"picture.png": [{"box": [0, 0, 8]}]}',
        "a box of texts": '{"picture.png": [{"box": ["0", "0", "8", "8"]}]}',
        "a box outside": '{"picture.png": [{"box": [0, 0, 8, 17]}]}',
        "an empty box": '{"picture.png": [{"box": [0, 0, 0, 8]}]}',
        "a box of infinity": '{"picture.png": [{"box": [0, 0, Infinity, 8]}]}',
        "no mask": '{"picture.png": [{"mask": "none.png"}]}',
        "a mask that is no picture": '{"picture.png": [{"mask": "mine.json"}]}',
        "words a text": '{"picture.png": [{"box": [0, 0, 8, 8], "words": "ball"}]}',
        "words of two": '{"picture.png": [{"box": [0, 0, 8, 8], "words": ["red ball"]}]}',
        "a picture twice": '{"picture.png": [], "picture.png": []}',
    }
    for how, damage in JSON_FILE.items():
        yield _on_picture(_damaged("heterophily", "--regions", "mine.json", good, how, damage))
    for how, text in content.items():
        yield _on_picture(_written("heterophily", "--regions", "mine.json", text, how))


def _on_picture(case: Case) -> Case:
    """The case with a model that sees, and the world's picture."""

    def words(world: World, spot: Path) -> list[str]:
        command, *given = case.words(world, spot)
        given[given.index("--model") + 1] = str(world.model("captioner"))
        return [command, *given, "--images", str(world.picture)]

    return replace(case, words=words)


def _presets() -> Iterator[Case]:
    good = yaml.safe_load(PRESET)
    wrong: dict[str, object] = {
        "unknown field": good | {"sedes": {}},
        "about null": good | {"about": None},
        "no seeds": {key: value for key, value in good.items() if key != "seeds"},
        "seeds a list": good | {"seeds": ["gcn"]},
        "seeds empty": good | {"seeds": {}},
        "seeds of nobody": good | {"seeds": {"gcm": 1}},
        "seeds negative": good | {"seeds": {"gcn": -1}},
        "seeds a text": good | {"seeds": {"gcn": "many"}},
        "seeds huge": good | {"seeds": {"gcn": 10**15}},
        "steps zero": good | {"budget": {"steps": 0}},
        "steps a text": good | {"budget": {"steps": "some"}},
        "budget a list": good | {"budget": [1]},
        "unknown budget": good | {"budget": {"step": 3}},
        "tasks of nobody": good | {"tasks": {"vqaa": {"steps": 3}}},
        "sizes of two": good | {"sizes": {"questions": [1, 2]}},
        "sizes zero": good | {"sizes": {"questions": [0, 0, 0]}},
        "sizes huge": good | {"sizes": {"questions": [10**15, 1, 1]}},
        "steps nan": good | {"budget": {"steps": float("nan")}},
    }
    for command in ("ablation", "search"):
        for how, damage in ANY_FILE.items():
            yield _damaged(command, "--preset", "mine.yaml", PRESET, how, damage)
        for how, value in wrong.items():
            named = ("mine.yaml", "preset", "gcm", "vqaa", "sizes")
            if command == "ablation" or not how.startswith("seeds"):  # a search has a seed of its own
                yield replace(
                    _written(command, "--preset", "mine.yaml", yaml.safe_dump(value), how), named=named
                )
        texts = {
            "deep": DEEP,
            "no YAML": "a: [1",
            "code": "!!python/object/apply:os.getcwd []",
            "a date": "2020-01-01",
        }
        for how, text in texts.items():
            yield _written(command, "--preset", "mine.yaml", text, how)


def _tables() -> Iterator[Case]:
    """A table's file, and the file that says how much of it is run."""
    good = yaml.safe_load(TABLE)
    wrong = {
        "rows a list": good | {"rows": ["gcn"]},
        "no rows": good | {"rows": {}},
        "a row of nobody": good | {"rows": {"Adapters": ["gcn", "pgnn", "gcm"]}},
        "a row twice": good | {"rows": {"One": ["gcn", "pgnn"], "Two": ["gcn"]}},
        "a baseline that is no row": good | {"baseline": "appnp"},
        "a contender that is no row": good | {"contenders": ["appnp"]},
        "no tasks": good | {"tasks": []},
        "a task of nobody": good | {"tasks": ["vqa3"]},
        "a task on drawn scenes": good | {"tasks": ["vqa"]},
        "published of nobody": good | {"published": ["mian"]},
        "seeds zero": good | {"seeds": 0},
        "unknown field": good | {"rws": 3},
    }
    names = ("mine.yaml", "rows", "gcm", "vqa", "mian")
    for how, damage in ANY_FILE.items():

        def words(world: World, spot: Path, damage=damage) -> list[str]:
            file = spot / "mine.yaml"
            file.write_text(TABLE)
            damage(file)
            return ["table", str(file), "--size", str(world.size), "--out", str(spot / "out")]

        yield Case(f"table file {how}", words, ("mine.yaml",))
        yield _damaged("table", "--size", "mine.yaml", SIZE, how, damage)
        yield _damaged("table", "--settings", "mine.yaml", "reduction: 4\n", how, damage)
    for how, value in wrong.items():

        def words(world: World, spot: Path, value=value) -> list[str]:
            file = spot / "mine.yaml"
            file.write_text(yaml.safe_dump(value))
            return ["table", str(file), "--size", str(world.size), "--out", str(spot / "out")]

        yield Case(f"table file {how}", words, names)
    size = yaml.safe_load(SIZE)
    for how, value in {
        "steps and epochs": size | {"budget": {"steps": 3, "epochs": 2}},
        "layouts zero": size | {"layouts": 0},
        "decoding of nobody": size | {"budget": {"decoding": {"beams": 3}}},
        "schedule of nobody": size | {"recipe": {"schedule": "cosin"}},
        "side zero": size | {"side": 0},
        "settings of a text": size | {"settings": {"methods": {"gcn": {"vqa2": {"learning_rate": "fast"}}}}},
    }.items():
        named = ("mine.yaml", "schedule")
        yield replace(_written("table", "--size", "mine.yaml", yaml.safe_dump(value), how), named=named)


def _plugins() -> Iterator[Case]:
    content = {
        "no Python": "def (",
        "division": "x = 1\n1 / 0\n",
        "unknown package": "import no_such_package_at_all\n",
        "exit": "raise SystemExit(0)\n",
        "two lines": "raise ValueError('one\\ntwo')\n",
        "no message": "raise ValueError\n",
        "recursion": "def f(): f()\nf()\n",
        "base exception": "class Mine(BaseException): pass\nraise Mine('mine')\n",
    }

    def case(how: str, damage: Callable[[Path], object], name: str = "mine.py") -> Case:
        def words(world: World, spot: Path) -> list[str]:
            file = spot / name
            file.write_text("x = 1\n")
            damage(file)
            return ["--plugin", str(file), *good_words("scenes", world, spot)]

        return Case(f"scenes --plugin {how}", words, (name,))

    for how, damage in ANY_FILE.items():
        if how != "empty":
            yield case(how, damage)
    for how, text in content.items():
        yield case(how, lambda file, text=text: file.write_text(text))
    yield case("another kind of file", lambda file: None, "mine.txt")


def _png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _pictures() -> Iterator[Case]:
    def floats(file: Path) -> None:
        Image.fromarray(np.full((8, 8), 1e6, dtype=np.float32)).save(file, format="TIFF")

    damages: dict[str, Callable[[Path], object]] = {
        **ANY_FILE,
        **TRUNCATED,
        "a text": lambda file: file.write_text("no picture"),
        "a bomb": lambda file: file.write_bytes(_png(60000, 60000)),
        "no pixels": lambda file: file.write_bytes(_png(0, 0)),
        "floats out of range": floats,
    }
    for command in LOOKED_AT:
        for how, damage in damages.items():
            for strict in ([], ["--strict"]):

                def words(
                    world: World, spot: Path, damage=damage, strict=strict, command=command
                ) -> list[str]:
                    file = world.copy(world.picture, spot)
                    damage(file)
                    own = [
                        "--model",
                        str(world.model("vit")),
                        "--images",
                        str(file),
                        "--out",
                        str(spot / "out"),
                    ]
                    return [command, *own, *strict]

                yield Case(f"{command} --images {how}{' --strict' * bool(strict)}", words, ("picture.png",))

        def folder(world: World, spot: Path, command=command) -> list[str]:
            (spot / "pictures").mkdir()
            (spot / "pictures" / "notes.txt").write_text("no picture")
            own = ["--model", str(world.model("vit")), "--images", str(spot / "pictures")]
            return [command, *own, "--out", str(spot / "out")]

        yield Case(f"{command} --images a folder without pictures", folder, ("pictures",))
    if hasattr(os, "mkfifo"):

        def pipe(world: World, spot: Path) -> list[str]:
            os.mkfifo(spot / "pipe.png")
            own = ["--model", str(world.model("vit")), "--images", str(spot / "pipe.png")]
            return ["attention", *own, "--out", str(spot / "out")]

        yield Case("attention --images a pipe", pipe, ("pipe.png",))


def _cells() -> Iterator[Case]:
    """Cells and archives of a table."""
    damages = dict.fromkeys(("config.json", "scores.json", "predictions.json"), JSON_FILE)
    damages |= {"statistics.npz": ANY_FILE | TRUNCATED}
    cell = Path("cells", "pgnn", "vqa", "seed0")
    for name, ways in damages.items():
        for how, damage in ways.items():
            if (name == "scores.json" and how == "missing") or (name, how) == (
                "scores.json",
                "a link to itself",
            ):
                continue  # a cell without scores is unfinished

            for command in ("significance", "report"):

                def words(world: World, spot: Path, command=command, name=name, damage=damage) -> list[str]:
                    folder = world.copy(world.run, spot)
                    damage(folder / cell / name)
                    return [command, str(folder), "--out", str(spot / "out")]

                yield Case(f"{command} {name} {how}", words, (name,))
    for how, damage in (ANY_FILE | TRUNCATED).items():
        if how == "missing":
            continue  # the other seeds' archives stay

        def words(world: World, spot: Path, damage=damage) -> list[str]:
            folder = world.copy(world.archives, spot)
            damage(folder / "seed-01.tar.xz")
            return ["significance", str(folder), "--out", str(spot / "out")]

        yield Case(f"significance archive {how}", words, ("seed-01.tar.xz",))
