"""What README and docs show works: Python, commands, links, the notebook."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import shutil

import pytest
from PIL import Image

from attngraph.adapters import SCHEMES
from attngraph.experiments import cli
from attngraph.experiments.data.drawn import make_scenes
from attngraph.experiments.methods import METHODS
from attngraph.experiments.models import FAMILIES
from attngraph.experiments.runs import plugins
from attngraph.experiments.runs.experiment import load_experiment
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tasks import TASKS
from tests.docs.pages import (
    NOTEBOOKS,
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    links,
    mentioned_commands,
    shell_commands,
    short_name,
)

PYTHON_PAGES = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
MOST_NOT_RUN = 3  # Python blocks of all pages that may be marked as not meant to run
MOST_PARSED_ONLY = 51  # `attngraph` commands that are not run

#: Beginnings of commands that are only parsed, unless they are dry, quick or a check: they take from ten
#: minutes to hours, or need the network, a model's file or finished runs. Their own tests run short ones.
ONLY_PARSED = """
--plugin experiments/studies/distances.py
ablation --preset full, ablation --data data/six --out, data fetch, predict runs/six, evaluate runs/six
train paper-vqa2, score runs/coco-val/results.json, search, convert, pretrain, bench, planted, table, sweep
attention --data runs/tables-scenes/data
tsne --model models/capfilt-l, attention --model models/capfilt-l, report, significance runs/ablation-full
significance experiments/results/full
"""
BEGINNINGS = [one.split() for one in ONLY_PARSED.strip().replace("\n", ", ").split(", ")]


def check_attngraph(words: list[str]) -> None:
    """Raises if the parsers do not accept `attngraph` with these words."""
    if not words or words[0] in ("--help", "--version"):
        assert len(words) <= 1
        return
    if words[0] == "--plugin":
        words = words[2:]
    assert words[0] in cli.COMMANDS, f"attngraph has no command {words[0]!r}"
    if len(words) > 1 and "--help" not in words:  # `attngraph scenes` is a name in running text
        cli.command_parser(words[0]).parse_args(words[1:])


def check_make(words: list[str]) -> None:
    """Raises if the Makefile lacks a target or a variable, or the command behind it does not accept ARGS."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    variables = set(re.findall(r"^(\w+) *[:?]?=", makefile, re.MULTILINE))
    for word in words:
        name, is_setting, value = word.partition("=")
        assert name in (variables if is_setting else targets), f"make {word}: no such target or variable"
        if name == "ARGS":
            check_attngraph(["ablation", "--preset", "quick", *shlex.split(value)])


def check(words: list[str]) -> None:
    (check_attngraph if words[0] == "attngraph" else check_make)(words[1:])


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=short_name)
def test_python_runs_as_it_stands(page, tmp_path, monkeypatch):
    """The blocks of a page, in order and in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and block.not_run is None:
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)


def test_blocks_are_run():
    """A block in another language would be run by no test."""
    every = [block for page in PAGES for block in blocks(page)]
    known = {"python", "bash", "text", "json", "yaml", "toml"}
    assert {block.language for block in every if not block.language.startswith("{")} <= known
    marked = [block.language for block in every if block.not_run is not None]
    assert len(marked) <= MOST_NOT_RUN and set(marked) <= {"python"}


def test_commands_are_accepted():
    refused = []
    for page in PAGES:
        for words in [*shell_commands(page), *mentioned_commands(page)]:
            try:
                check(words)
            except (SystemExit, argparse.ArgumentError, AssertionError) as error:
                refused.append(f"{short_name(page)}: {shlex.join(words)}: {error}")
    assert not refused


def test_presets_can_be_read(tmp_path):
    """A YAML block is a preset of the table, or an experiment."""
    shown = [block.text for page in PAGES for block in blocks(page) if block.language == "yaml"]
    assert shown
    for text in shown:
        (tmp_path / "mine.yaml").write_text(text)
        if "method:" in text:
            assert load_experiment(str(tmp_path / "mine.yaml"), []).method in METHODS
        else:
            preset = load_preset(str(tmp_path / "mine.yaml"))
            assert set(preset.counts) <= set(METHODS) and set(preset.by_task) <= set(TASKS)


def shown_commands() -> dict[str, list[str]]:
    """The different `attngraph` commands of all shell blocks."""
    every = (words for page in PAGES for words in shell_commands(page))
    return {shlex.join(words): words[1:] for words in every if words[0] == "attngraph"}


def is_short(words: list[str]) -> bool:
    """Whether a command takes a few seconds."""
    if words[:2] == ["data", "make"] and "--size" not in words:
        return False  # half a minute
    return bool({"doctor", "data", "scenes", "score", "parameters", "--dry-run", "--version"} & set(words))


def is_run(words: list[str]) -> bool:
    """Whether a command is run, and not only parsed."""
    if "--adapter" in words or any(word.startswith("hub:") for word in words):
        return False
    if {"--dry-run", "--check", "--quick", "quick"} & set(words):
        return True
    return not any(len(one) <= len(words) and all(map(str.startswith, words, one)) for one in BEGINNINGS)


RUN = {line: words for line, words in shown_commands().items() if is_run(words)}
SHORT = sorted({words[0] for words in RUN.values() if is_short(words)})
LONG = [pytest.param(words, id=line) for line, words in RUN.items() if not is_short(words)]


@pytest.fixture
def registries():
    """What a plugin adds is taken out again."""
    known = (TASKS, METHODS, FAMILIES, SCHEMES, plugins._loaded)
    before = [dict(registry) for registry in known]
    yield
    for registry, content in zip(known, before):
        registry.clear()
        registry.update(content)


@pytest.mark.parametrize("command", SHORT)
def test_short_commands_run(command, tmp_path, monkeypatch, registries):
    for k, words in enumerate(words for words in RUN.values() if words[0] == command and is_short(words)):
        (tmp_path / str(k)).mkdir()
        assert run(words, tmp_path / str(k), monkeypatch) == 0, shlex.join(words)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", LONG)
def test_long_commands_run(words, tmp_path, monkeypatch, registries):
    assert run(words, tmp_path, monkeypatch) == 0


def run(words, folder, monkeypatch) -> int:
    """A command's exit code, in a folder of its own with the files that the pages speak of."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 64), "blue").save(folder / "photos" / "blue.png")
    (folder / "sentences.txt").write_text("a blue square\nan orange circle\n")
    (folder / "questions.txt").write_text("what color is it ?\n")
    asked = TASKS["easy_vqa"].examples(folder, "test")
    answers = [{"id": example.id, "answer": "yes"} for example in asked]
    (folder / "answers.json").write_text(json.dumps(answers))
    (shown,) = (block for page in PAGES for block in blocks(page) if block.language == "json")
    (folder / "regions.json").write_text(shown.text)
    Image.new("RGB", (64, 64), "red").save(folder / "photo.jpg")
    (folder / "asked.jsonl").write_text('{"image": "photo.jpg", "text": "is there a square ?"}\n')
    if "runs/train/cells" in " ".join(words):
        sets = ["recipe={steps: 2, batch_size: 8}", "train_examples=16", "scenes.questions=[16, 12, 12]"]
        trained = ["train", "scenes-pgnn", "-q", *(part for one in sets for part in ("--set", one))]
        assert cli.main(trained) == 0
    if "data/six" in " ".join(words) and "make" not in words:
        make_scenes(folder / "data" / "six", size=30)
    for word in words:
        if word.startswith("experiments/results/"):
            shutil.copytree(ROOT / word, folder / word)
    for example in (ROOT / "tests" / "experiments" / "examples").glob("example_*.py"):
        shutil.copy(example, folder)
    if words[0] == "ablation":  # its whole training is `make ablation`'s
        words = [*words, "--set", "runs.recipe.steps=4"]
    return cli.main(words)


def test_most_commands_are_run():
    parsed_only = len(shown_commands()) - len(RUN)
    assert parsed_only <= min(MOST_PARSED_ONLY, len(RUN))


def test_links_and_pictures_exist():
    # What is included into the site has links from where it lies.
    broken = []
    for page in PAGES:
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            is_lost = anchor and target.suffix == ".md" and target.exists() and anchor not in anchors(target)
            if not target.exists() or is_lost:
                broken.append(f"{short_name(page)}: {link}")
    assert not broken


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_room_is_in_the_api_reference():
    named = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for block in blocks(page):
            if block.language == "{package-modules}":
                named |= set(block.text.split())
    rooms = {"attngraph", "attngraph.adapters", "attngraph.analysis"}
    rooms |= {
        f"attngraph.experiments.{path.stem}"
        for path in (ROOT / "experiments").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert named == rooms


NUMBER = re.compile(r"-?\d+\.\d+")


def printed(cell) -> str:
    """Text that a cell prints and returns, and a word for each image."""
    shown = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            shown.append("image")
        elif output.get("name") != "stderr":
            shown.append(output.get("text") or data.get("text/plain", ""))
    return " ".join("".join(shown).split())


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=short_name)
def test_notebook_runs_and_its_stored_outputs_are_up_to_date(notebook, tmp_path, monkeypatch):
    """Other machines may round differently, which training amplifies: fractions may differ by 0.05."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    assert notebook.stat().st_size < 150_000
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    text = notebook.read_text(encoding="utf-8")
    run = importlib.import_module("notebook_pages").execute(text, tmp_path)
    stored = [printed(cell) for cell in nbformat.reads(text, as_version=4).cells]
    assert any(stored), f"run docs/_ext/notebook_pages.py on {notebook}"
    for want, got in zip(stored, map(printed, run.cells), strict=True):
        assert NUMBER.sub("#", got) == NUMBER.sub("#", want)
        numbers = [[float(x) for x in NUMBER.findall(one)] for one in (got, want)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.05)


def test_the_way_of_one_run_names_functions_that_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d+ \| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert len(steps) > 15
    for name, functions in steps:
        file = next(path for path in (ROOT / "experiments" / name, ROOT / name) if path.is_file())
        for function in re.findall(r"`([^`]+)`", functions):
            for part in function.split("."):
                assert re.search(rf"\b(def|class) {part}\b", file.read_text(encoding="utf-8")), (
                    name,
                    function,
                )
