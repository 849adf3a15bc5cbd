"""From states and prompts to losses and texts, through BLIP's ``text_decoder`` only.

A text is ``[DEC] prompt answer [SEP]``: the prompt is the decoder's prefix, the loss covers the answer and
the end token. Driving the decoder directly (not ``model.generate``) lets frozen image states be cached and
shared.
Axes: B texts, L tokens, N states that the decoder looks at, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration, GenerationConfig, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.models.losses import IGNORED, token_losses
from experiments.models.ranking import Opening, openings


def encode_images(model: BlipForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Image states ``(B, N, D)`` of pixels ``(B, 3, height, width)``, with gradients to the vision tower."""
    return model.vision_model(pixel_values=pixels).last_hidden_state


@torch.no_grad()
def frozen_image_states(model: BlipForConditionalGeneration, pixels: Tensor, batch_size: int = 128) -> Tensor:
    """Like ``encode_images``, without gradients and in chunks: to cache what a frozen vision tower sees."""
    return torch.cat([encode_images(model, chunk) for chunk in pixels.split(batch_size)])


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], rooms: Sequence[int]
) -> list[list[int]]:
    """``[DEC] prompt`` as ids; a prompt's end is cut so that its number of positions is left for the
    answer.
    """
    longest = tokenizer.model_max_length
    return [
        [tokenizer.bos_token_id, *ids[: max(0, longest - room - 1)]]
        for ids, room in zip(_tokens(tokenizer, prompts), rooms, strict=True)
    ]


def answer_ids(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """``answer [SEP]`` as ids, at most as many as fit beside the start token."""
    longest = tokenizer.model_max_length
    return [[*ids[: longest - 2], tokenizer.sep_token_id] for ids in _tokens(tokenizer, answers)]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of all texts from one call: a call for each costs more than the tokens."""
    options = dict(add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    return tokenizer(list(texts), verbose=False, **options)["input_ids"]


def sequence_batch(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> dict[str, Tensor]:
    """Training batch of ``[DEC] prompt answer [SEP]``, padded on the right; a text has at most the
    tokenizer's ``model_max_length`` tokens.

    Returns:
        input_ids, attention_mask, position_ids, labels: each ``(B, L)`` int64. Labels are not shifted, as is
        usual in transformers, and are -100 on the prompt and on padding.
    """
    ends = answer_ids(tokenizer, answers)
    starts = prompt_ids(tokenizer, prompts, list(map(len, ends)))
    begin = np.array(list(map(len, starts)))
    lengths = begin + np.array(list(map(len, ends)))
    places = np.arange(lengths.max())
    filled = places < lengths[:, None]  # in rows, the texts fill these places one after the other
    ids = np.full(filled.shape, tokenizer.pad_token_id)
    ids[filled] = [token for pair in zip(starts, ends) for part in pair for token in part]
    labels = np.where(filled & (places >= begin[:, None]), ids, IGNORED)
    positions = np.broadcast_to(places, ids.shape).copy()
    arrays = {"input_ids": ids, "attention_mask": filled.astype(ids.dtype), "position_ids": positions}
    return {name: torch.from_numpy(array) for name, array in {**arrays, "labels": labels}.items()}


def decoder_loss(
    model: BlipForConditionalGeneration,
    image_states: Tensor,
    batch: dict[str, Tensor],
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of the next token, over answer tokens and end tokens.

    Args:
        image_states: ``(B, N, D)`` from ``encode_images``.
        batch: from ``sequence_batch``.
        label_smoothing: share of the target spread over the vocabulary.
        reduction: "mean" over all answer tokens of the batch (a scalar), or "none": each text's sum ``(B,)``.
    """
    labels = batch["labels"]
    losses = token_losses(decoder_logits(model, image_states, batch), labels, label_smoothing)
    return losses.sum() / (labels[:, 1:] != IGNORED).sum() if reduction == "mean" else losses.sum(-1)


def decoder_logits(
    model: nn.Module, states: Tensor, batch: dict[str, Tensor], states_mask: Tensor | None = None
) -> Tensor:
    """Next-token logits ``(B, L, V)`` of the text decoder on a batch from ``sequence_batch``.

    Args:
        states: ``(B, N, D)``, what the decoder looks at: an image, or a question that has looked at one.
        states_mask: ``(B, N)``, 0 at padding. transformers (5.24) heeds it only while the attention is read.
    """
    return model.text_decoder(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        encoder_hidden_states=states,
        encoder_attention_mask=states_mask,
        use_cache=False,
    ).logits


def check_positions(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
    """Raise UserError where the model has no positions for so many tokens."""
    longest = tokenizer.model_max_length  # the last token is never read again, the start token is
    if max_new_tokens > longest:
        raise UserError(f"max_new_tokens is {max_new_tokens}, and the model has {longest} positions")


@torch.no_grad()
def generate_text(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    states: Tensor,
    prompts: Sequence[str],
    max_new_tokens: int = 20,
    num_beams: int = 1,
    min_new_tokens: int = 0,
    use_cache: bool = True,
    states_mask: Tensor | None = None,
    length_penalty: float = 1.0,
) -> list[str]:
    """The decoder's continuation of each prompt, greedy or with beams, as plain text without the prompt.

    Args:
        states: ``(B, N, D)``, what the decoder looks at, one for each prompt.
        max_new_tokens: upper limit, end token included.
        num_beams: 1 for greedy decoding.
        min_new_tokens: lower limit.
        use_cache: reuse keys and values of earlier tokens; the texts are the same without, only slower.
        states_mask: ``(B, N)``, see :func:`decoder_logits`.
        length_penalty: transformers' own, see :mod:`experiments.models.length_penalty`.

    Raises:
        UserError: the model has no positions for so many tokens.
    """
    check_positions(tokenizer, max_new_tokens)
    prefixes = prompt_ids(tokenizer, prompts, [max_new_tokens] * len(prompts))
    length = max(map(len, prefixes))
    device = states.device
    # Padded on the left: padded on the right, BLIP would continue the padding.
    ids = torch.full((len(prefixes), length), tokenizer.pad_token_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prefix in enumerate(prefixes):
        ids[row, length - len(prefix) :] = torch.tensor(prefix, device=device)
        mask[row, length - len(prefix) :] = 1
    # Each text counts its positions from its own first token; ``generate`` carries these on for the new
    # tokens.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        num_beams=num_beams,
        length_penalty=length_penalty,
        do_sample=False,
        use_cache=use_cache,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    output = model.text_decoder.generate(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        encoder_hidden_states=states,
        encoder_attention_mask=states_mask,
        generation_config=config,
    )
    return [text.strip() for text in tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)]


def decoder_openings(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    states: Tensor,
    prompts: Sequence[str],
    answers: Sequence[str],
    states_mask: Tensor | None = None,
) -> Iterator[Opening]:
    """The prompts, each to be followed by any of the answers: ``[DEC] prompt``, then ``answer [SEP]``.

    Args:
        states: ``(B, N, D)``, what the decoder looks at, one for each prompt.
        states_mask: ``(B, N)``, see :func:`decoder_logits`.
    """
    ends = answer_ids(tokenizer, answers)
    starts = prompt_ids(tokenizer, prompts, [max(map(len, ends))] * len(prompts))
    looked_at = {"encoder_hidden_states": states}
    if states_mask is not None:
        looked_at["encoder_attention_mask"] = states_mask
    return openings(model.text_decoder, starts, [ends] * len(prompts), looked_at, states.device)
