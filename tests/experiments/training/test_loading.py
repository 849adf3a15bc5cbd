"""Loader processes: the same run with and without them; changed pictures; pictures that cannot be read."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets.faults import Faults
from experiments.models.images import TrainingTransform
from experiments.training import device, loading, trainer
from experiments.training.data import TaskData
from experiments.training.features import FeatureCache
from experiments.training.loading import loader_options
from experiments.training.order import Place, StepSampler
from experiments.training.prediction import predict
from experiments.training.trainer import train
from tests.experiments.training.small import (
    ADAPTER,
    RECIPE,
    SmallTask,
    method_named,
    small_examples,
    small_family,
)

CHANGED = replace(RECIPE, augment=True)
CPU = torch.device("cpu")


class Stopped(Exception):
    """Raised from ``on_step``."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


def run(folder, method="full", recipe=RECIPE, limit=1, faults=None, count=8, stop=None, name="run"):
    """Train; the losses, the predictions and the data."""
    family, chosen = small_family(0.3), method_named(method)
    torch.manual_seed(1)
    tuned = chosen.apply(family, ADAPTER if method == "pgnn" else {})
    examples = (
        small_examples(folder / "pictures", count)
        if not (folder / "pictures").exists()
        else listed(folder, count)
    )
    cache = FeatureCache(folder / "states", limit)
    data = TaskData(family, SmallTask(examples), examples, chosen.vision, cache, recipe.augment, faults)

    def on_step(step):
        if step == stop:
            raise Stopped

    train(tuned, data, recipe, 5, folder / name, on_step)
    return (folder / name / "metrics.csv").read_text(), predict(tuned, data), data


def listed(folder, count):
    """The examples of pictures that are there, damaged or not."""
    made = small_examples(folder / "more", count)
    return [replace(example, image=folder / "pictures" / example.image.name) for example in made]


def loaders(monkeypatch, number):
    options = {"dataloader_num_workers": number, "dataloader_multiprocessing_context": "fork"}
    monkeypatch.setattr(trainer, "loader_options", lambda reads, device: options if number and reads else {})


@pytest.mark.parametrize(
    "method, recipe",
    [
        ("full", CHANGED),
        *(pytest.param(*way, marks=pytest.mark.slow) for way in (("full", RECIPE), ("pgnn", CHANGED))),
    ],
)
def test_scores_do_not_depend_on_loaders(method, recipe, tmp_path, monkeypatch):
    outcomes = []
    for number in (0, 1, 2):
        loaders(monkeypatch, number)
        outcomes.append(run(tmp_path, method, recipe, name=f"run{number}")[:2])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_changed_pictures_make_another_run(tmp_path):
    assert run(tmp_path, name="a")[0] != run(tmp_path, recipe=CHANGED, name="b")[0]


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 5])
def test_an_interrupted_run_sees_the_same_changes(step, tmp_path):
    whole = run(tmp_path, recipe=CHANGED, name="whole")[:2]
    with pytest.raises(Stopped):
        run(tmp_path, recipe=CHANGED, stop=step)
    assert run(tmp_path, recipe=CHANGED)[:2] == whole


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


@pytest.fixture
def damaged(tmp_path):
    """A folder whose second picture (examples 2 and 3) is cut off and whose fourth (6 and 7) is gone."""
    small_examples(tmp_path / "pictures")
    file = tmp_path / "pictures" / "1.png"
    file.write_bytes(file.read_bytes()[:300])
    (tmp_path / "pictures" / "3.png").unlink()
    return tmp_path


WAYS = [
    ("full", CHANGED, 1),
    ("pgnn", RECIPE, 1),
    pytest.param("full", RECIPE, 1, marks=pytest.mark.slow),
    pytest.param("pgnn", RECIPE, 0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("method, recipe, limit", WAYS)
def test_by_default_they_are_an_error_in_one_line(method, recipe, limit, number, damaged, monkeypatch):
    loaders(monkeypatch, number)
    with pytest.raises(UserError, match=r"[13]\.png (cannot be read|not found).*: (replace|check)") as error:
        run(damaged, method, recipe, limit)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "method, recipe, limit",
    [*WAYS, pytest.param("text", RECIPE, 1, marks=pytest.mark.slow)],  # which hides pictures
)
def test_they_are_left_out_up_to_a_limit(method, recipe, limit, number, damaged, monkeypatch):
    loaders(monkeypatch, number)
    faults = Faults(4)
    _, predictions, data = run(damaged, method, recipe, limit, faults)
    assert list(predictions) == ["e0", "e1", "e4", "e5"]
    assert [example.id for example in data.settle()] == list(predictions)
    assert len(faults) == 4 and "e2: " in faults.messages[0] and "1.png" in faults.messages[0]
    assert len(data.first(3)) == 3 and [sample.name for sample in data.first(9)] == list(predictions)
    with pytest.raises(UserError, match=r"--skip-bad 3 is too few"):
        run(damaged, method, recipe, limit, Faults(3), name="less")


def test_the_next_example_takes_their_place(damaged):
    examples = listed(damaged, 8)
    for vision, limit in (("trained", 1), ("frozen", 1), ("frozen", 0)):
        cache = FeatureCache(damaged / "states", limit)
        data = TaskData(small_family(), SmallTask(examples), examples, vision, cache, faults=Faults(4))
        assert [data[Place(k, 0.0)].name for k in range(8)] == [
            "e0",
            "e1",
            "e4",
            "e4",
            "e4",
            "e5",
            "e0",
            "e0",
        ]
        assert data.left_out() == [2, 3, 6, 7]


def test_with_and_without_a_cache_the_same_examples_are_left_out(damaged):
    cached = run(damaged, "pgnn", limit=1, faults=Faults(4), name="cached")[:2]
    assert run(damaged, "pgnn", limit=0, faults=Faults(4), name="in-place")[:2] == cached


def test_what_an_interrupted_run_left_out_counts(damaged, monkeypatch):
    with pytest.raises(Stopped):
        run(damaged, faults=Faults(4), stop=5)
    (file,) = (damaged / "run" / "states" / "checkpoint-3").glob("left_out.json")
    known = json.loads(file.read_text())
    assert known and set(known) <= {2, 3, 6, 7}
    small_examples(damaged / "good")
    for picture in ("1.png", "3.png"):  # repaired meanwhile: yet they were left out
        (damaged / "good" / picture).replace(damaged / "pictures" / picture)
    faults = Faults(4)
    assert set(run(damaged, faults=faults)[2].left_out()) >= set(known)


def test_no_good_picture_at_all_is_an_error(tmp_path):
    examples = small_examples(tmp_path / "pictures")
    for example in examples:
        example.image.unlink(missing_ok=True)
    data = TaskData(
        small_family(),
        SmallTask(examples),
        examples,
        "trained",
        FeatureCache(tmp_path / "states"),
        faults=Faults(None),
    )
    with pytest.raises(UserError, match="no picture can be read: check the folder"):
        data[Place(0, 0.0)]
