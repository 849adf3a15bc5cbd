"""Attention that does not go through transformers' ``AttentionInterface``: one file for each family, and one
for PyTorch's own layer.

A file holds a subclass of the family's attention class. Its forward takes what the family's takes, projects
queries, keys and values (with the cache, if the family has one), and calls
:func:`attngraph.reading.attend.attend` with the family's own eager formula, so that it returns the very same
numbers. While a model is instrumented its modules are of that subclass. What attention needs to know and only
an outer module knows, a hook on that module notes.

A file is imported when a model needs it, since it imports the family's code from transformers. It declares
``CLASSES``, ``{original attention class: its subclass}``, and ``HOOKS``, ``{class of an outer module: forward
pre-hook}``.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from torch import nn

FILES = {
    "blip": "blip",
    "bloom": "bloom",
    "deberta": "deberta",
    "deberta_v2": "deberta",
    "deepseek_v4": "deepseek_v4",
    "donut": "donut_swin",
    "falcon": "falcon",
    "flava": "flava",
    "gemma4": "gemma4",
    "gemma4_unified": "gemma4",
    "git": "git",
    "gpt_neo": "gpt_neo",
    "idefics": "cross_first",
    "lxmert": "lxmert",
    "megatron_bert": "bert_like",
    "mllama": "cross_first",
    "mpnet": "mpnet",
    "mpt": "mpt",
    "paligemma": "paligemma",
    "rembert": "bert_like",
    "roformer": "roformer",
    "trocr": "trocr",
    "vilt": "vilt",
    "visual_bert": "visual_bert",
    "xglm": "xglm",
    "xlnet": "xlnet",
}
"""``{folder of transformers/models: file here}``"""
REFUSED = {
    "DiffLlamaAttention": "attends twice and takes the difference, so that its weights are those of no graph",
    "T5Gemma2MergedAttention": (
        "attends to the text and to the encoder's states in one softmax, so that its values are of two kinds"
    ),
    "NemotronAsrStreamingEncoderAttention": (
        "shows what its mask hides, and hides the rest, where attention is eager (transformers 5.24)"
    ),
}
"""``{name of an attention class of transformers that is not read though it could be: why}``"""


def stand_in(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The subclass that an attention class has here."""
    return getattr(_file(kind), "CLASSES", {}).get(kind)


def is_stand_in(kind: type[nn.Module]) -> bool:
    """Whether a class is such a subclass."""
    ours = vars(sys.modules[kind.__module__]) if kind.__module__.startswith(f"{__name__}.") else {}
    return kind in ours.get("CLASSES", {}).values()


def hook_of(kind: type[nn.Module]) -> Callable | None:
    """What notes something for attention before a module of a class runs."""
    return getattr(_file(kind), "HOOKS", {}).get(kind)


def refusal_of(kind: type[nn.Module]) -> str | None:
    """Why a class is not read though it could be, if that is so."""
    return REFUSED.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None


def _file(kind: type[nn.Module]) -> ModuleType | None:
    """The file about a class's family."""
    parts = kind.__module__.split(".")
    name = FILES.get(parts[2]) if parts[:2] == ["transformers", "models"] else None
    if kind is nn.MultiheadAttention:
        name = "multihead"
    return None if name is None else import_module(f"{__name__}.{name}")
