"""PEFT's methods as rows, by the types of their configurations: those of the table of PEFT's methods."""

import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from torch import Tensor

from attngraph.errors import UserError
from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.methods import METHODS, method_named
from attngraph.experiments.methods.parameters import count_parameters
from attngraph.experiments.methods.peft import ConfigMethod, method_of_config, row_name
from attngraph.experiments.methods.prompt import PromptTuned
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models import ModelFamily, load_family
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.runs.plan import settings_of
from attngraph.experiments.runs.plugins import load_plugins
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tasks import TASKS

ROWS = [name for name in load_table("peft", "peft").counts if isinstance(method_named(name), ConfigMethod)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    write_scenes(data, 0, Sizes((4, 4, 4), (4, 4, 4), (4, 4, 4)))
    return [TASKS["vqa"].sample(example, draw=0.0) for example in TASKS["vqa"].examples(data, "test")]


def logits(family: ModelFamily, samples) -> Tensor:
    """Of the answers' tokens."""
    with torch.no_grad():
        inputs = family.training_inputs(samples)
        answers = inputs.pop("labels") != IGNORED
        return family.logits(inputs)[answers]


def made(name: str):
    family, method = load_family(), method_named(name)
    torch.manual_seed(0)
    return family, method.apply(family, method.settings(Settings(), "vqa"))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_the_language_side_and_is_saved_whole(name, samples, tmp_path):
    """Would catch targets outside of the language side, parameters without a gradient, and a file that PEFT
    or a finished run reads as another model.
    """
    plain = logits(load_family(), samples)
    family, tuned = made(name)
    prompted = isinstance(tuned, PromptTuned)
    if not prompted and name != "fourierft":  # whose coefficients PEFT draws at random
        assert torch.allclose(logits(family, samples), plain, atol=1e-4), "it starts at the frozen model"
    own = tuned.parameters()
    assert own and all("text_decoder" in key for key in own)
    assert count_parameters(tuned).model == sum(p.numel() for p in load_family().model.parameters())
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    for step in (1, 2):  # where one factor starts at zero, the others have a gradient after a step
        family.logits(inputs)[labels != IGNORED].log_softmax(-1)[:, 3].sum().backward()
        with torch.no_grad():
            for parameter in own.values():
                assert parameter.grad is not None and parameter.grad.isfinite().all()
                parameter -= 0.05 * parameter.grad.sign()
        tuned.after_step(step, 2)
    tuned.save(tmp_path)
    moved = logits(family, samples)
    assert (moved - plain).abs().max() > 1e-3
    with family.unadapted():
        assert torch.equal(logits(family, samples), plain)
    if not prompted:
        other = load_family()
        PeftModel.from_pretrained(other.model, str(tmp_path)).eval()
        assert torch.equal(logits(other, samples), moved)
        (tmp_path / "adapter_config.json").unlink()  # a run has its settings elsewhere, AdaLoRA's ranks too
    again, saved = made(name)
    saved.load(tmp_path)
    assert torch.equal(logits(again, samples), moved)


def test_any_type_is_a_row_and_what_does_not_fit_is_an_error():
    assert method_named("IA3").name == method_named("ia-3").name == "ia3"
    assert method_named("lora") is METHODS["lora"], "our row keeps its name"
    family = load_family()
    for name, settings, told in (
        ("prefix_tuning", {"num_virtual_tokens": 4}, "cannot be trained here: it fills the cache"),
        ("adalora", {"target_r": 12}, r"target_r is 12: choose target_r below init_r \(12\)"),
        ("adalora", {"deltaT": 0}, "deltaT is 0: .* deltaT from 1"),
        ("oft", {"r": 4, "oft_block_size": 4}, "settings of oft: "),
        ("ia3", {"target_modules": ["none_such"]}, "settings of ia3: "),
        ("dora", {"layers_to_transform": [0]}, "layers_to_transform .* set target_modules too"),
        ("ia3", {"modules_to_save": "head"}, "modules_to_save is 'head': choose a list"),
        ("ia3", {"modules_to_save": ["none_such"]}, "modules_to_save is .*: choose a list"),
        ("ia3", {"target_modules": []}, "settings of ia3: "),
    ):
        method = method_named(name)
        with pytest.raises(UserError, match=told):
            method.apply(family, {**method.settings(Settings(), "vqa"), **settings})
    ia3 = method_named("ia3")
    with pytest.raises(UserError, match="did you mean target_modules"):
        settings_of(ia3, ia3.settings(Settings(), "vqa"), {"target_module": []})


def test_a_saved_configuration_is_a_plugin(tmp_path, monkeypatch):
    """And the row has its fields, no more and no fewer."""
    monkeypatch.setattr("attngraph.experiments.runs.plugins._loaded", {})
    for config in (LoraConfig(r=3, target_modules=["query", "key"]), IA3Config()):
        name = row_name(config)
        monkeypatch.delitem(METHODS, name, raising=False)
        config.save_pretrained(str(tmp_path / name))
        load_plugins([tmp_path / name / "adapter_config.json"])
        assert METHODS.pop(name) == method_of_config(name, config)
    method = method_of_config("mine", LoraConfig(r=3, target_modules=["query", "key"]))
    assert method.options == {"r": 3, "target_modules": ["key", "query"]}
    assert (row_name(LoraConfig(r=3)), row_name(IA3Config())) == ("lora-r3", "ia3-default")
    patterns = (".*cross.*query", ".cross.query")  # their letters are the same
    assert len({row_name(LoraConfig(target_modules=pattern)) for pattern in patterns}) == 2
    (tmp_path / "gcn").mkdir()
    LoraConfig().save_pretrained(str(tmp_path / "gcn"))
    with pytest.raises(UserError, match="gcn is the name of another method"):
        load_plugins([tmp_path / "gcn" / "adapter_config.json"])
    (tmp_path / "gcn" / "adapter_config.json").write_text(json.dumps({"peft_type": "NONE"}))
    with pytest.raises(UserError, match="is not a configuration of PEFT"):
        load_plugins([tmp_path / "gcn" / "adapter_config.json"])
