"""What README and docs show works: Python, commands, links, the notebook."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import shutil
import subprocess

import pytest
from PIL import Image

from adapters import SCHEMES
from experiments import cli
from experiments.data.drawn import make_scenes
from experiments.methods import METHODS
from experiments.models import FAMILIES
from experiments.runs import plugins
from experiments.runs.experiment import load_experiment
from experiments.tables.grid import load_preset
from experiments.tasks import TASKS
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

# Commands that are only parsed: they take from ten minutes to hours.
NEVER_RUN = {
    ("ablation", "--preset", "full"): "an hour",
    ("ablation", "--data", "data/six", "--out"): "20 minutes; test_benchmarks.py runs a short one",
    ("data", "fetch"): "downloads",
    ("predict", "runs/six"): "needs a finished table; tests/experiments/commands/test_predict.py makes one",
    ("evaluate", "runs/six"): "needs a finished table, as predict does",
    ("train", "paper-vqa2"): "needs BLIP's checkpoint and GPUs",
    ("score", "runs/coco-val/results.json"): "needs what predict wrote",
    ("search",): "hours",
    ("convert",): "needs BLIP's file; tests/experiments/models/original converts small ones",
    ("pretrain",): "half an hour; tests/experiments/commands/test_pretrain.py runs a short one",
    ("bench",): "20 minutes",
    ("planted",): "26 minutes",
    ("table",): "20 minutes to weeks; tests/experiments/commands/test_table.py runs a short one",
    ("sweep",): "half an hour",
    ("tsne", "--model", "models/capfilt-l"): "needs BLIP's checkpoint",
    ("attention", "--model", "models/capfilt-l"): "needs BLIP's checkpoint",
    ("report",): "needs finished tables; tests/experiments/commands/test_report.py makes small ones",
    ("significance", "runs/ablation-full"): "needs a finished table",
    ("significance", "experiments/results/full"): "test_results.py runs it",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command of `attngraph`."""
    return cli.command_parser(command)


def check_attngraph(words: list[str]) -> None:
    """Raises if the parsers do not accept `attngraph` with these words."""
    if not words or words[0] in ("--help", "--version"):
        assert len(words) <= 1
        return
    if words[0] == "--plugin":
        words = words[2:]
    assert words[0] in cli.COMMANDS, f"attngraph has no command {words[0]!r}"
    if len(words) > 1 and "--help" not in words:  # `attngraph scenes` is a name in running text
        parser_of(words[0]).parse_args(words[1:])


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


def test_few_blocks_are_not_run():
    marked = [block for page in PAGES for block in blocks(page) if block.not_run is not None]
    assert len(marked) <= MOST_NOT_RUN
    assert all(block.language == "python" for block in marked)


def test_every_page_shows_code_in_a_known_language():
    """A block in another language would be run by no test."""
    known = {"python", "bash", "text", "json", "yaml", "toml"}
    wrong = {
        f"{short_name(page)}:{block.line}: {block.language!r}"
        for page in PAGES
        for block in blocks(page)
        if block.language not in known and not block.language.startswith("{")
    }
    assert not wrong


def test_commands_are_accepted():
    refused = []
    for page in PAGES:
        for words in [*shell_commands(page), *mentioned_commands(page)]:
            try:
                check(words)
            except (SystemExit, argparse.ArgumentError, AssertionError) as error:
                refused.append(f"{short_name(page)}: {shlex.join(words)}: {error}")
    assert not refused


#: Options of commands that do not tell experiments apart.
NOT_SETTINGS = {"only", "dry_run", "device", "batch", "check", "on", "quiet"}


def test_commands_that_share_a_folder_do_not_refuse_one_another():
    """Whoever tries one after the other meets no results of other settings."""
    shown: dict[str, dict[str, object]] = {}
    for page in PAGES:
        for words in shell_commands(page):
            if words[0] == "make":
                words = ["attngraph", "ablation"] if words[1:] == ["ablation"] else []
            if (
                len(words) < 2
                or words[1].startswith("-")
                or words[1] in ("scenes", "doctor", "parameters", "train")
            ):
                continue
            options = vars(parser_of(words[1]).parse_args(words[2:]))
            if options["out"] is None and "preset" not in options:
                continue
            out = str(options.pop("out") or f"runs/{words[1]}-{options['preset']}")
            settings = {"command": words[1], **options}
            settings = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
            assert shown.setdefault(out, settings) == settings, f"{short_name(page)}: {shlex.join(words)}"
    assert len(shown) > 10


def test_wrong_commands_are_not_accepted():
    for line in ("attngraph tsne --colors role", "attngraph draw", "make tests", "make test ARG=1"):
        with pytest.raises((SystemExit, argparse.ArgumentError, AssertionError)):
            check(line.split())


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


def reason_not_to_run(words: list[str]) -> str | None:
    """Why a command is only parsed; None if it is run."""
    if any(word.startswith("hub:") for word in words):
        return "needs the network"
    if "--adapter" in words:
        return "needs a finished run"
    for beginning, time in NEVER_RUN.items():
        begins = len(words) >= len(beginning) and all(map(str.startswith, words, beginning))
        if begins and not {"--dry-run", "--check", "--quick"} & set(words):
            return time
    return None


RUN = {line: words for line, words in shown_commands().items() if reason_not_to_run(words) is None}
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
    return cli.main(words)


def test_most_commands_are_run():
    """Commands that are only parsed are counted, so that a new way out shows here."""
    parsed_only = [line for line, words in shown_commands().items() if reason_not_to_run(words) is not None]
    assert len(parsed_only) <= MOST_PARSED_ONLY
    assert len(RUN) >= len(parsed_only)


def test_make_help_names_every_target():
    answer = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    missing = [name for name in targets if name != "help" and f"make {name}" not in answer.stdout]
    assert not missing


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


def test_every_page_is_in_a_table_of_contents():
    docs = ROOT / "docs"
    listed = {"index"}
    for page in PAGES:
        for block in blocks(page):
            if block.language == "{toctree}":
                names = [line for line in block.text.splitlines() if line and not line.startswith(":")]
                listed |= {(page.parent / name).relative_to(docs).as_posix() for name in names}
    pages = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    assert {page.relative_to(docs).with_suffix("").as_posix() for page in pages} == listed


def test_every_room_is_in_the_api_reference():
    named = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for block in blocks(page):
            if block.language == "{package-modules}":
                named |= set(block.text.split())
    rooms = {"attngraph", "adapters", "analysis"}
    rooms |= {
        f"experiments.{path.stem}"
        for path in (ROOT / "experiments").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert named == rooms


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=short_name)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    execute = importlib.import_module("notebook_pages").execute
    execute(notebook.read_text(encoding="utf-8"), tmp_path)


def test_notebooks_are_committed_without_outputs():
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), notebook


def test_figures_of_the_docs_are_made_by_scripts():
    figures = ROOT / "docs" / "figures"
    made = {path.stem for path in figures.iterdir() if path.suffix in (".svg", ".png")}
    assert made == {path.stem for path in figures.glob("*.py")}


def test_the_way_of_one_run_names_functions_that_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d+ \| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert len(steps) > 20
    for name, functions in steps:
        file = next(path for path in (ROOT / "experiments" / name, ROOT / name) if path.is_file())
        for function in re.findall(r"`([^`]+)`", functions):
            for part in function.split("."):
                assert re.search(rf"\b(def|class) {part}\b", file.read_text(encoding="utf-8")), (
                    name,
                    function,
                )
