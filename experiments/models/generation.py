r"""From image features and prompts to logits and texts, using only BLIP's ``text_decoder``.

A text is ``[DEC] prompt answer [SEP]``: the prompt is the decoder's prefix, the loss covers the answer and
the end token. Calling the decoder directly (not ``model.generate``) makes it possible to cache and share
frozen image features. Axes: B texts, L tokens, N states that the decoder attends to, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from attngraph.errors import UserError
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.models.family import Decoding
from attngraph.experiments.models.ranking import Opening, cache_argument, cache_rows


def encode_images(model: nn.Module, pixels: Tensor) -> Tensor:
    """Image features ``(B, N, D)`` of pixels ``(B, 3, height, width)``, with gradients."""
    return model.vision_model(pixel_values=pixels).last_hidden_state


@torch.no_grad()
def frozen_image_states(model: nn.Module, pixels: Tensor, batch_size: int = 128) -> Tensor:
    """Like ``encode_images``, without gradients and in chunks, to cache the features of a frozen vision
    tower.
    """
    return torch.cat([encode_images(model, chunk) for chunk in pixels.split(batch_size)])


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reserved: Sequence[int],
    learned: Sequence[int] = (),
) -> list[list[int]]:
    """``[DEC] prompt`` as ids, after those of ``learned`` tokens; a long prompt is truncated at the end to
    leave positions for the answer.
    """
    start, longest = [*learned, tokenizer.bos_token_id], tokenizer.model_max_length
    return [
        [*start, *ids[: max(0, longest - count - len(start))]]
        for ids, count in zip(_tokens(tokenizer, prompts), reserved, strict=True)
    ]


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], learned: Sequence[int] = ()
) -> list[list[int]]:
    """``answer [SEP]`` as ids, truncated to the positions after ``learned`` tokens and the start
    token.
    """
    longest = tokenizer.model_max_length - len(learned) - 1
    return [[*ids[: longest - 1], tokenizer.sep_token_id] for ids in _tokens(tokenizer, answers)]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of all texts from a single tokenizer call, which is much faster than a call for each."""
    options = dict(add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    return tokenizer(list(texts), verbose=False, **options)["input_ids"]


def sequence_batch(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    learned: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Training batch of ``[DEC] prompt answer [SEP]``, after ``learned`` tokens, padded on the right, with at
    most the tokenizer's ``model_max_length`` tokens.

    Returns:
        input_ids, attention_mask, position_ids, labels: each ``(B, L)`` int64. Labels are not shifted, as is
        usual in transformers, and are -100 on the prompt and on padding.
    """
    ends = answer_ids(tokenizer, answers, learned)
    starts = prompt_ids(tokenizer, prompts, list(map(len, ends)), learned)
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


def padded(rows: Sequence[Sequence[int]], padding: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Ids and mask ``(B, L)`` of rows, padded on one side."""
    ids = [torch.tensor(row) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    pad_sequence = nn.utils.rnn.pad_sequence
    return pad_sequence(ids, True, padding, side), pad_sequence(mask, True, 0, side)


def decoder_logits(
    model: nn.Module, states: Tensor, batch: dict[str, Tensor], states_mask: Tensor | None = None
) -> Tensor:
    """Next-token logits ``(B, L, V)`` of the text decoder on a batch from ``sequence_batch``.

    ``states`` ``(B, N, D)`` are those that the decoder attends to: an image's, or those of a question that
    has attended to an image; ``states_mask`` ``(B, N)`` is 0 at padding. transformers (5.24) applies it only
    while the attention is captured.
    """
    return model.text_decoder(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        encoder_hidden_states=states,
        encoder_attention_mask=states_mask,
        use_cache=False,
    ).logits


class _SameInAllBeams(DynamicLayer):
    """Keys and values of cross-attention. All beams of a text have the same ones, so no copies are needed
    when beams are reordered: in captions by a small model these took a sixth of the time.
    """

    def reorder_cache(self, beam_idx: Tensor) -> None:
        pass


@torch.no_grad()
def generate_text(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    states: Tensor,
    prompts: Sequence[str],
    decoding: Decoding,
    states_mask: Tensor | None = None,
    learned: Sequence[int] = (),
) -> list[str]:
    """The decoder's continuation of ``learned`` tokens and each prompt, greedy or with beams, as plain text
    without the prompt. States are as in :func:`decoder_logits`, one for each prompt.
    """
    prefixes = prompt_ids(tokenizer, prompts, [decoding.max_new_tokens] * len(prompts), learned)
    # Padded on the left: padded on the right, BLIP would continue the padding.
    ids, mask = (x.to(states.device) for x in padded(prefixes, tokenizer.pad_token_id, "left"))
    # Each text counts its positions from its own first token; ``generate`` carries these on for the new
    # tokens.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    end, padding, start = tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id
    cross_cache = DynamicCache()
    cross_cache.layer_class_to_replicate = _SameInAllBeams
    output = model.text_decoder.generate(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        encoder_hidden_states=states,
        encoder_attention_mask=states_mask,
        generation_config=decoding.settings(end, padding, bos_token_id=start),
        **{cache_argument(model.text_decoder): EncoderDecoderCache(DynamicCache(), cross_cache)},
    )
    return [
        text.strip() for text in tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    ]


# ---- as BLIP's and p-Adapter's released code searches ----------------------------------------------------


@torch.no_grad()
def released_texts(
    parts: Iterator[Opening], tokenizer: PreTrainedTokenizerBase, beams: int, least: int, most: int
) -> list[str]:
    r"""The decoder's text after each prompt, as plain text without the prompt, generated as in the released
    code of BLIP and p-Adapter: by the beam search of transformers 4.15.

    With :math:`t` tokens before the end token, *including those of the prompt and the start token*, and the
    log probability :math:`\log P` of the generated tokens, including the end token, the best text has the
    highest :math:`\log P / t`. A text that reaches the limit without an end token is treated like a finished
    one. The search ends when there are as many finished texts as beams, and the most likely candidate of a
    step, which may have just finished, divided by the length before that step, is not better than the worst
    of them.

    Sources: ``BeamSearchScorer`` in src/transformers/generation_beam_search.py of
    github.com/huggingface/transformers (4.15.0, which both require); ``generate`` in models/blip.py and
    models/blip_vqa.py of github.com/salesforce/BLIP and in eff_blip/eff_blip_caption.py of
    github.com/wuhy68/p-Adapter. There is one deviation: in that code, prompts of different lengths are padded
    without a mask. Here prompts are not padded.

    Args:
        parts: all prompts, without duplicates.
        least, most: tokens of prompt and text together, start and end token included.

    Raises:
        UserError: a prompt has as many tokens as prompt and text together may have.
    """
    found: dict[int, list[int]] = {}
    for part in parts:
        prompt = part.length
        if prompt >= most:
            raise UserError(
                f"max_new_tokens {most} includes the prompt's {prompt} tokens with as_released: use at least "
                f"{prompt + 1}"
            )
        texts = best_texts(part, tokenizer.sep_token_id, beams, least, most)
        found |= dict(zip(part.samples, texts, strict=True))
    ids = [found[sample] for sample in sorted(found)]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def best_texts(part: Opening, end: int, beams: int, least: int, most: int) -> list[list[int]]:
    """The best text after each of a part's ``g`` prompts, without the end token; see :func:`released_texts`.
    Each of ``r`` unfinished texts has ``V`` continuations."""
    logits, cache = part.begin()
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in part.samples]
    prompts, written = list(range(len(ended))), [[[]] for _ in ended]  # of those that go on: texts of each
    sums = torch.zeros(len(ended), 1, device=logits.device)
    length = part.length
    while True:
        steps = logits.float().log_softmax(-1)  # (r, V)
        if length < least:
            steps[:, end] = -torch.inf
        vocabulary = steps.shape[-1]
        totals = (sums.flatten()[:, None] + steps).view(len(prompts), -1)
        values, places = (tensor.tolist() for tensor in totals.topk(2 * beams))
        going: dict[int, list[tuple[float, int, int]]] = {}  # prompt -> sum, its text before, next token
        for row, prompt in enumerate(prompts):
            chosen = going[row] = []
            for rank, (value, place) in enumerate(zip(values[row], places[row])):
                text, token = divmod(place, vocabulary)
                if token != end:
                    chosen.append((value, text, token))
                elif rank < beams:
                    _add(ended[prompt], value / length, written[row][text], beams)
                if len(chosen) == beams:
                    break
            if len(ended[prompt]) == beams and ended[prompt][0][0] >= values[row][0] / length:
                del going[row]
        length += 1
        rows = torch.tensor(
            [row * sums.shape[1] + t for row in going for _, t, _ in going[row]], dtype=torch.long
        )
        sums = torch.tensor([[value for value, _, _ in of] for of in going.values()], device=logits.device)
        written = [[[*written[row][text], token] for _, text, token in of] for row, of in going.items()]
        prompts = [prompts[row] for row in going]
        if not prompts or length >= most:
            break
        cache = cache_rows(cache, rows.to(logits.device))
        ids = torch.tensor([[text[-1]] for text in chain(*written)], device=logits.device)
        asked = torch.tensor(prompts, device=logits.device).repeat_interleave(beams)
        logits = part.step(cache, asked, ids)[:, -1]
    for prompt, texts, values in zip(prompts, written, sums.tolist()):
        for text, value in zip(texts, values):
            _add(ended[prompt], value / length, text, beams)
    return [texts[-1][1] for texts in ended]


def _add(texts: list[tuple[float, list[int]]], score: float, text: list[int], most: int) -> None:
    """Add a text to the best ones, which are sorted with the best last."""
    if len(texts) < most or score > texts[0][0]:
        texts.append((score, text))
        texts.sort(key=lambda scored: scored[0])
        del texts[:-most]
