"""A folder's configuration and weights must belong together; what attention does not need may be missing."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from attngraph.errors import UserError
from experiments.models import load_family
from tests.attngraph.reading.zoo import TEXT
from tests.experiments.tiny import save


def change(folder, *path, to):
    """Set a field of a folder's configuration."""
    config = json.loads((folder / "config.json").read_text())
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, do):
    state = load_file(folder / "model.safetensors")
    do(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


LAYERS = {
    "bert": ("num_hidden_layers",),
    "gpt2": ("n_layer",),
    "t5": ("num_decoder_layers",),
    "classifier": ("num_hidden_layers",),
    "clip": ("vision_config", "num_hidden_layers"),
    "blip": ("text_config", "num_hidden_layers"),
    "blip-vqa": ("vision_config", "num_hidden_layers"),
    "llava": ("text_config", "num_hidden_layers"),
    "captioner": ("encoder", "num_hidden_layers"),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_another_number_of_layers_is_refused(name, layers, tmp_path):
    """transformers leaves the file's further layers out, and draws missing ones at random."""
    folder = save(name, tmp_path)
    change(folder, *LAYERS[name], to=layers)
    what = "missing or of another shape" if layers == 3 else "of layers that config.json does not describe"
    with pytest.raises(UserError, match=rf"\d+ weights {what}, first .*\d") as error:
        load_family(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_part_of_a_layer_that_the_configuration_switched_off(tmp_path):
    folder = save("llava", tmp_path)
    extra = "model.language_model.layers.0.self_attn.q_proj.bias"
    name = next(
        key
        for key in load_file(folder / "model.safetensors")
        if key.endswith("layers.0.self_attn.q_proj.weight")
    )
    change_weights(folder, lambda state: state.update({name.replace(".weight", ".bias"): torch.zeros(8)}))
    with pytest.raises(UserError, match=f"1 weights of layers .* first {extra}"):
        load_family(folder)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "vocab_size"])
def test_another_size_is_refused(field, tmp_path):
    folder = save("bert", tmp_path)
    change(folder, field, to=8)
    with pytest.raises(UserError, match=str(folder)) as error:
        load_family(folder)
    assert "\n" not in str(error.value)


def as_bert(folder, kind: type[hf.PreTrainedModel], architecture: str):
    """Weights of one class in a folder whose configuration names another."""
    save("bert", folder)
    kind(hf.BertConfig(**TEXT)).save_pretrained(folder)
    change(folder, "architectures", to=[architecture])
    return folder


@pytest.mark.parametrize(
    "kind, architecture",
    [
        (hf.BertForMaskedLM, "BertModel"),
        (hf.BertForPreTraining, "BertForSequenceClassification"),
        (hf.BertModel, "BertForTokenClassification"),
        (hf.BertForQuestionAnswering, "BertForMaskedLM"),
        (hf.BertForMaskedLM, "BertForMaskedLM"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_another_tasks_head_does_not_matter(kind, architecture, tmp_path):
    family = load_family(as_bert(tmp_path, kind, architecture))
    assert type(family.model).__name__ == architecture


def test_weights_of_old_versions_are_left_out(tmp_path):
    """Masks and positions that were saved once, and that the model makes itself."""
    folder = save("gpt2", tmp_path)
    more = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4),
        "transformer.h.0.attn.masked_bias": torch.ones(1),
    }
    change_weights(folder, lambda state: state.update(more))
    assert load_family(folder).model
    folder = save("bert", tmp_path / "bert")
    change_weights(folder, lambda state: state.update({"embeddings.position_ids": torch.arange(4)[None]}))
    assert load_family(folder).model


def test_a_base_model_must_be_whole_even_where_nothing_is_written(tmp_path):
    folder = save("bert", tmp_path)
    change_weights(folder, lambda state: state.pop("encoder.layer.1.attention.self.query.weight"))
    with pytest.raises(
        UserError, match="1 weights missing .* first encoder.layer.1.attention.self.query.weight"
    ):
        load_family(folder)
    change_weights(save("bert", tmp_path / "pooler"), lambda state: state.pop("pooler.dense.weight"))
    assert load_family(tmp_path / "pooler").model
