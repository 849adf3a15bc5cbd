"""``attngraph convert``: what it prints, what it writes, and what it leaves alone."""

import json

import pytest

from attngraph.experiments.cli import main
from tests.experiments.models.original.authors_blip import SIDE, WORDS, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "here", "pretraining")


def convert(checkpoint, out, *more) -> int:
    return main(["convert", "blip", str(checkpoint), "--out", str(out), *map(str, more)])


def refusal(capsys, checkpoint, out, *more) -> str:
    assert convert(checkpoint, out, *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attngraph: ")]
    return line


def test_what_is_printed_and_written_and_not_replaced(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(checkpoint, out) == 0
    assert capsys.readouterr().out.startswith(f"{checkpoint}: captioner, image encoder and text decoder")
    names = {file.name for file in out.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} < names
    before = (out / "model.safetensors").read_bytes()
    for words, what in ((["--as", "vqa"], "arrangement"), (["--side", 2 * SIDE], "side")):
        assert f"another experiment (other {what})" in refusal(capsys, checkpoint, out, *words)
    save_checkpoint(tmp_path / "here", "pretraining", seed=1)
    assert "(other weights)" in refusal(capsys, checkpoint, out)
    assert (out / "model.safetensors").read_bytes() == before


def test_wrong_options_are_one_line(checkpoint, tmp_path, capsys):
    questions = save_checkpoint(tmp_path / "questions", "vqa")
    captions = save_checkpoint(tmp_path / "captions", "caption")
    for file, words, said in (
        (
            checkpoint,
            ["--side", "7"],
            "side 7: the model has patches of 4 pixels, so the side must be a mul",
        ),
        (checkpoint, ["--tokenizer", "no/such"], "no/such: not the checkpoint's vocabulary"),
        (checkpoint, ["--as", "whole"], "--as whole: BLIP does not have this architecture"),
        (questions, ["--as", "captioner"], "convert it --as vqa"),
        (captions, ["--as", "vqa"], "convert it --as captioner"),
    ):
        assert said in refusal(capsys, file, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_from_another_place(checkpoint, tmp_path):
    (checkpoint.parent / "vocab.txt").rename(tmp_path / "words.txt")
    assert convert(checkpoint, tmp_path / "out", "--tokenizer", tmp_path / "words.txt") == 0
    saved = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert saved["model"]["vocab"] == {word: place for place, word in enumerate(WORDS)}
