"""Damaged models and adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import ANY_FILE, JSON_FILE, TRUNCATED, change_json
from tests.experiments.bad_inputs.options import LOOKED_AT, good_words
from tests.experiments.bad_inputs.world import World

PARTS = ("config.json num", "config.json hidden", "config.json vocab", "config.json model")
WEIGHTS = "model.safetensors"


def cases() -> Iterator[Case]:
    yield from _models()
    yield from _adapters()
    yield from _other_models_adapters()
    yield from _checked()
    yield from _originals()


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Reads, changes and writes tensors."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(name for name in tensors if tensors[name].dim() == 2 and "pooler" not in name)[-1]


def _cut(tensors: dict[str, torch.Tensor]) -> None:
    name = _first(tensors)
    tensors[name] = tensors[name][1:].clone()


def _to_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)].fill_(float("nan"))


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "a tensor missing": lambda tensors: tensors.pop(_first(tensors)),
    "no tensors": lambda tensors: tensors.clear(),
    "a tensor of another shape": _cut,
    "tensors of other names": lambda tensors: [
        tensors.__setitem__(f"x.{name}", tensors.pop(name)) for name in list(tensors)
    ],
}


def _model_damages() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What is wrong -> how to do it to the model's folder."""
    for how, damage in JSON_FILE.items():
        yield f"config.json {how}", lambda folder, damage=damage: damage(folder / "config.json")
    for how, damage in (ANY_FILE | TRUNCATED).items():
        yield f"weights {how}", lambda folder, damage=damage: damage(folder / WEIGHTS)
    for how, change in TENSORS.items():
        yield f"weights {how}", lambda folder, change=change: change_weights(folder / WEIGHTS, change)
    for how, damage in JSON_FILE.items():
        yield f"tokenizer.json {how}", lambda folder, damage=damage: damage(folder / "tokenizer.json")
    fields = {
        "model_type": ["", None, 3, "no-such-type"],
        "num_hidden_layers": [1, 3, 0, -1, "two", None],
        "hidden_size": [8, 0, "x", None, 10**9],
        "num_attention_heads": [3, 0, -2, "x", None],
        "vocab_size": [3, 0, "x"],
    }
    for field, values in fields.items():
        for value in values:
            yield (
                f"config.json {field} {value!r}",
                lambda folder, field=field, value=value: change_json(folder / "config.json", (field,), value),
            )


def _models() -> Iterator[Case]:
    for command in LOOKED_AT:
        name = "captioner" if command == "attention" else "bert"
        for how, damage in _model_damages():
            if command == "attention" and how.startswith(PARTS):
                continue  # a captioner's configuration has two parts of its own

            def words(world: World, spot: Path, damage=damage, command=command, name=name) -> list[str]:
                folder = world.copy(world.model(name), spot)
                damage(folder)
                return [*good_words(command, world, spot), "--model", str(folder)]

            yield Case(f"{command} --model {how}", words, (name,))
    for command in ("ablation", "search"):
        for how, damage in _model_damages():
            if how.startswith(PARTS):
                continue  # so has a BLIP's

            def words(world: World, spot: Path, damage=damage, command=command) -> list[str]:
                folder = world.copy(world.model("blip"), spot)
                damage(folder)
                return [*good_words(command, world, spot), "--model", str(folder)]

            yield Case(f"{command} --model {how}", words, ("blip",))
        for name in ("bert", "vit"):
            yield Case(
                f"{command} --model {name}, which reads no images and texts",
                lambda world, spot, command=command, name=name: [
                    *good_words(command, world, spot),
                    "--model",
                    str(world.model(name)),
                ],
                (name, "--model"),
            )


def _adapter_words(command: str, world: World, spot: Path, folder: Path) -> list[str]:
    return [command, "--adapter", str(folder), "--examples", "2", "--out", str(spot / "out")]


def _adapters() -> Iterator[Case]:
    def settings(name: str, value: object) -> Callable[[Path], object]:
        return lambda folder: change_json(folder / "adapter_config.json", (name,), value)

    damages: dict[str, Callable[[Path], object]] = {}
    for how, damage in JSON_FILE.items():
        damages[f"settings {how}"] = lambda folder, damage=damage: damage(folder / "adapter_config.json")
    weights = "adapter_model.safetensors"
    for how, damage in (ANY_FILE | TRUNCATED).items():
        damages[f"weights {how}"] = lambda folder, damage=damage: damage(folder / weights)
    for how, change in TENSORS.items():
        damages[f"weights {how}"] = lambda folder, change=change: change_weights(folder / weights, change)
    for field, values in {
        "gnn": ["pgmn", None, 3, []],
        "peft_type": ["LORA", "x", None],
        "p": ["x", -1, 1e9, [1]],
        "mu": ["x", -1],
        "join": ["glue", None, 3],
        "reduction": [0, "x", 10**9],
    }.items():
        for value in values:
            damages[f"settings {field} {value!r}"] = settings(field, value)
    for how, damage in damages.items():
        command = LOOKED_AT[len(how) % 3]

        def words(world: World, spot: Path, damage=damage, command=command) -> list[str]:
            folder = world.copy(world.adapter, spot)
            damage(folder)
            return _adapter_words(command, world, spot, folder)

        yield Case(f"{command} --adapter {how}", words, ("adapter",))


def _other_models_adapters() -> Iterator[Case]:
    for command in LOOKED_AT:
        yield Case(
            f"{command} --adapter of another model",
            lambda world, spot, command=command: [
                *good_words(command, world, spot),
                "--adapter",
                str(world.adapter),
            ],
            ("adapter",),
        )
        yield Case(
            f"{command} --adapter a model",
            lambda world, spot, command=command: _adapter_words(command, world, spot, world.model("blip")),
            ("blip",),
        )


def _checked() -> Iterator[Case]:
    """``pretrain --check`` on damaged checkpoints."""
    good = json.dumps({"exact_average": 0.5})
    damages: dict[str, Callable[[Path], object]] = {
        "without scores": lambda folder: None,
        "without config.json": lambda folder: [
            (folder / "scores.json").write_text(good),
            (folder / "config.json").unlink(),
        ],
        "without weights": lambda folder: [
            (folder / "scores.json").write_text(good),
            (folder / WEIGHTS).unlink(),
        ],
    }
    for how, damage in JSON_FILE.items():
        damages[f"scores.json {how}"] = lambda folder, damage=damage: [
            (folder / "scores.json").write_text(good),
            damage(folder / "scores.json"),
        ]
    for how, content in {
        "a score null": '{"exact_average": null}',
        "a score a text": '{"exact_average": "much"}',
        "a score nan": '{"exact_average": NaN}',
    }.items():
        damages[f"scores.json {how}"] = lambda folder, content=content: (folder / "scores.json").write_text(
            content
        )
    for how, damage in damages.items():

        def words(world: World, spot: Path, damage=damage) -> list[str]:
            folder = world.copy(world.model("blip"), spot)
            damage(folder)
            return ["pretrain", "--check", str(folder)]

        yield Case(f"pretrain --check {how}", words, ("blip", "--check"))


def _originals() -> Iterator[Case]:
    """Checkpoints in their authors' names, and the vocabulary beside them."""
    for name in ("blip.pth", "vocab.txt"):
        for how, damage in (ANY_FILE | TRUNCATED).items():
            for command in ("convert", "attention"):

                def words(world: World, spot: Path, damage=damage, command=command, name=name) -> list[str]:
                    folder = world.copy(world.original.parent, spot)
                    damage(folder / name)
                    good = good_words(command, world, spot)
                    file = str(folder / "blip.pth")
                    return (
                        ["convert", "blip", file, *good[3:]]
                        if command == "convert"
                        else [*good, "--model", file]
                    )

                yield Case(f"{command} {name} {how}", words, (name, "blip.pth"))
