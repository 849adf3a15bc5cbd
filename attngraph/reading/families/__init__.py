r"""Rules for single model families.

Attention that goes through transformers' ``AttentionInterface`` is read there, and other attention by
watching it run (:mod:`attngraph.reading.watch`). Two families have a file here: BLIP, whose adapters start
from scores and whose forward ignores a mask that it receives, and PyTorch's ``nn.MultiheadAttention``, whose
function reads the weight of :math:`W_o` instead of calling it, so that no adapter could follow. Such a file
holds a subclass of the attention class, whose forward has the original's arguments, projects queries, keys
and values, and calls :func:`attngraph.reading.attend.attend` with the family's eager formula. While a model
is instrumented its modules are of that subclass. The file is imported when a model needs it, and declares
``CLASSES``, ``{original attention class: its subclass}``, and ``HOOKS``, ``{class of an outer module: forward
pre-hook}``.

:mod:`~attngraph.reading.families.notes` holds information that only outer modules have, and :data:`REFUSED`
lists attention that cannot be read.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from torch import nn

from attngraph.reading.families.notes import HOOKS

FILES = {"blip": "blip"}
"""``{folder of transformers/models: file here}``"""
BLOCKS = "attends in blocks, whose scores are not one product of queries and keys"
BIG_BIRD = f'{BLOCKS}; with attention_type="original_full" it can be read'
LINEAR = "is not a softmax of products of queries and keys"
SAMPLED = "attends to a few positions between values, which it chooses for each query"
ASSIGNS = "assigns each value to one group, with a softmax over the groups"
OF_IMAGES = (SAMPLED, ASSIGNS)
"""Of these, what no text has: the queries are in no order."""
REFUSED = {
    "BigBirdBlockSparseAttention": BIG_BIRD,
    "BigBirdPegasusBlockSparseAttention": BIG_BIRD,
    "LEDEncoderSelfAttention": BLOCKS,
    "LongformerSelfAttention": BLOCKS,
    "LongT5LocalAttention": BLOCKS,
    "LongT5TransientGlobalAttention": BLOCKS,
    "LSHSelfAttention": BLOCKS,
    "LocalSelfAttention": BLOCKS,
    "PegasusXGlobalLocalAttention": BLOCKS,
    "GroupViTAssignAttention": ASSIGNS,
    "InformerProbSparseAttention": "attends from a few queries, which it chooses in each call",
    "MobileViTV2LinearSelfAttention": LINEAR,
    "MraSelfAttention": LINEAR,
    "ProphetNetNgramSelfAttention": "attends in several streams at once, one for each word ahead",
    "RwkvSelfAttention": LINEAR,
    "SwiftFormerEfficientAdditiveAttention": LINEAR,
    "YosoSelfAttention": LINEAR,
    "DiffLlamaAttention": "attends twice and takes the difference, so that its weights are those of no graph",
    "T5Gemma2MergedAttention": (
        "attends to the text and to the encoder's states in one softmax, so that its values are of two kinds"
    ),
    "NemotronAsrStreamingEncoderAttention": (
        "shows what its mask hides, and hides the rest, where attention is eager (transformers 5.24)"
    ),
}
"""``{name of an attention class of transformers that is not read though it could be: why}``"""
REFUSED_KINDS = {"DeformableAttention": SAMPLED, "LinearAttention": LINEAR, "LightningAttention": LINEAR}
"""The same by a part of the name."""


def stand_in(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The subclass that an attention class has here."""
    return getattr(_file(kind), "CLASSES", {}).get(kind)


def is_stand_in(kind: type[nn.Module]) -> bool:
    """Whether a class is such a subclass."""
    ours = vars(sys.modules[kind.__module__]) if kind.__module__.startswith(f"{__name__}.") else {}
    return kind in ours.get("CLASSES", {}).values()


def hook_of(kind: type[nn.Module]) -> Callable | None:
    """Pre-hook of a module class that leaves notes for the attention inside it."""
    own = HOOKS.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    return own or getattr(_file(kind), "HOOKS", {}).get(kind)


def refusal_of(kind: type[nn.Module]) -> str | None:
    """Why a class is not read though it could be, if that is so."""
    if not kind.__module__.startswith("transformers.models."):
        return None
    several = (reason for part, reason in REFUSED_KINDS.items() if part in kind.__name__)
    return REFUSED.get(kind.__name__) or next(several, None)


def _file(kind: type[nn.Module]) -> ModuleType | None:
    """The file about a class's family."""
    parts = kind.__module__.split(".")
    name = FILES.get(parts[2]) if parts[:2] == ["transformers", "models"] else None
    if kind is nn.MultiheadAttention:
        name = "multihead"
    return None if name is None else import_module(f"{__name__}.{name}")
