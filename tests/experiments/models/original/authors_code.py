"""Authors' own code, imported from a checkout of theirs.

Its packages of 2022 are replaced by stand-ins where they are gone: the patch embedding of timm, and helpers
that transformers had.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
from torch import nn
from transformers import PreTrainedModel, modeling_utils, pytorch_utils


class PatchEmbed(nn.Module):
    """timm's, as BLIP uses it."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def _stand_ins(monkeypatch) -> None:
    def module(name: str, **content) -> None:
        parts = name.split(".")
        for end in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def nothing(*_, **__):
        return None

    module("fairscale.nn.checkpoint.checkpoint_activations", checkpoint_wrapper=nothing)
    module("timm.models.registry", register_model=nothing)
    timm = {
        "vision_transformer": dict(_cfg=nothing, PatchEmbed=PatchEmbed),
        "layers": dict(trunc_normal_=nn.init.trunc_normal_, DropPath=nn.Identity),
        "helpers": dict(named_apply=nothing, adapt_input_conv=nothing),
    }
    for name, content in timm.items():
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, f"timm.models.{name}", made)
    chunking = pytorch_utils.apply_chunking_to_forward
    monkeypatch.setattr(modeling_utils, "apply_chunking_to_forward", chunking, raising=False)
    for name in ("find_pruneable_heads_and_indices", "prune_linear_layer"):
        monkeypatch.setattr(modeling_utils, name, nothing, raising=False)

    def inverted(self, mask):
        return (1.0 - mask[:, None, None, :].float()) * -10000.0

    monkeypatch.setattr(PreTrainedModel, "invert_attention_mask", inverted, raising=False)
    monkeypatch.setattr(PreTrainedModel, "get_head_mask", lambda self, mask, n: [None] * n, raising=False)
    monkeypatch.setattr(PreTrainedModel, "init_weights", nothing)


@contextmanager
def authors_modules(monkeypatch: pytest.MonkeyPatch, folder: str, *wanted: str) -> Iterator[SimpleNamespace]:
    """Modules of the package ``models`` in a folder."""
    _stand_ins(monkeypatch)
    monkeypatch.syspath_prepend(folder)
    own = [name for name in sys.modules if name.partition(".")[0] == "models"]
    for name in (*own, "models", *(f"models.{name}" for name in wanted)):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield SimpleNamespace(**{name: importlib.import_module(f"models.{name}") for name in wanted})
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]
