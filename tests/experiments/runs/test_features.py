"""States of a frozen image encoder: as encoded in place, on disk, bounded, never stale or half-written."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from attngraph.errors import UserError
from experiments.base.files import write_bytes
from experiments.runs import device, features
from experiments.runs import train as training
from experiments.runs.device import cpu_threads
from experiments.runs.features import FeatureCache
from experiments.runs.train import train
from tests.experiments.runs.small import (
    RECIPE,
    SmallTask,
    TaskData,
    small_examples,
    small_family,
    small_run,
)

ROOT = Path(__file__).parents[3]
RECORD = (65 * 16 + 1) * 4  # bytes


@pytest.fixture
def paths(tmp_path):
    return [example.image for example in small_examples(tmp_path / "pictures")]


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
    (file,) = folder.iterdir()
    return file


def check(states, family, paths):
    for path in paths:
        assert torch.equal(states[path], family.encode_images([path])[0])


def test_they_equal_encoding_in_place_and_are_computed_once(family, paths, tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(features, "CHUNK", 3)
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [0, 3, 1]
    check(states, family, paths)
    assert states[paths[0]].dtype == torch.float32
    assert len({tuple(states[path].flatten().tolist()) for path in paths}) == len(set(paths)) == 4
    before = states[paths[0]]
    states[paths[0]].zero_()  # a copy: the file can't be written to through it
    assert torch.equal(states[paths[0]], before) and before.any()
    encoded.clear()
    again = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [] and torch.equal(again[paths[0]], before)
    shutil.rmtree(tmp_path / "cache")
    check(again, family, paths)  # what another command removes can be read still


def test_a_set_that_finds_no_room_is_not_cached(family, paths, tmp_path, encoded):
    folder, size = tmp_path / "cache", 4 * RECORD / 1e9
    for limit in (0, 0.99 * size):
        assert FeatureCache(folder, limit).features(family, paths) is None
    assert sum(encoded) == 0 and not folder.exists()
    assert FeatureCache(folder, 1.01 * size).features(family, paths) is not None
    assert 4 * RECORD < only_file(folder).stat().st_size < 4 * RECORD + 500
    other = FeatureCache(folder, 1.9 * size).features(family, sorted(set(paths), reverse=True))
    assert other is None, "what the folder holds counts"


def test_a_family_without_features_has_none(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(type(family), "caches_features", False)
    assert FeatureCache(tmp_path / "cache").features(family, paths) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "another array", "pickled"])
def test_a_damaged_or_foreign_file_is_made_anew(damage, family, paths, tmp_path, capsys):
    FeatureCache(tmp_path / "cache").features(family, paths)
    file = only_file(tmp_path / "cache")
    content = file.read_bytes()
    if damage in ("another array", "pickled"):
        np.save(file, np.zeros(3) if damage == "another array" else np.array([print], dtype=object))
    else:
        file.write_bytes({"truncated": content[:-1000], "empty": b"", "other": b"no array"}[damage])
    check(FeatureCache(tmp_path / "cache").features(family, paths), family, paths)
    assert only_file(tmp_path / "cache").read_bytes() == content
    assert f"{file} is damaged" in capsys.readouterr().err


def other_weights(family, paths):
    with torch.no_grad():
        family.model.vision_model.embeddings.patch_embedding.weight.mul_(2)


def other_settings(family, paths):
    family.mean = (0.5, 0.5, 0.5)


def other_configuration(family, paths):
    family.model.vision_model.config.layer_norm_eps = 0.5


def other_family(family, paths):
    family.__class__ = type("Mine", (type(family),), {})  # it may read pictures in its own way


def other_picture(family, paths):
    write_bytes(paths[0], paths[2].read_bytes())
    os.utime(paths[0], ns=(10**18, 10**18))


CHANGES = (other_weights, other_settings, other_configuration, other_family, other_picture)


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
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_pictures_of_one_name_size_and_time_in_two_folders_differ(family, tmp_path):
    folders = [tmp_path / name for name in ("train", "test")]
    for k, folder in enumerate(folders):
        small_examples(folder)
        shutil.move(folder / f"{k}.png", folder / "picture.png")
    one, other = (folder / "picture.png" for folder in folders)
    size = max(file.stat().st_size for file in (one, other))
    for file in (one, other):  # PNG readers ignore what follows the end
        file.write_bytes(file.read_bytes().ljust(size, b" "))
        os.utime(file, ns=(10**18, 10**18))
    for path in (one, other):
        check(FeatureCache(tmp_path / "cache").features(family, [path]), family, [path])


def writer(tmp_path, *words):
    """A process that fills the cache when it is told to."""
    module = "tests.experiments.runs.cache_writer"
    command = [sys.executable, "-m", module, tmp_path / "pictures", tmp_path / "cache", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen([str(word) for word in command], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


@pytest.mark.slow
def test_several_processes_may_write_at_once_and_one_be_killed(family, tmp_path, encoded):
    examples = small_examples(tmp_path / "pictures", 40)
    writers = [writer(tmp_path), writer(tmp_path), writer(tmp_path, 4)]
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * 3
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = [process.communicate()[0] for process in writers]
    assert [process.returncode for process in writers] == [0, 0, -9] and sums[0] == sums[1] != ""
    assert only_file(tmp_path / "cache").stat().st_size < 20 * RECORD + 500, "no parts are left"
    with cpu_threads(1):
        pictures = list(dict.fromkeys(example.image for example in examples))
        states = FeatureCache(tmp_path / "cache").features(family, pictures)
        assert encoded == []
        check(states, family, pictures)


def test_a_file_that_another_command_replaces_is_filled_too(family, paths, tmp_path, monkeypatch):
    """Two commands begin the same file: the one that is seen no more may not be the one that is read."""
    fill, folder = features._fill, tmp_path / "cache"

    def replaced(file, array, *more):
        monkeypatch.setattr(features, "_fill", fill)
        file.unlink()
        FeatureCache(folder).features(family, paths)
        fill(file, array, *more)

    monkeypatch.setattr(features, "_fill", replaced)
    check(FeatureCache(folder).features(family, paths), family, paths)


def test_an_interrupt_keeps_what_is_done(family, paths, tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(features, "CHUNK", 2)
    encode, calls = family.encode_images, []

    def interrupted(images):
        calls.append(images)
        if len(calls) == 3:  # one for the size
            raise KeyboardInterrupt
        return encode(images)

    with monkeypatch.context() as patch:
        patch.setattr(family, "encode_images", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            FeatureCache(tmp_path / "cache").features(family, paths)
    encoded.clear()
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    assert encoded == [2]
    check(states, family, paths)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_a_full_disk_is_one_line(family, paths, tmp_path, monkeypatch):
    """As the system refuses, in the middle of a file."""
    before, encode = resource.getrlimit(resource.RLIMIT_FSIZE), family.encode_images

    def limited(images):
        if len(images) == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * RECORD, before[1]))
        return encode(images)

    monkeypatch.setattr(family, "encode_images", limited, raising=False)
    try:
        with pytest.raises(UserError, match="cannot be saved .*: make room .* --on cache_gb=0") as error:
            FeatureCache(tmp_path / "cache").features(family, paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_pictures_that_cannot_be_read(damage, family, paths, tmp_path):
    bad = sorted(set(paths))[1]
    bad.write_bytes(bad.read_bytes()[:300]) if damage == "truncated" else bad.unlink()
    with pytest.raises(UserError, match="1.png (cannot be read|not found).*: (replace|check)"):
        FeatureCache(tmp_path / "cache").features(family, paths)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_does_not_depend_on_them(bfloat16, tmp_path, monkeypatch):
    """Nor in bfloat16 autocast: a frozen image encoder runs in float32 in both cases."""
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: bfloat16)
    lines = []
    monkeypatch.setattr(training, "_metrics", lambda steps: lines.append(steps) or "")
    for limit in (1, 0):
        tuned, _ = small_run(tmp_path)
        examples = small_examples(tmp_path / "pictures")
        cache = FeatureCache(tmp_path / "cache", limit)
        data = TaskData(tuned.family, SmallTask(examples), examples, "frozen", cache)
        assert (data.features is None) == (limit == 0)
        train(tuned, data, RECIPE, 5, tmp_path / f"run{limit}")
    cached, in_place = lines
    assert [line["loss"] for line in in_place] == [line["loss"] for line in cached]
