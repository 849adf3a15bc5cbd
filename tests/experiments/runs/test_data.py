"""What a run sees: the order of its examples, samples as the method lets the model see them, loaders."""

from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import SCHEMA, Examples
from attngraph.experiments.methods import method_named
from attngraph.experiments.models.augment import TrainingTransform
from attngraph.experiments.runs import data as module
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.answering import predict
from attngraph.experiments.runs.cells import run_cell
from attngraph.experiments.runs.data import (
    FeatureCache,
    Place,
    TaskData,
    loader_options,
    order_of,
    picture_numbers,
    pictures,
    places_of,
    subset,
)
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.train import last_state, train
from tests.experiments.runs.small import (
    SmallTask,
    Stopped,
    recipe_of,
    small_cell,
    small_examples,
    small_family,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    examples = small_examples(folder / "pictures")

    def made(method="frozen", limit=1, augment=False, settings=None):
        chosen, family = method_named(method), small_family()
        chosen.apply(family, settings or {})
        cache, task = FeatureCache(folder / "cache", limit), SmallTask(examples)
        return TaskData(family, task, examples, cache, chosen.hides_image, augment)

    return made


# ---- the order ---------------------------------------------------------------------------------------------


def test_every_epoch_sees_every_example_once_in_a_new_order():
    def epoch(examples, k):
        per_epoch = examples // 4
        steps = range(k * per_epoch, (k + 1) * per_epoch)
        return [place.position for step in steps for place in places_of(examples, 4, 7, step)]

    assert sorted(epoch(12, 0)) == sorted(epoch(12, 1)) == list(range(12)) and epoch(12, 0) != epoch(12, 1)
    assert len(set(epoch(11, 0))) == 8, "what does not fill a batch is left out"
    assert sorted(place.position for place in places_of(3, 64, 0, 5)) == [0, 1, 2], "at most all examples"


def test_draws_and_changes_of_pictures_depend_on_seed_and_step_alone():
    def drawn(*about):
        return [place[1:] for place in places_of(*about)]

    first = drawn(12, 4, 7, 1)
    assert first == drawn(50, 4, 7, 1) and len(set(first)) == 4 and all(0 <= draw < 1 for draw, _ in first)
    for other in (drawn(12, 4, 7, 2), drawn(12, 4, 8, 1)):
        assert not {draw for draw, _ in first} & {draw for draw, _ in other}
        assert not {seed for _, seed in first} & {seed for _, seed in other}
    assert [p.position for p in places_of(12, 4, 8, 1)] != [p.position for p in places_of(12, 4, 7, 1)]


def test_examples_of_a_picture_come_together_in_an_order_that_is_drawn():
    """In groups of four, or of what is left; every group is equally likely to come first, however many
    examples its picture has."""
    picture = torch.tensor([0] * 6 + [1] + [2] * 4 + [3] * 2)[torch.randperm(13)]
    expected = sorted([(0, 4), (0, 2), (1, 1), (2, 4), (3, 2)])
    first, last = Counter(), Counter()
    for seed in range(400):
        order = order_of(13, seed, 1, picture, 4)
        assert sorted(order.tolist()) == list(range(13))
        runs = [(number, len(list(run))) for number, run in groupby(picture[order].tolist())]
        both = [run for run in runs if run == (0, 6)]  # its two groups may meet
        assert sorted([run for run in runs if run not in both] + [(0, 4), (0, 2)] * len(both)) == expected
        first[int(picture[order[0]])] += 1
        last[int(order[picture[order] == 2][0])] += 1
    assert all(abs(first[number] - 400 * share / 5) < 40 for number, share in enumerate((2, 1, 1, 1)))
    assert len(last) == 4 and min(last.values()) > 60, "so is the order within them"


def test_the_order_of_groups_depends_on_seed_and_epoch_alone():
    picture = torch.arange(12) // 3

    def positions(seed, steps, together=3):
        order_of.cache_clear()
        return [p.position for step in steps for p in places_of(12, 4, seed, step, picture, together)]

    epoch = positions(7, range(3))
    assert positions(7, [2]) == epoch[8:], "wherever a run goes on"
    assert sorted(epoch) == sorted(positions(7, range(3, 6))) == list(range(12))
    assert epoch not in (positions(7, range(3, 6)), positions(8, range(3)))
    plain = [p.position for step in range(3) for p in places_of(12, 4, 7, step)]
    assert positions(7, range(3), 1) == plain, "1 groups nothing"


def test_pictures_are_numbered_in_the_order_of_their_list(tmp_path):
    paths = [Path(name) for name in "abcab"]
    examples = [Example(str(k), tmp_path / path, "", (), "") for k, path in enumerate(paths)]
    columns = [[example.id for example in examples], list(map(str, paths)), [""] * 5, [[]] * 5, [""] * 5]
    parts = [[column[part] for column in (*columns, [[]] * 5)] for part in (slice(2), slice(2, 5))]
    rows = pa.Table.from_batches([pa.record_batch(part, SCHEMA) for part in parts])
    for given in (examples, Examples(rows, tmp_path, None)):
        numbers = picture_numbers(given)
        assert numbers.dtype == torch.int64 and numbers.tolist() == [0, 1, 2, 0, 1]
        assert [pictures(given)[number] for number in numbers] == [tmp_path / path for path in paths]


# ---- samples -----------------------------------------------------------------------------------------------


def test_a_draw_picks_the_target(make):
    data = make("full")
    assert [data[2, draw].answer for draw in (0.0, 0.49, 0.5, 0.99)] == ["yes", "yes", "no", "no"]
    assert data.sample(2).answer is None and data.sample(2).prompt == data[2, 0.1].prompt == "is it green ?"
    assert len(data) == 8 and data[2, 0.0].name == "e2"


def test_images_are_shown_as_the_method_says(make):
    trained, frozen, hidden = make("full"), make("frozen"), make("text")
    assert isinstance(trained[2, 0.0].image, Path) and trained.features is None
    states = trained.family.encode_images([trained[2, 0.0].image])[0]
    assert torch.allclose(frozen[2, 0.0].image, states, atol=1e-6)
    assert torch.equal(hidden[2, 0.0].image, torch.zeros(65, 16))
    assert isinstance(make("frozen", limit=0)[2, 0.0].image, Path), "encoded in place without a cache"
    for data in (trained, frozen, hidden):
        inputs = data.family.training_inputs([data[place, 0.2] for place in range(3)])
        labels = inputs.pop("labels")
        assert data.family.logits(inputs).shape[:2] == labels.shape == (3, labels.shape[1])


@pytest.mark.parametrize(
    ("settings", "cached"), [({}, True), ({"target_modules": "all-linear"}, False), ({"bias": "all"}, False)]
)
def test_image_features_are_not_cached_if_the_method_trains_a_part_of_the_image_encoder(
    settings, cached, make
):
    data = make("hra", settings=settings)
    assert (data.features is not None) == cached


def test_pictures_are_changed_only_in_training_and_never_cached(make):
    frozen, trained = make("frozen", augment=True), make("full", augment=True)
    assert frozen.features is None and make("text", augment=True).transform is None
    seen = [data[Place(2, 0.0, seed)].image for data in (frozen, trained) for seed in (1, 1, 2)]
    assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in seen)
    content = [image.tobytes() for image in seen]
    assert content[0] == content[1] != content[2] and content[:3] == content[3:]
    assert frozen.sample(2).image == frozen.examples[2].image, "as it is for scoring"


def test_pictures_are_mirrored_where_the_task_allows_it_and_no_text_names_a_side(tmp_path, monkeypatch):
    examples = small_examples(tmp_path / "pictures")
    examples[1] = replace(examples[1], prompt="what is on the left ?")
    examples[2] = replace(examples[2], references=("right",))
    task, asked = SmallTask(examples), []
    noted = lambda self, picture, seed, mirrors: asked.append(mirrors)  # noqa: E731
    monkeypatch.setattr(TrainingTransform, "__call__", noted)
    for task.mirrors in (False, True):
        data = TaskData(small_family(), task, examples, augment=True)
        for position in range(4):
            data[Place(position, 0.0, 0)]
    assert asked == [False] * 4 + [True, False, False, True]


def test_subsets_do_not_depend_on_method_or_seed():
    examples = list(range(100))
    first = subset(examples, 10)
    assert len(set(first)) == 10 and first != examples[:10]
    torch.manual_seed(5)
    assert subset(examples, 10) == first
    assert all(subset(examples, count) is examples for count in (None, 100, 200))


# ---- loaders -----------------------------------------------------------------------------------------------


@pytest.fixture
def loaders(monkeypatch):
    """``loaders(number)``: so many processes read pictures; a state is saved every three steps."""
    monkeypatch.setattr(training, "SAVE_EVERY", 3)

    def with_number(number):
        options = {"num_workers": number, "multiprocessing_context": "fork"} if number else {}
        monkeypatch.setattr(training, "loader_options", lambda reads, device: options)

    return with_number


def test_scores_do_not_depend_on_loaders_nor_on_an_interrupt(loaders, tmp_path):
    recipe, examples = recipe_of(augment=True), small_examples(tmp_path / "pictures")

    def run(name, stop=None):
        chosen = method_named("full")
        tuned = chosen.apply(small_family(0.3), {})
        data = TaskData(tuned.family, SmallTask(examples), examples, augment=True)

        def on_step(step):
            if step == stop:
                raise Stopped

        train(tuned, data, recipe, 5, tmp_path / name, on_step)
        return (tmp_path / name / "metrics.csv").read_text(), predict(tuned, data, data.task.decoding)

    loaders(0)
    expected = run("none")
    loaders(2)
    with pytest.raises(Stopped):
        run("two", stop=5)
    assert run("two") == expected


def test_loaders_only_where_pictures_are_read(monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module, "SHARED_MEMORY", 0)
    assert loader_options(True, CPU)["num_workers"] == 1 and loader_options(False, CPU) == {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for cores, workers in ((1, 1), (6, 3), (64, module.LOADERS)):  # of two GPUs' runs each has its share
        monkeypatch.setattr(module.os, "cpu_count", lambda cores=cores: cores)
        assert loader_options(True, torch.device("cuda"))["num_workers"] == workers
    monkeypatch.setattr(module, "SHARED_MEMORY", 2**60)
    assert loader_options(True, CPU) == {}
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert loader_options(True, CPU) == {}


@pytest.mark.parametrize("number, harm", [(0, "vanished"), (1, "cut off")])
def test_a_picture_that_vanishes_is_named_and_the_run_goes_on(number, harm, loaders, tmp_path, monkeypatch):
    """In one line, in a loader's own words."""
    loaders(number)
    cell = small_cell(tmp_path, monkeypatch, recipe_of(batch_size=4))
    run = Execution(tmp_path, cache_gb=0)
    picture, away = tmp_path / "pictures" / "2.png", tmp_path / "away.png"

    def vanish(step):
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
