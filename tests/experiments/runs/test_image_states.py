"""States of a frozen image encoder: as encoded in place, on disk, bounded, never stale or half-written."""

import gc
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_bytes
from attngraph.experiments.runs import data as module
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.data import FeatureCache, TaskData
from attngraph.experiments.runs.train import train
from tests.experiments.runs.small import SmallTask, recipe_of, small_examples, small_family, small_run

ROOT = Path(__file__).parents[3]
STATE = 65 * 16 * 4  # bytes


@pytest.fixture
def paths(tmp_path):
    return list(dict.fromkeys(example.image for example in small_examples(tmp_path / "pictures")))


@pytest.fixture(scope="module")
def family():
    return small_family()


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures the families of a test encode, a picture of no file (for the size) apart."""
    counts = []
    kind = type(small_family())
    encode = kind.encode_images

    def counting(self, images):
        counts.append(sum(isinstance(image, Path) for image in images))
        return encode(self, images)

    monkeypatch.setattr(kind, "encode_images", counting)
    return counts


def only_file(folder):
    (file,) = folder.glob("*.npy")
    return file


def check(states, family, paths):
    for path in paths:
        assert torch.equal(states[path], family.encode_images([path])[0])


def test_they_equal_encoding_in_place_and_are_computed_once(family, paths, tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(module, "CHUNK", 3)
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [0, 3, 1]
    check(states, family, paths)
    assert states[paths[0]].dtype == torch.float32
    assert len({tuple(states[path].flatten().tolist()) for path in paths}) == len(set(paths)) == 4
    before = states[paths[0]].clone()
    states[paths[0]].zero_()  # a copy: the file can't be written to through it
    assert torch.equal(states[paths[0]], before) and before.any()
    encoded.clear()
    again = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [] and torch.equal(again[paths[0]], before)
    shutil.rmtree(tmp_path / "cache")
    check(again, family, paths)  # what another command removes can be read still


def test_runs_that_need_other_pictures_do_not_wait(family, paths, tmp_path, monkeypatch):
    """The first two cells of a table encode at the same time; a lock for the folder would let one wait."""
    encode, futures, first = type(family).encode_images, [], [True]

    def while_encoding(self, images):
        if first:
            first.clear()  # before the other thread may ask
            cache = FeatureCache(tmp_path / "cache")
            futures.append(pool.submit(cache.features, family, paths[1:]))
            futures[0].result(timeout=60)
        return encode(self, images)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(type(family), "encode_images", while_encoding)
        check(FeatureCache(tmp_path / "cache").features(family, paths), family, paths)
        check(futures[0].result(), family, paths[1:])


def test_a_batch_holds_each_pictures_states_once(tmp_path):
    """And lets go of them after it."""
    tuned, data = small_run(tmp_path)
    held = [data.sample(position, 0.0) for position in (0, 2, 1)]
    inputs = tuned.family.training_inputs(held)
    assert inputs["image_states"].shape == (2, 65, 16) and inputs["image_index"].tolist() == [0, 1, 0]
    seen = tuned.family.image_states(inputs)
    for states, example in zip(seen, (0, 2, 1)):
        path = data.examples[example].image
        assert torch.equal(states, torch.from_numpy(data.features.states[data.features.rows[path]]))
    del held, inputs, seen
    gc.collect()
    assert not data.features._held


def test_a_set_that_finds_no_room_is_not_cached(family, paths, tmp_path, encoded):
    folder, size = tmp_path / "cache", 4 * STATE / 1e9
    for limit in (0, 0.99 * size):
        assert FeatureCache(folder, limit).features(family, paths) is None
    assert sum(encoded) == 0
    assert FeatureCache(folder, 1.01 * size).features(family, paths) is not None
    assert 4 * STATE < only_file(folder).stat().st_size < 4 * STATE + 500
    other = FeatureCache(folder, 1.9 * size).features(family, sorted(set(paths), reverse=True))
    assert other is None, "what the folder holds counts"


@pytest.mark.parametrize("length", [0, 100, 200])
def test_a_damaged_file_is_computed_anew(length, family, paths, tmp_path, capsys):
    FeatureCache(tmp_path / "cache").features(family, paths)
    file = only_file(tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:length])
    check(FeatureCache(tmp_path / "cache").features(family, paths), family, paths)
    assert f"{file} is damaged" in capsys.readouterr().err


def test_a_family_without_features_has_none(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(type(family), "caches_features", False)
    assert FeatureCache(tmp_path / "cache").features(family, paths) is None


def other_weights(family, paths):
    with torch.no_grad():
        family.model.vision_model.embeddings.patch_embedding.weight.mul_(2)


def other_settings(family, paths):
    family.mean = (0.5, 0.5, 0.5)


def other_picture(family, paths):
    write_bytes(paths[0], paths[2].read_bytes())
    os.utime(paths[0], ns=(10**18, 10**18))


CHANGES = (other_weights, other_settings, other_picture)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_on_states_counts(change, paths, tmp_path):
    family, cache = small_family(), FeatureCache(tmp_path / "cache")
    cache.features(family, paths)
    with torch.no_grad():
        family.model.text_decoder.cls.predictions.bias.add_(1)
    check(cache.features(family, paths), family, paths)
    assert only_file(tmp_path / "cache"), "the image encoder alone decides"
    change(family, paths)
    check(cache.features(family, paths), family, paths)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_picture_that_is_missing_is_named(family, paths, tmp_path):
    paths[1].unlink()
    with pytest.raises(UserError, match="1.png not found: check"):
        FeatureCache(tmp_path / "cache").features(family, paths)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_does_not_depend_on_them(precision, tmp_path, monkeypatch):
    """Nor in bfloat16 autocast: a frozen image encoder runs in float32 in both cases."""
    tables = []
    monkeypatch.setattr(training, "write_table", lambda file, heading, lines: tables.append(list(lines)))
    for limit in (1, 0):
        tuned, _ = small_run(tmp_path)
        examples = small_examples(tmp_path / "pictures")
        cache = FeatureCache(tmp_path / "cache", limit)
        data = TaskData(tuned.family, SmallTask(examples), examples, cache)
        assert (data.features is None) == (limit == 0)
        train(tuned, data, recipe_of(precision=precision), 5, tmp_path / f"run{limit}")
    assert tables[0] == tables[1]
