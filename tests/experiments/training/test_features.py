"""States of a frozen image encoder: as if encoded in place, on disk, bounded, never stale."""

import io
import os
import threading

import numpy as np
import pytest
import torch

from attngraph.errors import UserError
from experiments.files import write_bytes
from experiments.training import features, trainer
from experiments.training.features import FeatureCache
from experiments.training.trainer import train
from tests.experiments.training.small import (
    RECIPE,
    SmallTask,
    TaskData,
    small_examples,
    small_family,
    small_run,
)


@pytest.fixture
def paths(tmp_path):
    return [example.image for example in small_examples(tmp_path / "pictures")]


@pytest.fixture(scope="module")
def family():
    return small_family()


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures the families of a test encode."""
    counts = []
    kind = type(small_family())
    encode = kind.encode_images
    monkeypatch.setattr(
        kind, "encode_images", lambda self, images: counts.append(len(images)) or encode(self, images)
    )
    return counts


def only_file(folder):
    (file,) = folder.iterdir()
    return file


def test_they_equal_encoding_in_place(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 3)
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    for path in paths:
        assert torch.allclose(states[path], family.encode_images([path])[0], atol=1e-6)
        assert states[path].dtype == torch.float32
    different = {tuple(states[path].flatten().tolist()) for path in paths}
    assert len(different) == len(set(paths)) == 4


def test_they_are_mapped_into_memory(family, paths, tmp_path):
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    assert isinstance(states.states, np.memmap) and states.states.mode == "r"
    assert states.states.shape == (4, 65, 16)
    states[paths[0]].zero_()  # a copy: the file can't be written to through it
    assert states[paths[0]].any()


def test_a_second_run_computes_nothing(family, paths, tmp_path, encoded):
    first = FeatureCache(tmp_path / "cache").features(family, paths)
    assert sum(encoded) == 1 + 4  # one for the shape
    encoded.clear()
    second = FeatureCache(tmp_path / "cache").features(family, list(reversed(paths)))
    assert sum(encoded) == 1 + 4, "another order is another file"
    encoded.clear()
    again = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [] and again.file == first.file != second.file
    for path in paths:
        assert torch.equal(first[path], second[path])


def test_they_are_bounded(family, paths, tmp_path, encoded):
    size = 4 * 65 * 16 * 4 / 1e9
    assert FeatureCache(tmp_path / "cache", 0).features(family, paths) is None
    assert encoded == []
    assert FeatureCache(tmp_path / "cache", 0.99 * size).features(family, paths) is None
    assert encoded == [1] and not (tmp_path / "cache").exists()
    assert FeatureCache(tmp_path / "cache", 1.01 * size).features(family, paths) is not None
    assert size * 1e9 < only_file(tmp_path / "cache").stat().st_size < size * 1e9 + 1000


def test_a_full_disk_is_left_alone(family, paths, tmp_path, monkeypatch):
    usage = features.shutil._ntuple_diskusage(total=1_000_000, used=890_000, free=110_000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="cache: the image states take .* make room, .* with --cache-gb 0"):
        FeatureCache(tmp_path / "cache").features(family, paths)
    assert not (tmp_path / "cache").exists()
    more = features.shutil._ntuple_diskusage(total=1_000_000, used=880_000, free=120_000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: more)
    assert FeatureCache(tmp_path / "cache").features(family, paths) is not None


def test_a_family_without_features_has_none(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(type(family), "caches_features", False)
    assert FeatureCache(tmp_path / "cache").features(family, paths) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "header", "syntax", "shape", "archive"])
def test_a_damaged_file_is_made_anew(damage, family, paths, tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    expected = {path: cache.features(family, paths)[path] for path in paths}
    file = only_file(tmp_path / "cache")
    content = file.read_bytes()
    flat, archive = io.BytesIO(), io.BytesIO()
    np.save(flat, np.zeros((4, 2)))
    np.savez(archive, a=np.zeros(4))
    damaged = {
        "truncated": content[:-1000],
        "empty": b"",
        "other": b"no array",
        "header": content[:20],
        "syntax": content.replace(b"{", b"(", 1),
        "shape": flat.getvalue(),
        "archive": archive.getvalue(),
    }
    file.write_bytes(damaged[damage])
    again = FeatureCache(tmp_path / "cache").features(family, paths)
    assert all(torch.equal(again[path], expected[path]) for path in paths)
    assert only_file(tmp_path / "cache").read_bytes() == content


def test_other_weights_make_another_file(paths, tmp_path):
    family, cache = small_family(), FeatureCache(tmp_path / "cache")
    first = cache.features(family, paths)
    with torch.no_grad():
        family.model.text_decoder.cls.predictions.bias.add_(1)
    assert cache.features(family, paths).file == first.file, "the image encoder alone decides"
    with torch.no_grad():
        family.model.vision_model.embeddings.patch_embedding.weight.mul_(2)
    second = cache.features(family, paths)
    assert second.file != first.file
    assert torch.allclose(second[paths[0]], family.encode_images(paths[:1])[0], atol=1e-6)
    assert not torch.allclose(second[paths[0]], first[paths[0]], atol=1e-3)


def test_another_configuration_or_family_makes_another_file(paths, tmp_path):
    family, cache = small_family(), FeatureCache(tmp_path / "cache")
    first = cache.features(family, paths)
    family.model.vision_model.config.layer_norm_eps = 0.5
    second = cache.features(family, paths)
    family.__class__ = type("Mine", (type(family),), {})  # it may read pictures in its own way
    assert len({features.file for features in (first, second, cache.features(family, paths))}) == 3


def test_another_picture_of_the_same_name_is_not_taken_for_it(family, paths, tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    first = cache.features(family, paths)
    before = first[paths[0]]
    write_bytes(paths[0], paths[2].read_bytes())
    os.utime(paths[0], ns=(10**18, 10**18))
    second = cache.features(family, paths)
    assert second.file != first.file and not torch.equal(second[paths[0]], before)
    assert torch.equal(second[paths[0]], second[paths[2]])


def test_writers_of_one_file_do_not_disturb_each_other(family, paths, tmp_path, monkeypatch):
    """Both have found no file, and both write; each reads a whole one, and nothing else is left."""
    barrier, found = threading.Barrier(2, timeout=30), []
    write = FeatureCache._write

    def together(self, *args):
        barrier.wait()
        write(self, *args)

    monkeypatch.setattr(FeatureCache, "_write", together)

    def compute():
        states = FeatureCache(tmp_path / "cache").features(family, paths)
        found.append([states[path] for path in paths])

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(*found))
    assert only_file(tmp_path / "cache").suffix == ".npy", "no parts are left"


def test_an_interrupt_leaves_nothing(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 2)
    calls = []

    def encode(images):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return type(family).encode_images(family, images)

    monkeypatch.setattr(family, "encode_images", encode, raising=False)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "cache").features(family, paths)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_does_not_depend_on_them(bfloat16, tmp_path, monkeypatch):
    """Nor in bfloat16 autocast: a frozen image encoder runs in float32 in both cases."""
    monkeypatch.setattr(trainer, "uses_bfloat16", lambda device: bfloat16)
    lines = []
    monkeypatch.setattr(trainer, "_metrics", lambda steps: lines.extend(steps) or "")
    for limit in (1, 0):
        tuned, _ = small_run(tmp_path)
        examples = small_examples(tmp_path / "pictures")
        cache = FeatureCache(tmp_path / "cache", limit)
        data = TaskData(tuned.family, SmallTask(examples), examples, "frozen", cache)
        assert (data.features is None) == (limit == 0)
        train(tuned, data, RECIPE, 5, tmp_path / f"run{limit}")
    cached, in_place = lines[: RECIPE.steps], lines[RECIPE.steps :]
    assert [line["loss"] for line in in_place] == pytest.approx([line["loss"] for line in cached], abs=1e-6)
