"""``attngraph scenes``: the data sets it writes, and what it refuses."""

import json

from experiments.cli import main
from experiments.data.captions import COCO
from experiments.data.dataset import split_examples

SIZES = ["--size", "6", "3", "3"]


def test_sizes_and_seed_reach_the_files(tmp_path, capsys):
    out = tmp_path / "scenes"
    assert main(["scenes", "--out", str(out), "--seed", "7", *SIZES]) == 0
    assert capsys.readouterr().out == f"{out}: vqa_v2, snli_ve and karpathy, seed 7\n"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert manifest["sizes"] == {name: [6, 3, 3] for name in ("questions", "hypotheses", "captions")}
    written = [len(split_examples(COCO, out / "karpathy", split)) for split in ("train", "val", "test")]
    assert written == [6, 3, 3]
