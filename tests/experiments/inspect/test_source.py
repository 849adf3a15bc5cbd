"""What the analysis commands look at: the right model, adapters, images and texts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from attngraph import capture
from attngraph.adapters import GraphAdapterConfig
from attngraph.errors import UserError
from attngraph.experiments.inspect.source import own_samples, put_in, settings_of
from attngraph.experiments.models import load_family
from tests.experiments.inspect.looking import parse, pictures, source
from tests.experiments.tiny import adapted

LAYER = "text_decoder.bert.encoder.layer.1.crossattention.self"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with three pictures."""
    return pictures(tmp_path_factory.mktemp("pictures"), "0.png", "1.png", "2.png")[0].parent


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with adapters of the mini-BLIP, and that model."""
    folder = tmp_path_factory.mktemp("adapter")
    return folder, adapted(folder)


# ---- images and texts -------------------------------------------------------------------------------------


def test_scenes_come_with_all_that_is_known():
    batch, last = source("--examples", 3, "--batch", 2).batches()
    assert [len(batch.names), len(last.names)] == [2, 1]
    text, start = batch.text, batch.text.prompt[0]
    assert text.tokens[0][:2] == ["[DEC]", "what"] and text.special[0, :2].tolist() == [True, False]
    assert torch.equal(text.padding, batch.inputs["attention_mask"] == 0)
    assert text.tokens[0][start - 1] == "?" and len(batch.scenes) == 2
    assert batch.pictures.grids == [(8, 8)] * 2 and batch.pictures.whole


def test_the_seed_decides_which_examples():
    first, same, other = (
        next(source("--examples", 3, "--task", "vqa", "--seed", seed).batches()) for seed in (1, 1, 2)
    )
    assert first.text.tokens == same.text.tokens != other.text.tokens
    assert torch.equal(first.inputs["pixel_values"], same.inputs["pixel_values"])


def test_graphs_are_those_of_a_forward_pass():
    found = source("--examples", 2, "--layers", "*layer.0.crossattention*", "--heads", 1)
    ((batch, graphs),) = found.graphs()
    ((name, graph),) = graphs.items()
    torch.testing.assert_close(graph.weight, capture(load_family().model, batch.inputs)[name].weight[:, 1:2])
    assert found.reweighted(name, graph) is None


def test_images_of_ones_own_get_a_description_or_the_one_text(three, tmp_path):
    (batch,) = source("--images", three).batches()
    assert batch.names == ["0.png", "1.png", "2.png"] and batch.scenes is None
    assert len(batch.text.tokens[0]) > batch.text.prompt[0]
    (tmp_path / "texts.txt").write_text("a red circle\n")
    (batch,) = source("--images", three, "--texts", tmp_path / "texts.txt").batches()
    assert batch.text.tokens[0] == batch.text.tokens[2] == ["[DEC]", "a", "red", "circle", "[SEP]"]


def test_an_unreadable_image_is_an_error_and_pictures_of_one_name_have_their_paths(three, tmp_path):
    (tmp_path / "0.png").write_bytes(three.joinpath("1.png").read_bytes())
    names = [name for batch in source("--images", three, tmp_path).batches() for name in batch.names]
    assert names == [str(three / f"{k}.png") for k in range(3)] + [str(tmp_path / "0.png")]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"^{tmp_path / 'broken.png'} cannot be read"):
        source("--images", three, tmp_path)


def test_a_text_ends_where_a_line_ends(tmp_path):
    (tmp_path / "texts.txt").write_bytes("\ufeffone\r\n\r\n  two\r\ra\u2028b\n".encode())
    assert [sample.answer for sample in own_samples([], tmp_path / "texts.txt")] == ["one", "two", "a\u2028b"]


def test_what_does_not_fit_is_refused(saved, three, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a\nb\n")
    for words, message in (
        (("--images", three, "--texts", texts), "3 images but 2 texts"),
        (("--texts", texts), "add --images"),
        (("--images", three, three / "1.png"), "1.png is given twice"),
        (("--model", saved("bert"), "--images", three), "has no image input: remove --images"),
        (("--model", saved("vit"), "--texts", texts), "has no text input: remove --texts"),
        (("--images", three, "--data", tmp_path), "--data applies to a task's data"),
        (("--texts", texts, "--split", "test"), "--split applies to a task's data"),
    ):
        with pytest.raises(UserError, match=message):
            source(*words)


def test_settings_tell_what_decides_the_numbers(three):
    own, default = settings_of(parse("--images", three)), settings_of(parse())
    assert (own["task"], own["split"]) == (None, None)
    assert (default["task"], default["split"]) == ("caption", "validation")
    assert settings_of(parse("--model", "mini-blip")) == default and default["model"] is None
    other = settings_of(parse("--model", "a/b"))
    assert other["model"] == other["weights"] == "a/b"
    assert settings_of(parse("--batch", 3)) == default != settings_of(parse("--heads", 3))


def test_faults_of_a_model_its_processor_and_the_reading_are_one_line(saved, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("a red ball\n")
    found = source("--model", saved("bert"), "--texts", tmp_path / "texts.txt")

    def broken(*_, **__):
        raise KeyError("pixel_values\nsee the manual")

    for place, name in ((found.family, "batch"), (found.model.encoder, "forward")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, broken)
            with pytest.raises(UserError, match=r"cannot be run on these images.*\(KeyError: .*pix") as error:
                list(found.graphs())
            assert "\n" not in str(error.value)
    for error in (MemoryError(), torch.OutOfMemoryError("no room"), RuntimeError("can't allocate memory")):
        with pytest.raises(UserError, match="out of memory: use a smaller --batch"), found.reading():
            raise error


# ---- adapters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [True, False])
def test_adapters_of_the_mini_blip(adapter, trained):
    folder, model = adapter
    opened = source("--examples", 2, "--adapter", folder, trained=trained)
    ((batch, graphs),) = opened.graphs()
    expected = capture(model if trained else load_family().model, batch.inputs)[LAYER]
    torch.testing.assert_close(graphs[LAYER].weight, expected.weight)
    scheme = opened.adapters[LAYER].scheme
    p = float(scheme.p.detach())
    assert p > 1.6 if trained else p == pytest.approx(1.5)
    torch.testing.assert_close(opened.reweighted(LAYER, graphs[LAYER]).weight, scheme.reweight(expected))
    assert set(opened.adapters) == {name for name in graphs if name.startswith("text_decoder")}


def test_the_seed_decides_how_new_adapters_start(adapter):
    first, same, other = (
        next(iter(put_in(load_family(), adapter[0], trained=False, seed=seed).values())).join.bottleneck.down
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.weight, same.weight) and not torch.equal(first.weight, other.weight)


def test_without_its_adapters_the_model_is_the_frozen_one(adapter):
    """So that descriptions, which all states of an adapted model read, do not depend on the adapters."""
    opened = source("--examples", 1, "--adapter", adapter[0])
    (batch,) = opened.batches()

    def logits(model):
        with torch.no_grad():
            return model(**batch.inputs).logits

    frozen = logits(load_family().model)
    assert (logits(opened.model) - frozen).abs().max() > 1e-3
    with opened.family.unadapted():
        torch.testing.assert_close(logits(opened.model), frozen)
    assert (logits(opened.model) - frozen).abs().max() > 1e-3


def test_some_heads_of_an_adapter_with_noise_rows_are_refused(tmp_path):
    """Noise of two heads is not that of the same heads among four."""
    get_peft_model(load_family().model, GraphAdapterConfig(query_rows="noise")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="^--adapter .*sampled for all heads.*remove --heads"):
        source("--adapter", tmp_path, "--heads", 1)


def test_what_is_no_graph_adapter_is_refused(tmp_path):
    get_peft_model(load_family().model, LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    for folder, message in ((tmp_path, "LORA, not a graph adapter"), (tmp_path / "no", "no such file")):
        with pytest.raises(UserError, match=f"^--adapter {folder}.*{message}"):
            put_in(load_family(), folder)
