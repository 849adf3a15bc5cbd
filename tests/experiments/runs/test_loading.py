"""Loader processes: the same run with and without them; changed pictures; pictures that cannot be read."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from experiments.models.images import TrainingTransform
from experiments.runs import device, loading
from experiments.runs import train as training
from experiments.runs.cells import run_cell
from experiments.runs.data import TaskData
from experiments.runs.execution import Execution
from experiments.runs.features import FeatureCache
from experiments.runs.loading import loader_options
from experiments.runs.order import Place, StepSampler
from experiments.runs.prediction import predict
from experiments.runs.recipe import Recipe
from experiments.runs.train import last_state, train
from tests.experiments.runs.small import (
    RECIPE,
    SmallTask,
    method_named,
    small_cell,
    small_examples,
    small_family,
)

CHANGED = replace(RECIPE, augment=True)
CPU = torch.device("cpu")


class Stopped(Exception):
    """Raised from ``on_step``."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


def run(folder, recipe=RECIPE, stop=None, name="run"):
    """Train the whole model; the losses and the predictions."""
    family, chosen = small_family(0.3), method_named("full")
    tuned, examples = chosen.apply(family, {}), small_examples(folder / "pictures")
    cache = FeatureCache(folder / "states")
    data = TaskData(family, SmallTask(examples), examples, chosen.vision, cache, recipe.augment)

    def on_step(step):
        if step == stop:
            raise Stopped

    train(tuned, data, recipe, 5, folder / name, on_step)
    return (folder / name / "metrics.csv").read_text(), predict(tuned, data)


def loaders(monkeypatch, number):
    options = {"num_workers": number, "multiprocessing_context": "fork"}
    monkeypatch.setattr(training, "loader_options", lambda reads, device: options if number and reads else {})


def test_scores_do_not_depend_on_loaders_nor_on_an_interrupt(tmp_path, monkeypatch):
    outcomes = []
    for number in (0, 1, 2):
        loaders(monkeypatch, number)
        if number == 2:
            with pytest.raises(Stopped):
                run(tmp_path, CHANGED, stop=5, name="run2")
        outcomes.append(run(tmp_path, CHANGED, name=f"run{number}"))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert run(tmp_path, name="plain")[0] != outcomes[0][0], "changed pictures make another run"


def test_seed_step_and_place_decide_on_changes():
    places = list(StepSampler(8, 4, 3, 6))
    assert len({place.seed for place in places}) == 24
    assert places[8:12] == list(StepSampler(8, 4, 3, 3))[8:12], "not how many steps there are"
    assert not {p.seed for p in StepSampler(8, 4, 4, 6)} & {place.seed for place in places}


def test_pictures_are_changed_only_in_training_and_never_cached(tmp_path):
    examples = small_examples(tmp_path / "pictures")
    made = [
        TaskData(
            small_family(), SmallTask(examples), examples, vision, FeatureCache(tmp_path / "states"), changed
        )
        for vision in ("frozen", "trained", "zero")
        for changed in (True, False)
    ]
    assert [data.features is None for data in made] == [True, False, True, True, True, True]
    frozen, trained = made[0], made[2]
    seen = [data[Place(2, 0.0, seed)].image for data in (frozen, trained) for seed in (1, 1, 2)]
    assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in seen)
    content = [image.tobytes() for image in seen]
    assert content[0] == content[1] != content[2] and content[:3] == content[3:]
    assert frozen.sample(2).image == examples[2].image, "as it is for scoring"
    assert torch.equal(made[4][Place(2, 0.0, 1)].image, made[5][Place(2, 0.0, 1)].image)


def test_pictures_are_mirrored_where_the_task_allows_it_and_no_text_names_a_side(tmp_path, monkeypatch):
    examples = small_examples(tmp_path / "pictures")
    examples[1] = replace(examples[1], prompt="what is on the left ?")
    examples[2] = replace(examples[2], references=("right",))
    task, asked = SmallTask(examples), []
    noted = lambda self, picture, seed, mirrors: asked.append(mirrors)  # noqa: E731
    monkeypatch.setattr(TrainingTransform, "__call__", noted)
    for task.mirrors in (False, True):
        data = TaskData(small_family(), task, examples, "trained", FeatureCache(tmp_path / "states"), True)
        for position in range(4):
            data[Place(position, 0.0, 0)]
    assert asked == [False] * 4 + [True, False, False, True]


def test_loaders_only_where_pictures_are_read(monkeypatch):
    monkeypatch.setattr(loading.sys, "platform", "linux")
    if os.path.exists("/dev/shm"):
        assert loader_options(True, CPU).get("dataloader_num_workers", 1) == 1
        assert (
            1 <= loader_options(True, torch.device("cuda")).get("dataloader_num_workers", 1) <= loading.MOST
        )
        assert loader_options(False, CPU) == {}
        monkeypatch.setattr(loading, "SHARED_MEMORY", 2**60)
        assert loader_options(True, CPU) == {}
    monkeypatch.setattr(loading.sys, "platform", "darwin")
    assert loader_options(True, CPU) == {}


def _loads(sending):
    loader = multiprocessing.get_context("fork").Process(target=_waits)
    loader.start()
    sending.send(loader.pid)
    time.sleep(60)


def _waits():
    loading.begin_loader(0)
    time.sleep(60)


def test_loaders_end_with_a_killed_run():
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    parent = context.Process(target=_loads, args=(sending,))
    parent.start()
    loader = receiving.recv()
    time.sleep(0.5)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    for _ in range(100):
        if not loading_runs(loader):
            break
        time.sleep(0.1)
    assert not loading_runs(loader)


def loading_runs(process):
    try:
        return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- pictures that cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("harm", ["vanished", "cut off"])
def test_a_picture_that_vanishes_in_the_middle_is_named_and_the_run_goes_on(
    number, harm, tmp_path, monkeypatch
):
    """In one line, in a loader's own words."""
    loaders(monkeypatch, number)
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e-2, 8, batch_size=4))
    run, steps = Execution(tmp_path, cache_gb=0), []
    picture, away = tmp_path / "pictures" / "2.png", tmp_path / "away.png"

    def vanish(step):
        steps.append(step)
        if step == 3:
            picture.rename(away)
            if harm == "cut off":
                picture.write_bytes(away.read_bytes()[:300])

    with pytest.raises(UserError, match=r"2\.png (cannot be read|not found).*: (replace|check)") as error:
        run_cell(cell, run, on_step=vanish)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert last_state(cell.folder(tmp_path)).name in ("step-3.pt", "step-6.pt")
    away.replace(picture)
    again = []
    result = run_cell(cell, run, on_step=again.append)
    assert again[0] in (4, 7) and result["examples"] == 8
