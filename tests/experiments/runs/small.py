"""A task of a few small pictures and a BLIP of one layer, which train in a second."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn

from attngraph.experiments.data.example import Example
from attngraph.experiments.methods import Tuned, method_named
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.metrics.exact import exact_scores
from attngraph.experiments.models.blip import BlipCaptioner, build_model
from attngraph.experiments.models.family import ModelFamily
from attngraph.experiments.models.mplug import MPlug
from attngraph.experiments.models.mplug.modeling import build_mini
from attngraph.experiments.runs import cells
from attngraph.experiments.runs.answering import predict
from attngraph.experiments.runs.data import FeatureCache, TaskData
from attngraph.experiments.runs.experiment import Cell, Recipe
from attngraph.experiments.runs.train import Trained, train
from attngraph.experiments.runs.validation import Validation
from attngraph.experiments.studies.pretrain import build_tokenizer
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import Column, Task, accuracy_scores

WORDS = ("red", "blue", "green", "a", "the", "yellow", "of", "black")
RECIPE = Recipe(learning_rate=1e-2, steps=8, batch_size=3)
ADAPTER = {"gnn": "pgnn", "gnn_args": {"p": 1.5, "mu": 0.1}, "join": "blend", "reduction": 4}


class Stopped(Exception):
    """Raised by a test to end what it calls."""


def recipe_of(**changes) -> Recipe:
    """:data:`RECIPE`, changed."""
    return RECIPE.model_copy(update=changes)


def cell(label: str = "pgnn", **fields) -> Cell:
    """A cell of a method of that name, of VQA, with seed 0."""
    return Cell(label=label, **{"method": label, "task": "vqa", "recipe": None, "data": "data", **fields})


class SmallTask(Task):
    """Given examples; a draw decides between the answers, the first of which counts as right."""

    name, title = "small", "Small"
    columns = (Column("small.accuracy", "accuracy"),)
    prompts = MappingProxyType({"mplug": ""})  # for which examples are captions

    def __init__(self, examples):
        self.given = examples

    def examples(self, data, split):
        return list(self.given)

    def target(self, example, draw):
        return example.references[int(draw * len(example.references))]

    def score(self, predictions, examples):
        first = {example.id: example.references[:1] for example in examples}
        return accuracy_scores(self.selects, exact_scores(predictions, first), examples)


def small_examples(folder: Path, count: int = len(WORDS)) -> list[Example]:
    """Questions about pictures of noise, two about each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    for k in range((count + 1) // 2):
        pixels = torch.randint(0, 256, (64, 64, 3), generator=draw, dtype=torch.uint8)
        if not (folder / f"{k}.png").exists():
            Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
    return [
        Example(f"e{k}", folder / f"{k // 2}.png", f"is it {WORDS[k % len(WORDS)]} ?", ("yes", "no"), "yesno")
        for k in range(count)
    ]


def small_family(dropout: float = 0.0) -> BlipCaptioner:
    """A BLIP captioner of one layer, as drawn with seed 0."""
    tokenizer = build_tokenizer(["is", "it"])
    torch.manual_seed(0)
    model = build_model(tokenizer, width=16, vision_layers=1, text_layers=1, heads=2)
    for module in model.text_decoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return BlipCaptioner(model.eval(), tokenizer)


def small_mplug() -> MPlug:
    """An mPLUG of few layers, as drawn with seed 0. It asks nothing: its text encoder and fusion rest."""
    tokenizer = build_tokenizer(["is", "it"])
    tokenizer.bos_token = tokenizer.cls_token
    torch.manual_seed(0)
    return MPlug(
        build_mini(tokenizer, width=16, vision_layers=1, layers=(1, 1, 1), heads=2).eval(), tokenizer
    )


def small_run(
    folder: Path, method: str = "pgnn", dropout: float = 0.0, family: ModelFamily | None = None
) -> tuple[Tuned, TaskData]:
    """A method on the small model, or another one, and the data that it trains on."""
    family = family or small_family(dropout)
    torch.manual_seed(1)
    chosen = method_named(method)
    tuned = chosen.apply(family, ADAPTER if method == "pgnn" else chosen.settings(Settings(), "vqa"))
    examples = small_examples(folder / "pictures")
    return tuned, TaskData(family, SmallTask(examples), examples, FeatureCache(folder / "states"))


def small_cell(folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe | None = None) -> Cell:
    """A cell on the small model and task."""
    monkeypatch.setitem(TASKS, "small", SmallTask(small_examples(folder / "pictures")))
    monkeypatch.setattr(cells, "load_family", lambda name, **options: small_family())
    (folder / "data").mkdir()
    (folder / "data" / "manifest.json").write_text('{"seed": 0}')
    return cell(
        settings=ADAPTER,
        task="small",
        seed=3,
        recipe=recipe or recipe_of(steps=4, batch_size=4),
        data=folder / "data",
    )


@dataclass(frozen=True)
class Outcome:
    """What a training run leaves."""

    weights: dict[str, Tensor]
    metrics: str
    predictions: dict[str, str]
    trained: Trained


def small_validation(folder: Path, tuned: Tuned, recipe: Recipe) -> Validation | None:
    """On four examples, where the recipe validates."""
    if recipe.validate_every is None:
        return None
    examples = small_examples(folder / "pictures", 4)
    task, cache = SmallTask(examples), FeatureCache(folder / "states")
    data = TaskData(tuned.family, task, examples, cache)
    return Validation(tuned, data, task.decoding, recipe, folder / "run")


def train_small(
    folder, method="pgnn", recipe=RECIPE, dropout=0.0, on_step=lambda step: None, family=None
) -> Outcome:
    """Train, and answer; states stay in ``folder / "run"``."""
    tuned, data = small_run(folder, method, dropout, family)
    validation = small_validation(folder, tuned, recipe)
    trained = train(tuned, data, recipe, 5, folder / "run", on_step, validation)
    weights = {name: p.detach().clone() for name, p in tuned.parameters().items()}
    PartialState().wait_for_everyone()  # the first process has written it
    metrics = (folder / "run" / "metrics.csv").read_text()
    return Outcome(weights, metrics, predict(tuned, data, data.task.decoding), trained)
