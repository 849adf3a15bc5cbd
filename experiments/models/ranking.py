r"""Answering by ranking a list of answers, as in BLIP and p-Adapter.

There are two steps for each sample: the prompt is encoded once, and the ``k`` answers with the most probable
first tokens are short-listed; for these the log-likelihoods

.. math:: \log p(y \mid \text{prompt}, \text{image}) = \sum_t \log p(y_t \mid y_{<t}, \text{prompt},
   \text{image}),

including the end token, are computed from the prompt's keys and values, many answers in one pass. Prompts of
the same length form a batch, so that prompts are not padded; answers are padded on the right, which does not
affect their tokens.

Sources: ``rank_answer`` in models/blip_vqa.py of github.com/salesforce/BLIP and in eff_blip/eff_blip_vqa.py
of github.com/wuhy68/p-Adapter. Both compute all answers without a cache, and smooth the labels in their
scores.

Axes: b samples, N answers, g prompts of one length, r pairs of prompt and answer, n tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from attngraph.errors import UserError
from attngraph.experiments.models.batch import IGNORED, Sample, token_losses

PROMPTS = 32  # at most so many in one pass
PAIRS = 64  # of prompt and answer in one pass; more are slower on processors
CACHED_BYTES = 2**29  # of keys and values in one pass, copied for each pair


@dataclass(frozen=True)
class Ranking:
    """Options of ranking.

    Args:
        answers: the list. Of equally likely answers the first one is chosen.
        k: number of answers short-listed by their first token and scored in full; None for the family's
            number (``ModelFamily.shortlist``). All answers are scored if k is at least the list's length.
        label_smoothing: fraction of each token's log-probability that is replaced by the mean over the
            vocabulary. 0.1 gives the scores of BLIP's and p-Adapter's code, which ranks by its training loss;
            with 0 they are log-likelihoods.

    Raises:
        UserError: the list is empty, or contains an empty or duplicate answer.
    """

    answers: tuple[str, ...]
    k: int | None = None
    label_smoothing: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "answers", tuple(self.answers))
        if not self.answers:
            raise UserError("there are no answers to rank: add at least one")
        wrong = [x for x, count in Counter(self.answers).items() if count > 1 or not x.strip()]
        if wrong:
            raise UserError(f"answer {wrong[0]!r} of the list to rank is empty or a duplicate: remove it")


@dataclass(frozen=True, eq=False)
class Ranked:
    """The short-listed answers of each sample, the best first.

    Args:
        places: ``(b, k)`` int64, their indices in the list.
        scores: ``(b, k)``, their log-likelihoods in nats (smoothed if requested).
    """

    places: Tensor
    scores: Tensor

    @property
    def best(self) -> Tensor:
        """Index of the best answer in the list, ``(b,)``."""
        return self.places[:, 0]


@dataclass(frozen=True, eq=False)
class Opening:
    """Prompts of one length, without padding, and their possible continuations.

    Args:
        samples: indices of the ``g`` samples.
        ids: ``(g, n)``, beginning with the start token.
        answers: the list as token ids, each with its end token.
        decoder: a causal module of transformers with ``input_ids`` and a key/value cache, whose length
            determines positions.
        encoder_inputs: inputs of each pass, with the prompts as first axis, such as the states of an encoder.
        read_once: inputs for the prompts only, such as pixels.
    """

    samples: list[int]
    ids: Tensor
    answers: list[list[int]]
    decoder: nn.Module
    encoder_inputs: dict[str, Tensor] = field(default_factory=dict)
    read_once: dict[str, Tensor] = field(default_factory=dict)

    @property
    def learned(self) -> list[int]:
        """The ids of learned tokens at the beginning of each prompt."""
        return [number for number in self.ids[0].tolist() if number < 0]

    @property
    def length(self) -> int:
        """Number of tokens of a prompt, without learned ones."""
        return self.ids.shape[1] - len(self.learned)

    def begin(self) -> tuple[Tensor, Cache]:
        """Logits ``(g, V)`` of the first token, and the prompts' cache."""
        output = self._run(self.ids, None, self.encoder_inputs | self.read_once)
        return output.logits[:, -1].float(), output[cache_argument(self.decoder)]

    def go_on(self, cache: Cache, rows: Tensor, ids: Tensor) -> Tensor:
        """Logits ``(r, n, V)`` after each of the tokens ``ids`` ``(r, n)``, which are arbitrary at padding;
        ``rows`` ``(r,)`` are the indices of their prompts."""
        return self.step(cache_rows(cache, rows), rows, ids)

    def step(self, cache: Cache, rows: Tensor, ids: Tensor) -> Tensor:
        """The same if the cache contains exactly these rows' texts; the tokens are added to the cache."""
        encoder_inputs = {name: tensor[rows] for name, tensor in self.encoder_inputs.items()}
        return self._run(ids, cache, encoder_inputs).logits

    def _run(self, ids: Tensor, cache: Cache | None, more: dict[str, Tensor]) -> Any:
        return self.decoder(input_ids=ids, use_cache=True, **{cache_argument(self.decoder): cache}, **more)


def cache_argument(decoder: nn.Module) -> str:
    """Name of a decoder's argument for the key/value cache, which depends on the version of transformers."""
    names = inspect.signature(decoder.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def openings(
    decoder: nn.Module,
    prompts: Sequence[list[int]],
    answers: list[list[int]],
    encoder_inputs: dict[str, Tensor],
    device: torch.device,
) -> Iterator[Opening]:
    """The samples' prompts, grouped by length: ids of each, and of the possible answers; ``encoder_inputs``
    has the samples as first axis.
    """
    groups: dict[int, list[int]] = {}
    for sample, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(sample)
    for group in groups.values():
        for start in range(0, len(group), PROMPTS):
            part = group[start : start + PROMPTS]
            ids = torch.tensor([prompts[sample] for sample in part], device=device)
            seen = {name: tensor[part] for name, tensor in encoder_inputs.items()}
            yield Opening(part, ids, answers, decoder, seen)


@torch.no_grad()
def rank_from_cache(parts: Iterator[Opening], samples: int, k: int, label_smoothing: float = 0.0) -> Ranked:
    """Rank answers after prompts, from the prompts' caches. ``parts`` contain each of the samples once."""
    places, scores = [torch.empty(0)] * samples, [torch.empty(0)] * samples
    for part in parts:
        logits, cache = part.begin()
        firsts = torch.tensor([answer[0] for answer in part.answers], device=logits.device)
        first = logits.log_softmax(-1)
        listed = shortlist(first[:, firsts], k)  # (g, k)
        sums = (1 - label_smoothing) * first.gather(1, firsts[listed])
        sums += label_smoothing * first.mean(-1, keepdim=True)
        for rows, columns, targets in _batches(part, listed, cache):
            after = part.go_on(cache, rows, targets[:, :-1].clamp(min=0))
            losses = F.cross_entropy(
                after.flatten(0, 1).float(),
                targets[:, 1:].flatten(),
                ignore_index=IGNORED,
                label_smoothing=label_smoothing,
                reduction="none",
            )
            sums[rows, columns] -= losses.view(len(rows), -1).sum(1)
        for row, sample in enumerate(part.samples):
            places[sample], scores[sample] = listed[row].cpu(), sums[row].cpu()
    return _best_first(torch.stack(places), torch.stack(scores))


@torch.no_grad()
def rank_one_by_one(
    family: Any, samples: Sequence[Sample], answers: Sequence[str], k: int, label_smoothing: float = 0.0
) -> Ranked:
    """The same without a cache, from the family's training inputs: each prompt with each answer, in full."""
    pairs = [replace(sample, answer=answer) for sample in samples for answer in answers]
    tokens, firsts, sums = [], [], []
    for start in range(0, len(pairs), PAIRS):
        inputs = family.to_device(family.training_inputs(pairs[start : start + PAIRS]))
        labels = inputs.pop("labels")
        logits = family.logits(inputs)
        losses = token_losses(logits, labels)
        begins = (labels[:, 1:] != IGNORED).int().argmax(1, keepdim=True)
        tokens += labels[:, 1:].gather(1, begins)[:, 0].tolist()
        firsts += losses.gather(1, begins).neg()[:, 0].tolist()
        if label_smoothing:
            losses = token_losses(logits, labels, label_smoothing)
        sums.append(-losses.sum(1).cpu())
    total = torch.cat(sums).view(len(samples), -1)
    # Answers with one first token are equally likely to begin, whatever the last digits of their passes say.
    known: dict[tuple[int, int], float] = {}
    keys = [(place // len(answers), token) for place, token in enumerate(tokens)]
    first = torch.tensor([known.setdefault(key, value) for key, value in zip(keys, firsts)])
    listed = shortlist(first.view(total.shape), k)
    return _best_first(listed, total.gather(1, listed))


def shortlist(first: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest of each row of ``(b, N)`` (of all, if there are fewer), in ascending
    order; of equal ones, which are common since answers share first tokens, those with the smallest indices.
    """
    return first.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values


def cache_rows(cache: Cache, rows: Tensor) -> Cache:
    """A separate cache for continuations of some of a cache's texts, repeated as given by ``rows``."""
    chosen = copy.deepcopy(cache, {id(tensor): tensor for tensor in _tensors(cache)})
    chosen.batch_select_indices(rows)
    return chosen


def _tensors(part: Any) -> Iterator[Tensor]:
    """All tensors of a cache, its layers and their attributes."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (list, tuple, dict)):
        for item in part.values() if isinstance(part, dict) else part:
            yield from _tensors(item)
    elif hasattr(part, "__dict__") and not isinstance(part, type):
        yield from _tensors(vars(part))


def _batches(part: Opening, listed: Tensor, cache: Cache) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches for scoring: rows and columns ``(r,)`` of the short list ``(g, k)``, and the answers' ids ``(r,
    n + 1)``, ``IGNORED`` at padding. Answers of the same length form a batch; those that end with their first
    token do not need a pass.
    """
    answers = {
        (row, column): part.answers[place]
        for row, places in enumerate(listed.tolist())
        for column, place in enumerate(places)
    }
    pairs = sorted((pair for pair in answers if len(answers[pair]) > 1), key=lambda pair: len(answers[pair]))
    kept = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(cache)) // len(listed)
    most = max(1, min(PAIRS, CACHED_BYTES // max(1, kept)))
    for start in range(0, len(pairs), most):
        batch = pairs[start : start + most]
        targets = torch.full((len(batch), len(answers[batch[-1]])), IGNORED)
        for line, pair in enumerate(batch):
            targets[line, : len(answers[pair])] = torch.tensor(answers[pair])
        rows, columns = torch.tensor(batch).unbind(1)
        yield rows.to(listed.device), columns.to(listed.device), targets.to(listed.device)


def _best_first(places: Tensor, scores: Tensor) -> Ranked:
    """Sorted by score, equal ones in the order of the list."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return Ranked(places.gather(1, order), scores.gather(1, order))
