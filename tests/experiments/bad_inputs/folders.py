"""Folders for results that are something else, and options that contradict one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import JSON_FILE
from tests.experiments.bad_inputs.options import LOOKED_AT, good_words
from tests.experiments.bad_inputs.world import World

RESULTS = {
    "attention": ("maps.csv", "viewer.html", "maps_first.png"),
    "tsne": ("coordinates.csv", "quality.csv", "tsne-role.png"),
    "heterophily": ("heterophily.csv", "heterophily.json", "curves-1.png"),
    "bench": ("results.json", "bench.md", "bench.png"),
    "planted": ("planted.csv", "conditions.csv", "planted.png"),
    "ablation": ("results.json", "ablation.md", "ablation.csv"),
    "table": ("two/results.json", "two/two.md", "two/two.csv"),
    "search": ("trials.csv", "search.md", "settings.yaml"),
    "sweep": ("settings.yaml", "sweep.csv", "sweep.md"),
    "pretrain": ("config.json", "model.safetensors", "scores.json"),
    "scenes": ("manifest.json", "notes.txt", "vqa_v2"),
    "significance": ("significance.csv", "significance.md"),
    "report": ("report.html", "report.md", "report-1-scores.png"),
    "data": ("check.txt", "check.json"),
    "score": ("scores.csv", "scores.json", "results.json"),
    "predict": ("results.json",),
    "evaluate": ("scores.csv", "scores.json", "statistics.npz", "predictions.json"),
    "train": ("data",),
    "convert": ("config.json", "model.safetensors", "conversion.json"),
}


def cases() -> Iterator[Case]:
    yield from _foreign()
    yield from _contradictions()
    yield from _unknown_names()
    yield from _states()


def _foreign() -> Iterator[Case]:
    for command, names in RESULTS.items():
        for name in names:

            def words(world: World, spot: Path, command=command, name=name) -> list[str]:
                file = spot / "out" / name
                file.parent.mkdir(parents=True)
                file.write_text("mine")
                return good_words(command, world, spot)

            yield Case(f"{command} --out with somebody else's {name}", words, ("out", name))


def _with(command: str, *words: str, named: tuple[str, ...] = (), name: str = "") -> Case:
    return Case(
        name or f"{command} {' '.join(words)}",
        lambda world, spot: [*good_words(command, world, spot), *(w.format(world=world) for w in words)],
        named or (words[0], words[-1]),
    )


def _contradictions() -> Iterator[Case]:
    for command in LOOKED_AT:
        yield _with(command, "--data", "{world.data}", named=("--data",), name=f"{command} texts and data")
        yield Case(
            f"{command} images and data",
            lambda world, spot, command=command: [
                command,
                "--images",
                str(world.picture),
                "--data",
                str(world.data),
                "--out",
                str(spot / "out"),
            ],
            ("--images",),
        )
        yield Case(
            f"{command} images and a model of texts",
            lambda world, spot, command=command: [
                *good_words(command, world, spot),
                "--model",
                str(world.model("bert")),
                "--images",
                str(world.picture),
            ],
            ("--images",),
        )
        yield Case(
            f"{command} texts and a model of images",
            lambda world, spot, command=command: [
                *good_words(command, world, spot),
                "--model",
                str(world.model("vit")),
            ],
            ("--texts",),
        )
        yield _with(command, "--heads", "99")
        yield _with(command, "--layers", "*crossattentoin*")
        yield _with(command, "--layers", "encoder.layer.0.attention.slef")
    yield _with("attention", "--tokens", "frist")
    yield _with("attention", "--tokens", "-1")
    yield _with("attention", "--tokens", "99")
    yield _with("tsne", "--points", "2")
    yield _with("tsne", "--perplexity", "0.5")
    yield _with("tsne", "--perplexity", "1e6")
    yield _with("tsne", "--map-seeds", "0", "-1", named=("--map-seeds",))
    yield _with("heterophily", "--bins", "4", "--spectra", named=("--bins",))
    yield _with("heterophily", "--clusters", "1")
    yield _with("heterophily", "--p", "0.5")
    yield _with("heterophily", "--device", "mps")
    yield from _of_significance()
    yield from _of_report()
    yield Case(
        "scenes without --out",
        lambda world, spot: ["scenes"],
        ("--out",),
    )


def _of_significance() -> Iterator[Case]:
    for words in (
        ["--rows", "pgn"],
        ["--rows", ","],
        ["--rows", "gcn"],
        ["--baseline", "GCN"],
        ["--columns", "vqa.accuracy,vqa"],
    ):
        yield _with("significance", *words, named=("--baseline", *words, "row", "column"))
    for words in ([], ["nowhere"], ["{world.data}"], ["{world.texts}"]):
        name = f"significance {' '.join(words) or 'without words'}"
        yield Case(
            name,
            lambda world, spot, words=words: ["significance", *(w.format(world=world) for w in words)],
            ("FOLDER", "nowhere", "data", "texts.txt"),
        )


def _of_report() -> Iterator[Case]:
    yield _with("report", "--baseline", "pgn")
    yield _with("report", "--baseline", "GCN", named=("GCN",))
    for place in ("nowhere", "{world.data}", "{world.texts}", "{world.answers}"):
        yield Case(
            f"report {place}",
            lambda world, spot, place=place: [
                "report",
                str(world.run),
                place.format(world=world),
                "--out",
                str(spot / "out"),
            ],
            ("nowhere", "data", "texts.txt", "answers.json"),
        )


def _unknown_names() -> Iterator[Case]:
    """Near misses and empty lists."""
    for switch in ([], ["--dry-run"]):
        for words in (
            ["--gnn", "pgn"],
            ["--gnn", "GCN"],
            ["--gnn", ","],
            ["--gnn", "gcn,,appnpp"],
            ["--gnn", "gcn;appnp"],
            ["--tasks", "vqaa"],
            ["--tasks", ","],
            ["--tasks", "vqa,captions"],
            ["--join", "belnd"],
            ["--join", "blend,gatde"],
            ["--join", ","],
            ["--preset", "quik"],
            ["--preset", "Quick"],
            ["--preset", "nowhere/mine.yaml"],
            ["--device", "gpu"],
            ["--device", "cuda:99"],
            ["--device", "meta"],
            ["--jobs", "0"],
            ["--seeds", "0"],
            ["--seed", "4294967295"],
            ["--model", "no/such-model"],
        ):
            if not switch or words[0] not in ("--model",):
                yield _with("ablation", *words, *switch, named=(words[0], words[1], words[1].split(",")[-1]))
    for words in (
        ["--rows", "appnp"],
        ["--rows", "GCN"],
        ["--rows", ","],
        ["--tasks", "vqa"],
        ["--tasks", "vqa2,coc"],
        ["--size", "papr"],
        ["--size", "paper"],  # without --data and --model
        ["--settings", "nowhere.yaml"],
        ["--seeds", "0"],
    ):
        yield _with("table", *words, named=(words[0], words[1], words[1].split(",")[-1], "--data"))
    yield Case("table without a name", lambda world, spot: ["table"], ("TABLE",))
    yield Case("table with a wrong name", lambda world, spot: ["table", "mian"], ("mian",))
    for command in ("search", *LOOKED_AT):
        yield _with(command, "--model", "no/such-model")
        yield _with(command, "--model", "minibert")


def _states() -> Iterator[Case]:
    """What an earlier run left, damaged."""

    def held(command: str, name: str, how: str, damage: Callable[[Path], object]) -> Case:
        def words(world: World, spot: Path) -> list[str]:
            file = spot / "out" / name
            file.parent.mkdir(parents=True)
            file.write_text("{}")
            damage(file)
            return good_words(command, world, spot)

        return Case(f"{command} {name} {how}", words, (name, "out"))

    files = {"ablation": ["results.json", "cells/gcn/vqa/seed0/config.json", "data/manifest.json"]}
    files["table"] = ["two/results.json", "cells/gcn/vqa2/seed0/config.json", "data/manifest.json"]
    files |= {"search": ["data/manifest.json"], "scenes": ["manifest.json"], "bench": ["results.json"]}
    files |= {"planted": ["run.json"]}
    for command in (*LOOKED_AT, "significance", "report", "score"):
        files[command] = ["run.json"]
    for command, names in files.items():
        for name in names:
            for how, damage in JSON_FILE.items():
                if how not in ("missing", "a link to itself"):
                    yield held(command, name, how, damage)
