"""Prompt tuning and P-tuning: learned tokens at the beginning of the texts that a model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from peft import (
    PromptEmbedding,
    PromptEncoder,
    PromptEncoderConfig,
    PromptEncoderReparameterizationType,
    PromptLearningConfig,
    PromptTuningInit,
)
from torch import Tensor, nn
from torch.nn import functional as F

from attngraph.errors import UserError
from attngraph.experiments.methods.own_weights import TunedModel
from attngraph.experiments.models.family import ModelFamily
from attngraph.reading.outputs import place

ATTRIBUTE = "learned_tokens"
"""The attribute of an embedding that holds the learned tokens; part of the names of their parameters."""
PROMPTS = ("PROMPT_TUNING", "P_TUNING")  # types of PEFT


class PromptTuned(TunedModel):
    r"""A model with :math:`t` learned tokens at the beginning of each text.

    Their embeddings :math:`P` are parameters (prompt tuning), or the output of a network (P-tuning); the
    model reads

    .. math:: [P_1 ; \dots ; P_t ; E(x_1) ; \dots ; E(x_n)]

    with positions from :math:`P_1` on, so that texts shift by :math:`t` positions. Learned tokens are ids
    below 0 (``ModelFamily.learned``) among the others, so that masks, caches and beams are the model's own.
    An encoder and a decoder each have their own ones. The model's parameters are frozen. Inputs for analysis
    (``ModelFamily.batch``) do not have learned tokens.

    PEFT computes the same in a language model; its wrapper prepends embeddings when it is called, which
    training with cached image features and the ranking of answers do not do.

    Sources: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; Liu et
    al., "GPT Understands, Too", 2021 (P-tuning). ``PromptEmbedding`` and ``PromptEncoder`` are PEFT's.

    Args:
        family: family of the model.
        config: configuration of PEFT; the dimensions in it are those of the model.

    Raises:
        UserError: the family's texts cannot begin with learned tokens, or the model reads too few tokens.
    """

    file = "prompt.safetensors"

    def __init__(self, family: ModelFamily, config: PromptLearningConfig):
        super().__init__(family)
        count, longest = config.num_virtual_tokens, family.max_tokens
        if family.learned is None:
            raise UserError(
                f"{family.title} does not support learned tokens: choose another method, such as prefix"
            )
        if type(count) is not int or count < 1 or (longest is not None and count > longest // 2):
            most = "" if longest is None else f" to {longest // 2}, half of what {family.title} reads"
            raise UserError(f"num_virtual_tokens is {count!r}: choose a number from 1{most}")
        if config.modules_to_save:
            raise UserError("modules_to_save is not supported with learned tokens: remove it")
        family.model.requires_grad_(False)
        for embedding in dict.fromkeys(family.word_embeddings()):
            tokens = learned_tokens(embedding, config)
            device, dtype = place(embedding)
            # in half precision a step of the optimizer would be lost
            tokens.to(device, torch.promote_types(dtype, torch.float32)).train(embedding.training)
            setattr(embedding, ATTRIBUTE, tokens)
            embedding.forward = partial(embed, embedding.forward, tokens, count)
        family.learned = tuple(range(-1, -1 - count, -1))
        family.unadapted = self.disabled

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """A context without learned tokens: outputs are bitwise identical to the original model's."""
        learned, self.family.learned = self.family.learned, ()
        try:
            yield
        finally:
            self.family.learned = learned


def learned_tokens(embedding: nn.Module, config: PromptLearningConfig) -> nn.Module:
    """PEFT's module for the learned tokens of an embedding: it maps their numbers ``(1, t)`` to embeddings
    ``(1, t, d)``.

    Raises:
        ValueError: a setting of the configuration is unknown or out of range.
    """
    width = embedding.embedding_dim
    own = replace(config, token_dim=width, num_transformer_submodules=1)
    if isinstance(own, PromptEncoderConfig):
        kind = PromptEncoderReparameterizationType(own.encoder_reparameterization_type)
        own.encoder_reparameterization_type = kind
        own.encoder_hidden_size = width if own.encoder_hidden_size is None else own.encoder_hidden_size
        if type(own.encoder_hidden_size) is not int or own.encoder_hidden_size < 1:
            raise ValueError(f"encoder_hidden_size is {own.encoder_hidden_size!r}")
        return PromptEncoder(own)
    if PromptTuningInit(own.prompt_tuning_init) == PromptTuningInit.TEXT:
        own.tokenizer_kwargs = {**(own.tokenizer_kwargs or {}), "local_files_only": True}
    try:
        return PromptEmbedding(own, embedding)
    except IndexError:
        raise ValueError(
            "the model has no embeddings for tokens of prompt_tuning_init_text: tokenizer_name_or_path is "
            f"{own.tokenizer_name_or_path!r}, use the model's tokenizer"
        ) from None


def embed(own: Callable[[Tensor], Tensor], tokens: nn.Module, count: int, ids: Tensor) -> Tensor:
    """Embeddings ``(b, n, d)`` of ids ``(b, n)``, of which -1 is the first of ``count`` learned tokens, -2
    the second, and so on.
    """
    words = own(ids.clamp(min=0))
    table = tokens(torch.arange(count, device=ids.device)[None])[0].to(words.dtype)
    return torch.where((ids < 0)[..., None], F.embedding((-1 - ids).clamp(min=0), table), words)
