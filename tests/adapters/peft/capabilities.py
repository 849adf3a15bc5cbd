"""What graph adapters can do of what PEFT's methods can: one check for each feature, and the page that lists
them.

    python -m tests.adapters.peft.capabilities   # writes docs/peft.md

The checks are those that PEFT's own tests make on each of its methods, written anew, and some more. Each gets
the name of a family and an empty folder. What does not work has to end with the message that is given here.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peft import (
    PeftModel,
    get_base_model_state_dict,
    get_layer_status,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    set_base_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from attngraph import UserError
from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.peft.layer import GraphLayer, OutputLayer
from tests.adapters.peft.helpers import close, differ, run
from tests.adapters.peft.helpers import config as random_config
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.quantised import Scaled, quantise

PAGE = Path(__file__).parents[3] / "docs" / "peft.md"
TASKS = {"llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": None, "blip": None}
"""A decoder, an encoder-decoder, an encoder, and an image captioner with adapters in its text decoder; and
PEFT's task, which decides on the class round the model."""
GENERATORS = ("llama", "t5", "blip")
HEADS = {"llama": "lm_head", "t5": "lm_head", "bert": "cls", "blip": "cls"}
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Feature:
    """A line of the page.

    Attributes:
        name: what it is, as PEFT calls it.
        check: raises an error if it does not work.
        families: in which it is checked.
        ends: how the error begins or what it says, as a regular expression, if it is not to work.
        note: what a user should know; why, if it is not to work.
    """

    name: str
    check: Callable[[str, Path], None]
    families: tuple[str, ...]
    ends: str = ""
    note: str = ""


FEATURES: list[Feature] = []


def feature(name: str, note: str = "", ends: str = "", families: tuple[str, ...] = tuple(TASKS)) -> Callable:
    def add(check: Callable[[str, Path], None]) -> Callable[[str, Path], None]:
        FEATURES.append(Feature(name, check, families, ends, note))
        return check

    return add


def base(family: str) -> PreTrainedModel:
    return FAMILIES[family].make()


def config(family: str, **settings: Any) -> GraphAdapterConfig:
    return random_config(**{"task_type": TASKS[family], **settings})


def put(family: str, name: str = "default", seed: int = 0, **settings: Any) -> PeftModel:
    """A family's model with random adapters, in evaluation."""
    torch.manual_seed(seed)
    return get_peft_model(base(family), config(family, **settings), adapter_name=name).eval()


def two(family: str, **settings: Any) -> PeftModel:
    """A model with adapters ``default``, which is active, and ``other``."""
    model = put(family, **settings)
    torch.manual_seed(1)
    model.add_adapter("other", config(family, **settings))
    return model.eval()


def batch_of(family: str, b: int = 2) -> dict[str, Tensor]:
    return FAMILIES[family].batch(b=b)


def without_output(family: str, b: int = 2) -> dict[str, Tensor]:
    """What ``generate`` takes."""
    return {name: x for name, x in batch_of(family, b).items() if name != "decoder_input_ids"}


def learn(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    """Gradients by the names of parameters, of which just the trained ones have any."""
    model.zero_grad()
    torch.manual_seed(3)  # for dropout
    model(**batch).logits.square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


# ---- configuration ----------------------------------------------------------------------------------------


@feature("`target_modules`, `exclude_modules`: names or a regular expression")
def choose(family: str, folder: Path) -> None:
    everything = {layer.name for layer in put(family).modules() if isinstance(layer, GraphLayer)}
    first = min(everything)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You have passed exclude_modules")  # "but no modules were excluded"
        rest = put(family, exclude_modules=[first])
    assert {layer.name for layer in rest.modules() if isinstance(layer, GraphLayer)} == everything - {first}
    attention = next(name for name in everything if re.search("attention|self_attn|SelfAttention", name))
    alone = put(family, target_modules=re.escape(attention), positions=("self", "cross"))
    assert {x.name for x in alone.modules() if isinstance(x, GraphLayer)} == {attention}


@feature(
    '`target_modules="all-linear"`', "all attention layers, on every side of the model, and the FFN blocks"
)
def all_linear(family: str, folder: Path) -> None:
    model = put(family, target_modules="all-linear")
    assert {x.name for x in model.modules() if isinstance(x, GraphLayer)} >= {
        x.name for x in put(family).modules() if isinstance(x, GraphLayer)
    }
    model.save_pretrained(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == "all-linear"


@feature("`layers_to_transform`, `layers_pattern`")
def layers_by_number(family: str, folder: Path) -> None:
    one, everything = put(family, layers_to_transform=[0]).train(), put(family)
    trained = learn(one, batch_of(family))
    assert 0 < len(trained) < sum(p.requires_grad for p in everything.parameters())
    one.eval().save_pretrained(folder)
    again = PeftModel.from_pretrained(base(family), folder)
    assert torch.equal(run(again, batch_of(family)), run(one, batch_of(family)))


@feature("`modules_to_save`")
def heads(family: str, folder: Path) -> None:
    model = put(family, modules_to_save=[HEADS[family]]).train()
    trained = learn(model, batch_of(family))
    assert any(".modules_to_save.default." in name for name in trained)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".modules_to_save.default." in name:
                p += 0.1 * torch.ones_like(p).cumsum(-1)
    want = run(model.eval(), batch_of(family))
    model.save_pretrained(folder)
    assert torch.equal(run(PeftModel.from_pretrained(base(family), folder), batch_of(family)), want)
    with model.disable_adapter():
        close(run(model, batch_of(family)), run(base(family), batch_of(family)))


@feature(
    "`bias`",
    "adapters have their own biases; those of the model stay frozen",
    "unexpected keyword",
    families=("llama",),
)
def bias(family: str, folder: Path) -> None:
    put(family, bias="all")


# ---- training ---------------------------------------------------------------------------------------------


@feature("Training: only the adapters get gradients")
def training(family: str, folder: Path) -> None:
    trained = learn(put(family).train(), batch_of(family))
    assert all(".gnn_adapter.default." in name and x.abs().sum() > 0 for name, x in trained.items())


@feature("Gradient checkpointing, re-entrant or not", families=("llama", "t5", "bert"))
def checkpointing(family: str, folder: Path) -> None:
    for reentrant in (True, False):
        model = put(family).train()
        want = learn(model, batch_of(family))
        model.prepare_model_for_gradient_checkpointing(model)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        for name, gradient in learn(model, batch_of(family)).items():
            close(gradient, want[name])


@feature(
    "`prepare_model_for_kbit_training`, `enable_input_require_grads`",
    "not in BLIP with any PEFT method, since BLIP adds to its embeddings in place",
    families=("llama", "t5", "bert"),
)
def kbit(family: str, folder: Path) -> None:
    ids = batch_of(family)["input_ids"]
    assert not put(family).get_input_embeddings()(ids).requires_grad
    frozen = prepare_model_for_kbit_training(base(family))
    assert not any(p.requires_grad for p in frozen.parameters())
    model = get_peft_model(frozen, config(family))
    model.enable_input_require_grads()
    assert model.get_input_embeddings()(ids).requires_grad
    learn(model.train(), batch_of(family))


@feature("Quantised bases", "see [Placement](adapters.md#placement)", families=("llama", "bert"))
def quantised(family: str, folder: Path) -> None:
    model = base(family)
    quantise(model, Scaled)
    adapted = get_peft_model(model, config(family)).train()
    assert all(x.isfinite().all() and x.any() for x in learn(adapted, batch_of(family)).values())


@feature("`DistributedDataParallel`", families=("llama", "t5"))
def ddp(family: str, folder: Path) -> None:
    model = put(family).train()
    want = learn(model, batch_of(family))
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for name, gradient in learn(parallel, batch_of(family)).items():
            close(gradient, want[name.removeprefix("module.")])
    finally:
        torch.distributed.destroy_process_group()


@feature("`torch.compile`", "with at most two graph breaks per attention layer", families=("llama", "blip"))
def compiled(family: str, folder: Path) -> None:
    model, batch = put(family), batch_of(family)
    want = run(model, batch)
    close(run(torch.compile(model, backend="eager"), batch), want)
    torch._dynamo.reset()
    layers = sum(isinstance(module, OutputLayer) for module in model.modules())
    assert 0 < len(torch._dynamo.explain(model)(**batch).break_reasons) <= 2 * layers


@feature("`autocast_adapter_dtype`")
def precision(family: str, folder: Path) -> None:
    for upcast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = get_peft_model(base(family).bfloat16(), config(family), autocast_adapter_dtype=upcast)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {p.dtype for p in trained.values() if p.dim() > 1}
        assert matrices == {dtype}
        assert {p.dtype for name, p in trained.items() if name.endswith(".stored")} == {torch.float32}


# ---- running ----------------------------------------------------------------------------------------------


@feature("`disable_adapter()`, nested too")
def disable(family: str, folder: Path) -> None:
    plain, model = run(base(family), batch_of(family)), put(family)
    adapted = run(model, batch_of(family))
    assert differ(adapted, plain)
    with model.disable_adapter():
        with model.disable_adapter():
            assert torch.equal(run(model, batch_of(family)), plain)
        assert torch.equal(run(model, batch_of(family)), plain)
    assert torch.equal(run(model, batch_of(family)), adapted)


@feature("`generate`, in half precision too", families=GENERATORS)
def generate(family: str, folder: Path) -> None:
    model, batch = put(family), without_output(family)
    options = dict(max_new_tokens=4, do_sample=False)
    want = model.generate(**batch, **options)
    if family == "llama":  # PEFT's class for it takes arguments by position
        assert torch.equal(model.generate(batch["input_ids"], **options), want)
    half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch.items()}
    half["attention_mask"][1, 1] = 0
    get_peft_model(base(family).bfloat16(), config(family)).generate(**half, **options)


@feature("`inputs_embeds`", families=("llama", "bert"))
def embeddings(family: str, folder: Path) -> None:
    model, batch = put(family), batch_of(family)
    want = run(model, batch)
    inputs = model.get_input_embeddings()(batch.pop("input_ids"))
    close(run(model, {**batch, "inputs_embeds": inputs}), want)


@feature(
    "`adapter_names=`: mixed batches",
    "each adapter's scheme runs on the whole batch; not with LoRA in the same model",
)
def mixed(family: str, folder: Path) -> None:
    model, batch, names = two(family), batch_of(family, 3), ["__base__", "other", "default"]
    with torch.no_grad():
        got = model(**batch, adapter_names=names).logits
    with model.disable_adapter():
        close(got[0], run(model, batch)[0])
    for k in (1, 2):
        model.set_adapter(names[k])
        close(got[k], run(model, batch)[k])


@feature("`adapter_names=` with beams", families=GENERATORS)
def mixed_beams(family: str, folder: Path) -> None:
    model, batch, names = two(family), without_output(family, 3), ["default", "other", "__base__"]
    options = dict(num_beams=2, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    got = model.generate(**batch, **options, adapter_names=names)
    for k in (0, 1):
        model.set_adapter(names[k])
        assert torch.equal(got[k], model.generate(**batch, **options)[k])
    with model.disable_adapter():
        assert torch.equal(got[2], model.generate(**batch, **options)[2])


# ---- several adapters -------------------------------------------------------------------------------------


@feature("Several adapters: `add_adapter`, `set_adapter`, `set_requires_grad`")
def several(family: str, folder: Path) -> None:
    model, batch = two(family), batch_of(family)
    first = run(model, batch)
    model.set_adapter("other")
    assert model.active_adapters == ["other"] and differ(run(model, batch), first)
    assert all(".other." in name for name in learn(model.train(), batch))
    model.eval().set_adapter("default")
    assert torch.equal(run(model, batch), first)
    model.base_model.set_requires_grad("other")
    trained = {name.split(".gnn_adapter.")[1].split(".")[0] for name, p in parameters(model)}
    assert trained == {"default", "other"}
    try:
        model.add_adapter("other", config(family))
    except ValueError as error:
        assert "already exists" in str(error)
    else:
        raise AssertionError("a second adapter of one name")


def parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@feature(
    "Several active adapters at once",
    "one graph adapter runs at a time",
    "can't run together",
    families=("llama",),
)
def together(family: str, folder: Path) -> None:
    two(family).base_model.set_adapter(["default", "other"])


@feature("`delete_adapter`: the active one, another one, the last one")
def delete(family: str, folder: Path) -> None:
    for active in ("default", "other"):
        model, batch = two(family), batch_of(family)
        want = run(model, batch)
        model.set_adapter(active)
        model.delete_adapter("other")
        assert list(model.peft_config) == model.active_adapters == ["default"]
        assert not any(".other." in name for name in model.state_dict())
        assert torch.equal(run(model, batch), want)
        model.delete_adapter("default")
        assert model.active_adapters == [] and not model.peft_config
        close(run(model.base_model, batch), run(base(family), batch))
    with pytest.raises(ValueError, match="unknown does not exist"):
        put(family).delete_adapter("unknown")


@feature("`unload`")
def unload(family: str, folder: Path) -> None:
    plain, names = run(base(family), batch_of(family)), list(base(family).state_dict())
    model = put(family).unload()
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not hasattr(model, "peft_config") and list(model.state_dict()) == names
    assert torch.equal(run(model, batch_of(family)), plain)


@feature(
    "`merge_adapter`",
    "an adapter depends on the attention of each input, so there are no weights to merge it into",
    r"can't be merged into the weights: remove it with delete_adapter",
)
def merge(family: str, folder: Path) -> None:
    put(family).merge_adapter()


@feature(
    "`merge_and_unload`",
    "see `merge_adapter`",
    r"can't be merged into the weights: remove it with delete_adapter",
    families=("llama",),
)
def merge_and_unload(family: str, folder: Path) -> None:
    put(family).merge_and_unload(safe_merge=True)


@feature(
    "`unmerge_adapter`",
    "nothing is ever merged",
    "graph adapters are never merged into weights",
    families=("llama",),
)
def unmerge(family: str, folder: Path) -> None:
    put(family).unmerge_adapter()  # a warning, which is an error in the test


@feature(
    "`add_weighted_adapter`",
    "sums of nonlinear adapters are not an adapter",
    "is not a graph adapter",
    families=("llama",),
)
def weighted(family: str, folder: Path) -> None:
    two(family).add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")


@feature("`convert_to_lora`", "see `merge_adapter`", "AssertionError", families=("llama",))
def conversion(family: str, folder: Path) -> None:
    assert put(family).supports_lora_conversion()


@feature(
    "`PeftMixedModel`",
    "use `get_peft_model` twice: [Combination with LoRA](adapters.md#combination-with-lora)",
    "not compatible",
    families=("llama",),
)
def mixed_model(family: str, folder: Path) -> None:
    get_peft_model(base(family), config(family), mixed=True)


# ---- saving and loading -----------------------------------------------------------------------------------


@feature("`save_pretrained`, `from_pretrained`, any adapter name")
def saving(family: str, folder: Path) -> None:
    model, batch = put(family, "test-adapter"), batch_of(family)
    assert any(".test-adapter." in name for name, _ in model.named_parameters())
    learn(model.train(), batch)
    want = run(model.eval(), batch)
    model.save_pretrained(folder)
    assert "library_name: peft" in (folder / "README.md").read_text()
    folder = folder / "test-adapter"
    assert set(os.listdir(folder)) == {WEIGHTS, "adapter_config.json"}
    again = PeftModel.from_pretrained(base(family), folder)
    assert torch.equal(run(again, batch), want) and not parameters(again)
    assert again.peft_config["default"].inference_mode
    own = config(family, inference_mode=True)
    assert PeftModel.from_pretrained(base(family), folder, config=own).peft_config["default"] is own


@feature("`selected_adapters`, even if one name contains another")
def selected(family: str, folder: Path) -> None:
    model = put(family)
    expected = get_peft_model_state_dict(model)
    for name in ("default2", "other_default", "foodefault_bar", "efaul"):
        model.add_adapter(name, config(family))
    model.save_pretrained(folder, selected_adapters=["default"])
    assert load_file(folder / WEIGHTS).keys() == expected.keys()
    assert set(os.listdir(folder)) == {WEIGHTS, "adapter_config.json", "README.md"}
    again = PeftModel.from_pretrained(base(family), folder)
    assert all(torch.equal(x, expected[name]) for name, x in get_peft_model_state_dict(again).items())


@feature("`load_adapter`, `low_cpu_mem_usage`, `device_map`")
def loading(family: str, folder: Path) -> None:
    model, batch = put(family), batch_of(family)
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(base(family), folder, device_map={"": "cpu"}, low_cpu_mem_usage=True)
    for name, low in (("second", False), ("third", True)):
        result = again.load_adapter(folder, name, low_cpu_mem_usage=low)
        assert not result.missing_keys and not result.unexpected_keys
    for name in ("default", "second", "third"):
        again.set_adapter(name)
        assert torch.equal(run(again, batch), run(model, batch))
    empty = inject_adapter_in_model(config(family), base(family), low_cpu_mem_usage=True)
    assert {p.device.type for p in empty.parameters()} == {"cpu", "meta"}


@feature("`get_peft_model_state_dict`, `set_peft_model_state_dict`")
def states(family: str, folder: Path) -> None:
    model, batch = put(family), batch_of(family)
    other = inject_adapter_in_model(config(family), base(family)).eval()
    assert differ(run(other, batch), run(model, batch))
    result = set_peft_model_state_dict(other, get_peft_model_state_dict(model))
    assert not result.unexpected_keys and torch.equal(run(other, batch), run(model, batch))


@feature("`inject_adapter_in_model`, `state_dict=` too", "the state dict must fit the configuration")
def injected(family: str, folder: Path) -> None:
    state = get_peft_model_state_dict(inject_adapter_in_model(config(family), base(family)))
    model = inject_adapter_in_model(config(family), base(family), state_dict=state)
    assert get_peft_model_state_dict(model).keys() == state.keys()
    try:
        inject_adapter_in_model(config(family, layers_to_transform=0), base(family), state_dict=state)
    except UserError as error:
        assert "the configuration puts none there" in str(error)
    else:
        raise AssertionError("adapters where the configuration has none")


@feature("`get_base_model_state_dict`, `set_base_model_state_dict`")
def base_states(family: str, folder: Path) -> None:
    want, model = base(family).state_dict(), put(family)
    adapted = run(model, batch_of(family))
    found = get_base_model_state_dict(model)
    assert found.keys() == want.keys() and all(torch.equal(x, want[name]) for name, x in found.items())
    with torch.no_grad():
        for p in model.get_base_model().parameters():
            p.mul_(1 if p.requires_grad else 2)
    result = set_base_model_state_dict(model, want, strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(run(model, batch_of(family)), adapted)


@feature("`get_layer_status`, `get_model_status`")
def status(family: str, folder: Path) -> None:
    model = two(family)
    layers, whole = get_layer_status(model), get_model_status(model)
    assert len(layers) == len([x for x in model.modules() if isinstance(x, GraphLayer)])
    for layer in layers:
        assert layer.enabled and layer.active_adapters == ["default"] and not layer.merged_adapters
        assert layer.available_adapters == ["default", "other"]
        assert layer.requires_grad == {"default": True, "other": False}
        assert layer.devices == {"default": ["cpu"], "other": ["cpu"]}
    assert whole.enabled is True and whole.active_adapters == ["default"]
    assert whole.trainable_params == sum(p.numel() for _, p in parameters(model))
    assert whole.adapter_model_type == "GraphAdapterModel" and whole.peft_types["other"] == "GRAPH_ADAPTER"


@feature(
    "`hotswap_adapter`",
    "PEFT supports it for LoRA only: use `load_adapter` and `set_adapter`",
    "only supports LORA",
    families=("llama",),
)
def hotswap(family: str, folder: Path) -> None:
    model = put(family)
    model.save_pretrained(folder)
    hotswap_adapter(model, str(folder), "default")


@feature(
    "transformers' own `add_adapter`, `disable_adapters`, `load_adapter`",
    "transformers 5.24 asks for PEFT 0.22; after `disable_adapters` attention still runs as eager attention",
)
def of_transformers(family: str, folder: Path) -> None:
    model, batch = base(family), batch_of(family)
    plain = run(model, batch)
    with patch("transformers.integrations.peft.check_peft_version"):
        model.add_adapter(config(family), "first")
        adapted = run(model.eval(), batch)
        assert differ(adapted, plain)
        model.disable_adapters()
        close(run(model, batch), plain)
        model.enable_adapters()
        assert torch.equal(run(model, batch), adapted)
        model.save_pretrained(folder)
        again = base(family)
        again.load_adapter(str(folder), "first")
        assert torch.equal(run(again.eval(), batch), adapted)


# ---- the page ---------------------------------------------------------------------------------------------

TEXT = """# PEFT features

`python -m tests.adapters.peft.capabilities` tests each feature (where the model matters, on tiny Llama, T5,
BERT and BLIP models) and writes this page.
"""
NOTES = "| feature | note |\n|---|---|\n"


def page() -> str:
    """The page, from the table."""
    plain = "".join(f"- {x.name}\n" for x in FEATURES if not x.ends and not x.note)
    noted = "".join(f"| {x.name} | {x.note} |\n" for x in FEATURES if not x.ends and x.note)
    fails = "".join(f"| {x.name} | {x.note} |\n" for x in FEATURES if x.ends)
    return (
        f"{TEXT}\n## Supported\n\n{plain}\n{NOTES}{noted}"
        f"\n## Not supported\n\nThese raise an error.\n\n{NOTES}{fails}"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
