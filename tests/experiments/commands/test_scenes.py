"""``attngraph scenes``: the data sets it writes, and what it refuses."""

import json

from experiments.cli import main
from experiments.data.captions import COCO
from experiments.data.dataset import split_examples

SIZES = ["--questions", "6", "2", "4", "--hypotheses", "6", "3", "3", "--captions", "4", "2", "3"]


def test_sizes_and_seed_reach_the_files(tmp_path, capsys):
    out = tmp_path / "scenes"
    assert main(["scenes", "--out", str(out), "--seed", "7", *SIZES]) == 0
    assert capsys.readouterr().out == f"{out}: vqa_v2, snli_ve and karpathy, seed 7\n"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert manifest["sizes"] == {"questions": [6, 2, 4], "hypotheses": [6, 3, 3], "captions": [4, 2, 3]}
    written = [len(split_examples(COCO, out / "karpathy", split)) for split in ("train", "val", "test")]
    assert written == [4, 2, 3]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    for words, message in (
        (["--out", tmp_path / "mine"], "is no folder of drawn scenes"),
        (["--out", tmp_path / "mine" / "thesis.txt"], "thesis.txt is a file"),
        (["--out", tmp_path / "new", "--seed", "-1"], "--seed: '-1' is out of range, give a number from 0"),
        (["--out", tmp_path / "new", "--captions", "0", "1", "1"], "--captions: '0' is out of range"),
        (["--out", tmp_path / "new", "--questions", "9000000", "1", "1"], "from 1 to 1000000"),
    ):
        try:
            code = main(["scenes", *map(str, words)])
        except SystemExit as end:
            code = end.code
        error = capsys.readouterr().err
        assert code == 2 and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
