"""What the analysis commands look at: the right model, images and texts, or one clear line."""

import argparse

import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, ViTImageProcessor

from attngraph import capture
from attngraph.errors import UserError
from experiments.inspect.options import add_source_arguments, open_source, settings_of
from experiments.models import load_family
from experiments.scenes.scene import Scene
from tests.attngraph.reading.zoo import FAMILIES


def source(*words: str):
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return open_source(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for k, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (50, 40 + k), colour).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    FAMILIES["bert"].model().save_pretrained(folder)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball"]
    BertTokenizerFast(vocab={name: k for k, name in enumerate(names)}, model_max_length=32).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    FAMILIES["vit"].model().save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def test_scenes_come_with_all_that_is_known():
    found = source("--examples", 3, "--batch", 2)
    batches = list(found.batches())
    assert [len(batch.names) for batch in batches] == [2, 1]
    batch = batches[0]
    assert (
        batch.text.tokens[0][:3] == ["[DEC]", "what", "does"]
        and batch.text.special[0, 0]
        and not batch.text.special[0, 1]
    )
    assert torch.equal(batch.text.padding, batch.inputs["attention_mask"] == 0)
    assert (
        batch.text.tokens[0][batch.text.prompt[0] - 1] == "?"
        and not batch.text.special[0, batch.text.prompt[0]]
    )
    assert (
        all(isinstance(scene, Scene) for scene in batch.scenes)
        and batch.pictures.grids == [(8, 8)] * 2
        and batch.pictures.whole
    )
    assert batch.pictures.images[0].size == (64, 64)


def test_the_same_seed_gives_the_same_examples():
    first, same, other = (
        next(source("--examples", 3, "--task", "vqa", "--seed", seed).batches()) for seed in (1, 1, 2)
    )
    assert first.text.tokens == same.text.tokens and torch.equal(
        first.inputs["pixel_values"], same.inputs["pixel_values"]
    )
    assert first.text.tokens != other.text.tokens


def test_graphs_are_those_of_a_forward_pass():
    found = source("--examples", 2, "--layers", "*layer.0.crossattention*", "--heads", 1)
    ((batch, graphs),) = found.graphs()
    ((name, graph),) = graphs.items()
    assert graph.shape[:2] == (2, 1) and graph.kind == "cross"
    model = load_family().model
    whole = capture(model, batch.inputs)[name]
    torch.testing.assert_close(graph.weight, whole.weight[:, 1:2])
    assert found.reweighted(name, graph) is None


def test_images_of_ones_own_get_a_description(pictures):
    (batch,) = source("--images", pictures).batches()
    assert batch.names == ["0.png", "1.png", "2.png"] and batch.scenes is None
    assert len(batch.text.tokens[0]) > batch.text.prompt[0]


def test_one_text_serves_all_images(pictures, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a red circle\n")
    (batch,) = source("--images", pictures, "--texts", file).batches()
    assert batch.text.tokens[0] == batch.text.tokens[2] == ["[DEC]", "a", "red", "circle", "[SEP]"]


def test_unreadable_images_are_left_out_by_name_or_refused(pictures, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    found = source("--images", pictures, broken)
    assert sum(len(batch.names) for batch in found.batches()) == 3
    assert found.skipped == [str(broken)] and "broken.png" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"none of 1 images can be read, first: {broken} cannot be read"):
        list(source("--images", broken).batches())


def test_strict_opens_every_chosen_image_before_the_model_runs(pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken.png cannot be read .*, or leave out --strict"):
        source("--images", pictures, broken, "--strict")
    assert len(source("--images", pictures, broken, "--strict", "--examples", 3)) == 3
    assert len(source("--task", "easy_vqa", "--strict", "--examples", 2)) == 2


def test_options_that_would_change_nothing_are_refused(pictures, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a ball\n")
    for words, message in (
        (("--texts", texts, "--task", "vqa"), "--task chooses among a task's data"),
        (("--images", pictures, "--task", "caption"), "--task chooses among a task's data"),
        (("--texts", texts, "--split", "test"), "--split chooses among a task's data"),
        (("--texts", texts, "--strict"), "--strict is about image files"),
        (("--strict",), "--strict is about image files"),
    ):
        with pytest.raises(UserError, match=message) as error:
            source(*words)
        assert "\n" not in str(error.value)


def test_settings_name_a_task_only_where_one_is_looked_at(pictures):
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    own, drawn = (parser.parse_args(words) for words in (["--images", str(pictures)], []))
    assert (settings_of(own)["task"], settings_of(own)["split"]) == (None, None)
    assert (settings_of(drawn)["task"], settings_of(drawn)["split"]) == ("caption", "validation")
    assert settings_of(drawn, "another")["task"] == "another"


def test_the_default_model_by_its_name_is_the_default():
    """What is there from either is taken up by the other."""
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    default, named, other = (
        settings_of(parser.parse_args(words)) for words in ([], ["--model", "mini-blip"], ["--model", "a/b"])
    )
    assert named == default and default["model"] is None and other["model"] == other["weights"] == "a/b"


def test_options_keep_each_value_once():
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    args = parser.parse_args(["--heads", "1", "0", "1", "--layers", "*", "*"])
    assert (args.heads, args.layers) == ([1, 0], ["*"])


def test_text_models(bert, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a red ball\nred\n")
    ((batch, graphs),) = source("--model", bert, "--texts", file).graphs()
    assert batch.text.tokens[1] == ["[CLS]", "red", "[SEP]", "[PAD]", "[PAD]"] and batch.pictures is None
    assert len(graphs) == 2 and not graphs["encoder.layer.0.attention.self"].weight[1, :, :, 3:].any()


def test_image_models(vit, pictures):
    ((batch, graphs),) = source("--model", vit, "--images", pictures).graphs()
    assert batch.text is None and len(batch.pictures.images) == 3 and len(graphs) == 2
    assert batch.pictures.images[0].size == (8, 8) and batch.pictures.images[0].getpixel((0, 0)) == (
        255,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "no folder with a config.json"),
        (["--images", "nowhere.png"], "no such file"),
        (["--texts", "nowhere.txt"], "no such file"),
        (["--examples", "0"], "at least 1"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "moon"], "not available"),
    ],
)
def test_bad_input_is_one_line(words, message):
    with pytest.raises(UserError, match=message) as error:
        list(source(*words).batches())
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused(pictures, bert, vit, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a\nb\n")
    with pytest.raises(UserError, match="3 images but 2 texts"):
        source("--images", pictures, "--texts", texts)
    with pytest.raises(UserError, match="give --images"):
        source("--texts", texts)
    with pytest.raises(UserError, match="BertModel looks at no images: leave out --images"):
        source("--model", bert, "--images", pictures, "--texts", texts)
    with pytest.raises(UserError, match="ViTModel reads no texts: leave out --texts"):
        source("--model", vit, "--images", pictures, "--texts", texts)
    with pytest.raises(UserError, match="reads no texts"):
        source("--model", vit, "--texts", texts)
    with pytest.raises(UserError, match="exclude"):
        source("--images", pictures, "--data", tmp_path)
