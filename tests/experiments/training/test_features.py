"""States of a frozen image encoder: as encoded in place, on disk, shared, bounded, never stale or damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from attngraph.errors import UserError
from experiments.files import write_bytes
from experiments.training import device, features, trainer
from experiments.training.device import cpu_threads
from experiments.training.features import RECORD, FeatureCache
from experiments.training.trainer import train
from tests.experiments.training.small import (
    RECIPE,
    SmallTask,
    TaskData,
    small_examples,
    small_family,
    small_run,
)

ROOT = Path(__file__).parents[3]
STATE = 65 * 16 * 4  # bytes


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


def keys_in(folder):
    """The keys of all states in a folder."""
    return [key for file in sorted(folder.iterdir()) for key in safe_open(file, "pt").keys()]  # noqa: SIM118


def test_they_equal_encoding_in_place(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 3)
    states = FeatureCache(tmp_path / "cache").features(family, paths)
    for path in paths:
        assert torch.equal(states[path], family.encode_images([path])[0])
        assert states[path].dtype == torch.float32
    different = {tuple(states[path].flatten().tolist()) for path in paths}
    assert len(different) == len(set(paths)) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_they_are_mapped_into_memory(family, paths, tmp_path):
    first = FeatureCache(tmp_path / "cache").features(family, paths)
    before = first[paths[0]]
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(only_file(tmp_path / "cache").parent) in maps.read_text()
    first[paths[0]].zero_()  # a copy: the file can't be written to through it
    assert torch.equal(first[paths[0]], before) and before.any()
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(first[paths[0]], before), "what another command removes can be read still"


def test_a_second_run_computes_nothing(family, paths, tmp_path, encoded):
    first = FeatureCache(tmp_path / "cache").features(family, paths)
    assert sum(encoded) == 4
    encoded.clear()
    again = FeatureCache(tmp_path / "cache").features(family, list(reversed(paths)))
    assert encoded == [], "not even for the size"
    for path in paths:
        assert torch.equal(first[path], again[path])


def test_sets_of_pictures_share_their_states(family, paths, tmp_path, encoded):
    cache, unique = FeatureCache(tmp_path / "cache"), list(dict.fromkeys(paths))
    cache.features(family, unique[:3])
    cache.features(family, unique[2:])
    assert sum(encoded) == 4 and len(keys_in(tmp_path / "cache")) == 4
    (tmp_path / "link").symlink_to(unique[0].parent)
    same = cache.features(family, [tmp_path / "link" / path.name for path in unique])
    assert sum(encoded) == 4, "the folder's real name counts"
    assert torch.equal(same[tmp_path / "link" / unique[1].name], cache.features(family, unique)[unique[1]])


def test_pictures_of_one_name_size_and_time_in_two_folders_differ(family, tmp_path):
    folders = [tmp_path / name for name in ("train", "test")]
    for k, folder in enumerate(folders):
        small_examples(folder)
        shutil.move(folder / f"{k}.png", folder / "picture.png")
        os.utime(folder / "picture.png", ns=(10**18, 10**18))
    one, other = (folder / "picture.png" for folder in folders)
    size = max(file.stat().st_size for file in (one, other))
    for file in (one, other):  # PNG readers ignore what follows the end
        file.write_bytes(file.read_bytes().ljust(size, b" "))
        os.utime(file, ns=(10**18, 10**18))
    states = FeatureCache(tmp_path / "cache").features(family, [one, other])
    assert one.stat().st_size == other.stat().st_size and not torch.equal(states[one], states[other])


def test_a_set_that_is_too_large_is_not_cached(family, paths, tmp_path, encoded):
    size = 4 * (STATE + RECORD) / 1e9
    assert FeatureCache(tmp_path / "cache", 0).features(family, paths) is None
    assert encoded == []
    assert FeatureCache(tmp_path / "cache", 0.99 * size).features(family, paths) is None
    assert sum(encoded) == 0 and not (tmp_path / "cache").exists()
    assert FeatureCache(tmp_path / "cache", 1.01 * size).features(family, paths) is not None
    assert 4 * STATE < only_file(tmp_path / "cache").stat().st_size < size * 1e9
    assert FeatureCache(tmp_path / "cache", 0.99 * size).features(family, paths) is None, (
        "whatever the cache holds"
    )


def test_what_was_used_the_longest_time_ago_makes_room(family, tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(features, "SHARD", 2)
    pictures = list(dict.fromkeys(example.image for example in small_examples(tmp_path / "pictures", 16)))
    limit = 3 * 2 * (STATE + RECORD)
    cache = FeatureCache(tmp_path / "cache", limit / 1e9)
    sets = [pictures[start : start + 2] for start in (0, 2, 4, 6)]
    kept = [cache.features(family, part) for part in sets[:3]]
    for k, file in enumerate([kept[1], kept[2], kept[0]]):  # the first was used last
        os.utime(next(iter(file.shards.values())).file, ns=(10**18 + k, 10**18 + k))
    cache.features(family, sets[3])
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= limit
    encoded.clear()
    for part in (sets[0], sets[2], sets[3]):
        cache.features(family, part)
    assert encoded == []
    cache.features(family, sets[1])
    assert sum(encoded) == 2 and len(keys_in(tmp_path / "cache")) == 6
    assert torch.equal(kept[1][sets[1][0]], family.encode_images(sets[1][:1])[0]), "open files stay readable"


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


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "header", "no checksums"])
def test_a_damaged_file_is_made_anew(damage, family, paths, tmp_path, capsys):
    cache = FeatureCache(tmp_path / "cache")
    expected = {path: cache.features(family, paths)[path] for path in paths}
    file = only_file(tmp_path / "cache")
    content = file.read_bytes()
    damaged = {
        "truncated": content[:-1000],
        "empty": b"",
        "other": b"no tensors",
        "header": content[:20],
        "no checksums": content.replace(b"checksums", b"checkSums"),
    }
    file.write_bytes(damaged[damage])
    again = FeatureCache(tmp_path / "cache").features(family, paths)
    assert all(torch.equal(again[path], expected[path]) for path in paths)
    assert only_file(tmp_path / "cache").read_bytes() == content
    assert f"{file} is damaged" in capsys.readouterr().err


def test_a_flipped_byte_anywhere_is_never_used(family, paths, tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    expected = {path: cache.features(family, paths)[path] for path in paths}
    file = only_file(tmp_path / "cache")
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")  # of the states
    found = 0
    for place in [*range(0, begin, 7), *range(begin, len(content), 997)]:
        write_bytes(file, content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            states = cache.features(family, paths)
            assert all(torch.equal(states[path], expected[path]) for path in paths), place
        except UserError as error:
            found += 1
            assert place >= 8 and str(file) in str(error) and "run the same command again" in str(error)
            assert not file.exists(), "so that the next run computes it anew"
            states = cache.features(family, paths)
            assert all(torch.equal(states[path], expected[path]) for path in paths)
    assert found > (len(content) - begin) // 997


def test_other_weights_have_other_states(paths, tmp_path):
    family, cache = small_family(), FeatureCache(tmp_path / "cache")
    first = cache.features(family, paths)
    with torch.no_grad():
        family.model.text_decoder.cls.predictions.bias.add_(1)
    assert cache.features(family, paths).keys == first.keys, "the image encoder alone decides"
    with torch.no_grad():
        family.model.vision_model.embeddings.patch_embedding.weight.mul_(2)
    second = cache.features(family, paths)
    assert not set(second.keys.values()) & set(first.keys.values())
    assert torch.equal(second[paths[0]], family.encode_images(paths[:1])[0])
    assert not torch.allclose(second[paths[0]], first[paths[0]], atol=1e-3)


def test_the_configuration_the_processors_settings_and_the_family_count(paths, tmp_path):
    family, cache = small_family(), FeatureCache(tmp_path / "cache")
    found = [cache.features(family, paths)]
    family.model.vision_model.config.layer_norm_eps = 0.5
    found.append(cache.features(family, paths))
    family.mean = (0.5, 0.5, 0.5)
    found.append(cache.features(family, paths))
    assert torch.equal(found[-1][paths[0]], family.encode_images(paths[:1])[0])
    assert not torch.allclose(found[-1][paths[0]], found[-2][paths[0]], atol=1e-3)
    family.__class__ = type("Mine", (type(family),), {})  # it may read pictures in its own way
    found.append(cache.features(family, paths))
    assert len({features.keys[paths[0]] for features in found}) == 4


def test_another_picture_of_the_same_name_is_not_taken_for_it(family, paths, tmp_path, encoded):
    cache = FeatureCache(tmp_path / "cache")
    first = cache.features(family, paths)
    before = first[paths[0]]
    write_bytes(paths[0], paths[2].read_bytes())
    os.utime(paths[0], ns=(10**18, 10**18))
    encoded.clear()
    second = cache.features(family, paths)
    assert sum(encoded) == 1, "the others are as they were"
    assert not torch.equal(second[paths[0]], before) and torch.equal(second[paths[0]], second[paths[2]])


def writer(tmp_path, *words):
    """A process that fills the cache when it is told to."""
    module = "tests.experiments.training.cache_writer"
    command = [sys.executable, "-m", module, tmp_path / "pictures", tmp_path / "cache", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen([str(word) for word in command], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


@pytest.mark.slow
def test_two_processes_may_write_at_once(tmp_path):
    small_examples(tmp_path / "pictures", 40)
    writers = [writer(tmp_path) for _ in range(2)]
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * 2
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = {process.communicate()[0] for process in writers}
    assert [process.returncode for process in writers] == [0, 0] and len(sums) == 1
    assert sorted(set(keys_in(tmp_path / "cache"))) == sorted(keys_in(tmp_path / "cache"))
    assert len(keys_in(tmp_path / "cache")) == 20, "nothing twice, and no parts are left"


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_files(family, tmp_path, encoded):
    pictures = list(dict.fromkeys(example.image for example in small_examples(tmp_path / "pictures", 40)))
    killed = writer(tmp_path, 4)
    killed.communicate("go\n")
    assert killed.returncode == -9
    shards = [file for file in (tmp_path / "cache").iterdir() if not file.name.startswith(".")]
    assert len(shards) == 3 and len(list((tmp_path / "cache").iterdir())) == 4
    with cpu_threads(1):
        states = FeatureCache(tmp_path / "cache").features(family, pictures)
    assert sum(encoded) == 20 - 3 * 3, "the killed writer's whole files count, its last one does not"
    for path in pictures:
        assert torch.equal(states[path], family.encode_images([path])[0])


def test_an_interrupt_leaves_whole_files(family, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 2)
    encode, calls = family.encode_images, []

    def interrupted(images):
        calls.append(images)
        if len(calls) == 3:  # one for the size
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(family, "encode_images", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "cache").features(family, paths)
    assert len(keys_in(tmp_path / "cache")) == 2


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
    monkeypatch.setattr(trainer, "_metrics", lambda steps: lines.extend(steps) or "")
    for limit in (1, 0):
        tuned, _ = small_run(tmp_path)
        examples = small_examples(tmp_path / "pictures")
        cache = FeatureCache(tmp_path / "cache", limit)
        data = TaskData(tuned.family, SmallTask(examples), examples, "frozen", cache)
        assert (data.features is None) == (limit == 0)
        train(tuned, data, RECIPE, 5, tmp_path / f"run{limit}")
    cached, in_place = lines[: RECIPE.steps], lines[RECIPE.steps :]
    assert [line["loss"] for line in in_place] == [line["loss"] for line in cached]
