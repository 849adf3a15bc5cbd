r"""Texts as the released code of BLIP and p-Adapter writes them: beam search of transformers 4.15.

With :math:`t` tokens before the end token, *those of the prompt and the start token among them*, and the log
probability :math:`\log P` of what was written, end token included, the best text has the highest
:math:`\log P / t`. ``min_new_tokens`` and ``max_new_tokens`` count the prompt too. A text that reaches the
limit without an end token counts like one that has ended. The search ends when there are as many ended texts
as beams, and the likeliest candidate of a step, which may be one that has just ended, divided by the length
before that step, is no better than the worst of them.

Sources: ``BeamSearchScorer`` in src/transformers/generation_beam_search.py of
github.com/huggingface/transformers (4.15.0, which both require); ``generate`` in models/blip.py and
models/blip_vqa.py of github.com/salesforce/BLIP and in eff_blip/eff_blip_caption.py of
github.com/wuhy68/p-Adapter. One thing is not followed: there, prompts of different lengths are padded without
a mask. Here no prompt is padded.

Axes: g prompts of one length, r texts that are being written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from transformers import PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.models.generation import check_positions
from experiments.models.ranking import Opening, cache_rows


@torch.no_grad()
def released_texts(
    parts: Iterator[Opening], tokenizer: PreTrainedTokenizerBase, beams: int, least: int, most: int
) -> list[str]:
    """What a decoder writes after each prompt, as plain text without the prompt.

    Args:
        parts: all prompts, each once.
        tokenizer: the decoder's.
        beams: 1 for greedy decoding.
        least, most: tokens of prompt and text together, start and end token included.

    Raises:
        UserError: the model has no positions for so many tokens, or a prompt leaves no room for a text.
    """
    check_positions(tokenizer, most)
    found: dict[int, list[int]] = {}
    for part in parts:
        prompt = part.ids.shape[1]
        if prompt >= most:
            raise UserError(
                f"max_new_tokens {most} counts the prompt with as_released, which has {prompt} tokens: give "
                f"at least {prompt + 1}"
            )
        texts = best_texts(part, tokenizer.sep_token_id, beams, least, most)
        found |= dict(zip(part.samples, texts, strict=True))
    ids = [found[sample] for sample in sorted(found)]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def best_texts(part: Opening, end: int, beams: int, least: int, most: int) -> list[list[int]]:
    """The best text after each of a part's prompts, without the end token; see :func:`released_texts`."""
    logits, cache = part.begin()
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in part.samples]
    prompts, written = list(range(len(ended))), [[[]] for _ in ended]  # of those that go on: texts of each
    sums = torch.zeros(len(ended), 1, device=logits.device)
    length = part.ids.shape[1]
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
    """Keep a text among the best, which are sorted with the best last."""
    if len(texts) < most or score > texts[0][0]:
        texts.append((score, text))
        texts.sort(key=lambda scored: scored[0])
        del texts[:-most]
