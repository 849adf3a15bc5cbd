"""The relevant patches of words and questions, in the shipped model and in others."""

import argparse
import json

import pytest
import torch
from PIL import Image

from experiments.inspect.options import add_source_arguments, open_source
from experiments.inspect.region_file import RegionFile
from experiments.inspect.regions import ASKED, NAMED, NO_WORD, Regions
from experiments.inspect.scene_parts import SceneParts
from tests.experiments.tiny import save


def source(*words):
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return open_source(parser.parse_args([str(word) for word in words]))


def test_questions_about_scenes():
    looked_at = source("--task", "vqa", "--examples", 12, "--layers", "*3*")
    regions, asked, named = Regions(looked_at.samples), 0, 0
    for batch, graphs in looked_at.graphs():
        found = {name: regions(batch, name, graph) for name, graph in graphs.items()}
        assert {name: set(kinds) for name, kinds in found.items()} == {
            name: {NAMED, ASKED} if "crossattention" in name else set() for name in graphs
        }
        (kinds,) = (kinds for kinds in found.values() if kinds)
        for kind in kinds.values():
            assert kind.candidates.tolist() == [[False] + [True] * 64] * 12  # [CLS] is none
            assert kind.grids == [(8, 8)] * 12
        for k, sample in enumerate(batch.samples):
            parts, tokens = SceneParts(sample.scene), batch.text.tokens[k]
            masks = parts.masks(8, 8)
            start = int(batch.text.prompt[k])
            rows = kinds[ASKED].relevant[k].any(-1)
            expected = parts.asked(sample.prompt.replace("?", " ").replace(",", " ").split())
            assert rows.nonzero()[:, 0].tolist() == ([start - 1] if expected else [])
            if expected:
                asked += 1
                shown = kinds[ASKED].relevant[k, start - 1, 1:]
                assert torch.equal(shown, masks[sorted(expected)].any(0))
            for i, words in enumerate(parts.named(tokens)):  # the scenes' words are whole tokens
                if words:
                    named += 1
                    assert torch.equal(kinds[NAMED].relevant[k, i, 1:], masks[sorted(words)].any(0))
                else:
                    assert not kinds[NAMED].relevant[k, i].any()
    assert asked > 6 and named > 12 and not regions.notes()


def test_captions_ask_for_nothing():
    looked_at = source("--examples", 2, "--layers", "*crossattention*")
    regions = Regions(looked_at.samples)
    ((batch, graphs),) = looked_at.graphs()
    assert {frozenset(regions(batch, name, graph)) for name, graph in graphs.items()} == {frozenset({NAMED})}


@pytest.mark.parametrize("family", ["captioner", "llava"])
def test_boxes_on_pictures_of_ones_own(family, tmp_path):
    """By cross-attention, and in one sequence with the text."""
    for k, colour in enumerate(("red", "blue")):
        Image.new("RGB", (24, 16), colour).save(tmp_path / f"{k}.png")
    (tmp_path / "texts").write_text("a red ball\na ball\n")
    box = {"box": [0, 0, 12, 16], "words": ["ball"]}
    (tmp_path / "regions.json").write_text(json.dumps({"1.png": [box]}))
    looked_at = source(
        "--model", save(family, tmp_path / "model"), "--images", tmp_path / "0.png", tmp_path / "1.png",
        "--texts", tmp_path / "texts",
    )  # fmt: skip
    regions = Regions(looked_at.samples, RegionFile(tmp_path / "regions.json", looked_at.samples))
    ((batch, graphs),) = looked_at.graphs()
    found = {name: kinds[NAMED] for name, graph in graphs.items() if (kinds := regions(batch, name, graph))}
    assert found
    for name, region in found.items():
        assert not region.relevant[0].any(), name
        rows = region.relevant[1].any(-1).nonzero()[:, 0].tolist()
        assert len(rows) == 1, name
        (rows_, columns) = region.grids[1]
        shown = region.relevant[1, rows[0]][region.candidates[1]].unflatten(0, (rows_, columns))
        half = torch.arange(columns) < -(-columns // 2)
        assert torch.equal(shown, half.expand(rows_, columns)), name


def test_words_that_name_nothing_are_told_of(tmp_path):
    Image.new("RGB", (24, 16), "red").save(tmp_path / "0.png")
    (tmp_path / "texts").write_text("a red ball\n")
    for word, noted in (("ball", []), ("cat", [NO_WORD])):
        box = {"box": [0, 0, 12, 16], "words": [word]}
        (tmp_path / "regions.json").write_text(json.dumps({"0.png": [box]}))
        looked_at = source(
            "--model", save("captioner", tmp_path / f"model-{word}"), "--images", tmp_path / "0.png",
            "--texts", tmp_path / "texts",
        )  # fmt: skip
        regions = Regions(looked_at.samples, RegionFile(tmp_path / "regions.json", looked_at.samples))
        assert regions.notes() == [], "nothing was looked at yet"
        for batch, graphs in looked_at.graphs():
            for name, graph in graphs.items():
                regions(batch, name, graph)
        assert regions.notes() == noted
