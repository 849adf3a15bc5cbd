"""A model and the samples that it is run on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import nn

from adapters.adapter import GraphAdapter
from attngraph import AttentionGraph, capture
from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.inspect.calls_as_examples import calls_as_examples
from experiments.models.batch import Batch, Sample
from experiments.models.family import ModelFamily
from experiments.models.images import open_image
from experiments.progress import note

# What models, their processors and what reads them raise.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass
class Source:
    """A model and what it is run on.

    Args:
        family: the model with what makes its inputs.
        samples: to run it on.
        batch_size: samples in a forward pass.
        layers, heads: those chosen; None for all.
        device: where the model runs.
        adapters: ``{layer: adapter}`` of an adapted model.
        skipped: images that could not be read, so far.
    """

    family: ModelFamily
    samples: list[Sample]
    batch_size: int = 16
    layers: list[str] | None = None
    heads: list[int] | None = None
    device: str = "cpu"
    adapters: dict[str, GraphAdapter] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list, init=False)

    def __post_init__(self):
        self.family.model.to(self.device).eval()
        self._fault = ""  # of the first image that cannot be read

    def __len__(self) -> int:
        """How many samples, unreadable ones included."""
        return len(self.samples)

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        return self.family.model

    @property
    def title(self) -> str:
        """The model's name for titles and messages."""
        return self.family.title

    def batches(self) -> Iterator[Batch]:
        """The samples in order.

        Raises:
            UserError: no image can be read.
        """
        self.skipped, self._fault, any_read = [], "", False
        for start in range(0, len(self), self.batch_size):
            samples = self._opened(self.samples[start : start + self.batch_size])
            if samples:
                any_read = True
                with self._making_inputs():
                    batch = self.family.batch(samples)
                yield batch.to(self.device)
        if not any_read:
            raise UserError(f"none of {len(self)} images can be read, first: {self._fault}")

    def graphs(self) -> Iterator[tuple[Batch, dict[str, AttentionGraph]]]:
        """Each batch with the attention graphs of the chosen layers and heads, ``{layer: graph}``."""
        for batch in self.batches():
            yield batch, self.read(batch, self.layers, self.heads)

    def read(
        self, batch: Batch, layers: list[str] | None = None, heads: list[int] | None = None
    ) -> dict[str, AttentionGraph]:
        """The attention graphs of a batch, by default of all layers and heads, ``{layer: graph}``."""
        with self.reading(batch):
            graphs = capture(self.model, batch.inputs, layers, heads)
        return calls_as_examples(graphs, batch.inputs)

    @contextmanager
    def reading(self, batch: Batch) -> Iterator[None]:
        """Turns what goes wrong while the model runs on a batch, and its attention is read, into one line
        that says whose fault it is.

        Raises:
            UserError: in place of any error of the model's or of the reading of its attention.
        """
        try:
            yield
        except UserError as error:
            raise UserError(_as_options(str(error))) from None
        except FAILURES as error:
            if _is_short_of_memory(error):
                raise UserError(f"{self.title}: memory was short: make --batch smaller") from error
            if self._runs(batch):
                raise UserError(
                    f"the attention of {self.title} cannot be read ({_in_short(error)}), though the model "
                    "itself runs on these inputs: leave out the layers that fail (--layers), or take another "
                    "--model"
                ) from error
            raise UserError(
                f"{self.title} fails even where nothing is read from it ({_in_short(error)}): see whether it "
                "runs in transformers, with this version and these images and texts, or take another --model"
            ) from error

    @contextmanager
    def _making_inputs(self) -> Iterator[None]:
        """Turns what a processor complains of into one line."""
        try:
            yield
        except FAILURES as error:
            raise UserError(
                f"{self.title} makes no inputs of these images and texts ({_in_short(error)}): check that "
                "they are what it reads"
            ) from error

    def _runs(self, batch: Batch) -> bool:
        """Whether the model runs on a batch when its attention is not read."""
        try:
            with torch.no_grad():
                self.model(**batch.inputs)
        except FAILURES:
            return False
        return True

    def reweighted(self, name: str, graph: AttentionGraph) -> AttentionGraph | None:
        """The graph with the weights that the layer's adapter uses in place of M; None where there is no
        adapter.

        The adapter has one p and one μ for all heads, so heads may have been left out.
        """
        adapter = self.adapters.get(name)
        if adapter is None:
            return None
        with torch.no_grad():
            kept = graph if adapter.top_k is None else graph.sparsify(top_k=adapter.top_k)
            return replace(kept, weight=adapter.scheme.reweight(kept))

    def report_skipped(self) -> None:
        """Say on screen how many images were left out, if any."""
        if self.skipped:
            print(f"{len(self.skipped)} of {len(self)} images cannot be read and were left out")

    def _opened(self, samples: list[Sample]) -> list[Sample]:
        """The samples whose images can be read, with these images open."""
        opened = []
        for sample in samples:
            try:
                image = None if sample.image is None else open_image(sample.image)
            except UserError as error:
                self._fault = self._fault or str(error)
                self.skipped.append(str(sample.image))
                _warn_once(f"left out: {error}")
                continue
            opened.append(replace(sample, image=image))
        return opened


def _as_options(message: str) -> str:
    """A message of :func:`attngraph.capture` with the command's options in place of its arguments."""
    about = {"--heads: ": r" has heads 0\.\.\d+, not ", "--layers: ": "no attention layer is called"}
    option = next((option for option, words in about.items() if re.search(words, message)), "")
    return option + re.sub(r"\blayers=\.\.\.", "--layers", message)


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _is_short_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


@cache
def _warn_once(line: str) -> None:
    note(line)
