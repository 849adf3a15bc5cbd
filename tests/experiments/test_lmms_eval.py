"""Models and tasks for lmms-eval. The last test runs where that is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import attngraph
from attngraph.experiments import lmms_eval
from attngraph.experiments.lmms_eval import save_dataset
from attngraph.experiments.lmms_eval.tasks import utils
from attngraph.experiments.models import load_family
from attngraph.experiments.tasks import TASKS

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("own_tables")

FOLDER = Path(lmms_eval.__file__).with_name("tasks")
NAMES = ("snli_ve", "vizwiz_caps")
WAYS = {
    "snli_ve": {"answering": "generate"},
    "vizwiz_caps": {"decoding": {"num_beams": 3, "max_new_tokens": 24}},
}


class Loader(yaml.SafeLoader):
    """Reads ``!function utils.name`` as the function."""


Loader.add_constructor(
    "!function", lambda loader, node: getattr(utils, loader.construct_scalar(node).partition(".")[2])
)


@pytest.fixture(scope="module")
def saved(six, tmp_path_factory) -> Path:
    """A working folder with the data sets where the tasks look for them."""
    folder = tmp_path_factory.mktemp("run")
    for name in NAMES:
        save_dataset(name, six, folder / "data" / "lmms")
    return folder


def task_file(name: str) -> dict:
    return yaml.load((FOLDER / f"attngraph_{name}.yaml").read_text(), Loader)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_the_prompts_and_scores_of_ours(name, six, saved):
    """With the mini-BLIP's answers. Would catch other records, prompts, references or metrics."""
    task, file = TASKS[name], task_file(name)
    table = datasets.load_from_disk(str(saved / file["dataset_path"]))[file["test_split"]]
    examples = list(task.examples(six, "test"))
    assert [doc["id"] for doc in table] == [example.id for example in examples]
    family = load_family()
    texts = file["lmms_eval_specific_kwargs"]["attngraph"]
    prompts = [file["doc_to_text"](doc, texts) for doc in table]
    if name == "snli_ve":
        assert prompts == [task.prompt(example) for example in examples]
    else:
        assert set(prompts) == {""}, "the family's own"
    answers = family.answer([task.sample(one, family.name) for one in examples], task.decoding)
    results = [file["process_results"](doc, [text]) for doc, text in zip(table, answers, strict=True)]
    due = task.score({one.id: text for one, text in zip(examples, answers)}, examples).columns
    for metric in file["metric_list"]:
        values = [result[metric["metric"]] for result in results]
        found = (
            sum(values) / len(values) if metric["aggregation"] == "mean" else metric["aggregation"](values)
        )
        column = f"{name}.{'accuracy' if metric['metric'] == 'acc' else metric['metric']}"
        assert found == pytest.approx(due[column], abs=1e-12) and found > 0
    limits = {key: file["generation_kwargs"][key] for key in ("max_new_tokens", "num_beams")}
    assert limits == {key: getattr(task.decoding, key) for key in limits}


def test_evaluate_takes_the_saved_records(six, saved):
    for name in NAMES:
        table = datasets.load_from_disk(str(saved / "data" / "lmms" / name))
        due = attngraph.evaluate("mini-blip", name, six, **WAYS[name])
        found = attngraph.evaluate("mini-blip", name, table, split="test", **WAYS[name])
        assert found["score"][0] == due["score"][0]


@pytest.mark.timeout(400)
def test_lmms_eval_gives_the_scores_of_evaluate(six, saved):
    """Through the entry point, which an installed attngraph has."""
    pytest.importorskip("lmms_eval")
    words = ["--model", "attngraph", "--model_args", "pretrained=mini-blip", "--device", "cpu"]
    words += ["--tasks", ",".join(f"attngraph_{name}" for name in NAMES), "--include_path", str(FOLDER)]
    words += ["--batch_size", "4", "--output_path", "out"]
    subprocess.run([sys.executable, "-m", "lmms_eval", *words], cwd=saved, check=True)
    (file,) = (saved / "out").rglob("*results.json")
    results = json.loads(file.read_text())["results"]
    for name, metric in (("snli_ve", "acc"), ("vizwiz_caps", "bleu4")):
        due = attngraph.evaluate("mini-blip", name, six, **WAYS[name])["score"][0]
        assert results[f"attngraph_{name}"][f"{metric},none"] == due
