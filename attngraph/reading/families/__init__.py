"""Attention that does not go through transformers' ``AttentionInterface``: one file for each family, and one
for PyTorch's own layer.

A file holds a subclass of the family's attention class. Its forward takes what the family's takes, projects
queries, keys and values (with the cache, if the family has one), and calls
:func:`attngraph.reading.attend.attend` with the family's own eager formula, so that it returns the very same
numbers. While a model is instrumented its modules are of that subclass. What attention needs to know and only
an outer module knows, a hook on that module notes.
"""

from collections.abc import Callable

from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

from attngraph.reading.families import (
    bert_like,
    blip,
    bloom,
    deberta,
    donut_swin,
    falcon,
    flava,
    gemma4,
    git,
    gpt_neo,
    lxmert,
    mpnet,
    mpt,
    multihead,
    paligemma,
    roformer,
    trocr,
    vilt,
    visual_bert,
    xglm,
    xlnet,
)

_FILES = (
    bert_like,
    blip,
    bloom,
    deberta,
    donut_swin,
    falcon,
    flava,
    gemma4,
    git,
    gpt_neo,
    lxmert,
    mpnet,
    mpt,
    multihead,
    paligemma,
    roformer,
    trocr,
    vilt,
    visual_bert,
    xglm,
    xlnet,
)
CLASSES: dict[type, type] = {kind: swapped for file in _FILES for kind, swapped in file.CLASSES.items()}
"""``{original attention class: its subclass}``"""
HOOKS: dict[type, Callable] = {kind: hook for file in _FILES for kind, hook in file.HOOKS.items()}
"""``{class of an outer module: forward pre-hook}``"""
REFUSED: dict[type, str] = {
    DiffLlamaAttention: "attends twice and takes the difference, so that its weights are those of no graph"
}
"""``{attention class that is not read though it could be: why}``"""
