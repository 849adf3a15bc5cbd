"""The training loop, with resumption of interrupted runs.

A run saves its state every :data:`SAVE_EVERY` steps in ``states/step-STEP.pt`` of its folder: the trained
weights, the states of the optimiser and of random generators, and the numbers of all steps so far. The last
two states are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce, send_to_device, set_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from attngraph.adapters.peft import optimizer_groups
from attngraph.errors import UserError
from attngraph.experiments.base.files import whole
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.models.batch import IGNORED, Sample, token_losses
from attngraph.experiments.models.family import ModelFamily
from attngraph.experiments.runs.data import Place, TaskData, loader_options, picture_numbers, places_of
from attngraph.experiments.runs.device import agreed, is_out_of_memory, mixed_precision
from attngraph.experiments.runs.experiment import Diverged, Recipe
from attngraph.experiments.runs.validation import (
    Validation,
    load_weights,
    random_state,
    set_random_state,
    weights_of,
    write_table,
)

METRICS = "metrics.csv"  # in a run's folder: a line for each step
LAST = 20  # steps whose mean loss sums up a run
SAVE_EVERY = 200  # steps between states from which an interrupted run goes on
STATES = "states"  # their folder, in a run's folder
KEPT = 2  # states


class LossModule(nn.Module):
    """A model family as a module that maps inputs with labels to the loss: the sum over the batch's answer
    tokens, divided by ``tokens``, their number in the whole step (all passes and processes). So losses add up
    to the mean that one process would compute in one pass, plus the method's penalty.
    """

    def __init__(self, tuned: Tuned, label_smoothing: float):
        super().__init__()
        self.model, self.family, self.label_smoothing = tuned.family.model, tuned.family, label_smoothing
        self.penalty = tuned.penalty

    def forward(self, labels: Tensor, tokens: Tensor, **inputs: Tensor) -> Tensor:
        loss = token_losses(self.family.logits(inputs), labels, self.label_smoothing).sum()
        penalty = self.penalty()
        if penalty is not None:  # shares of all passes add up to 1
            loss = loss + penalty * (labels[:, 1:] != IGNORED).sum()
        return loss / tokens


class Trained(NamedTuple):
    """Result of training: the mean loss of the last steps, and the seconds spent in earlier, interrupted
    calls.
    """

    loss: float
    earlier_seconds: float


def train(
    tuned: Tuned,
    data: TaskData,
    recipe: Recipe,
    seed: int,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
    validation: Validation | None = None,
    show: Callable[[int, Mapping[str, float]], None] = lambda step, numbers: None,
) -> Trained:
    """Train the parameters that a method declared trainable; continue where an interrupted call stopped. With
    several processes, all of them call this together.

    Args:
        folder: the run's folder, for ``metrics.csv``, and ``states`` until the caller removes it.
        on_step: called after every step.
        validation: evaluates the model during training; the model gets the best weights in the end.
        show: called with the numbers of a step.

    Raises:
        Diverged: the loss or a weight is not finite.
        UserError: a pass does not fit in memory; the saved state is damaged, or a state cannot be saved; the
            model does not support recomputing activations.
    """
    process, device = PartialState(), tuned.family.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    set_seed(seed)
    if recipe.checkpointing:
        compute_again(tuned.family.model)
    module = LossModule(tuned, recipe.label_smoothing).train()
    model: nn.Module = module
    if process.num_processes > 1:  # parameters may have no gradient in a step
        devices = [device] if device.type == "cuda" else None
        model = DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(
        optimizer_groups(module, recipe.learning_rate, recipe.weight_decay, tuned.rates())
    )
    schedule = LambdaLR(optimizer, recipe.factor)
    state = State(tuned, [optimizer, schedule, tuned], validation)
    if (saved := last_state(folder)) is not None:
        state.load(saved)
    batches = iter(_loader(data, recipe, seed, device, begin=state.step))
    if saved is not None:
        set_random_state(state.random)  # after the loader has drawn from it
    is_over = state.step == recipe.steps or (validation is not None and validation.is_over)
    with _errors_in_words(folder, recipe, len(data)):
        while not is_over:
            passes = [next(batches) for _ in range(recipe.accumulation)]
            counts = [(inputs["labels"][:, 1:] != IGNORED).sum() for inputs in passes]
            tokens = reduce(sum(counts).to(device), "sum")
            loss = torch.zeros((), device=device)
            for number, inputs in enumerate(passes, 1):
                is_last = number == len(passes)  # only then do processes exchange their gradients
                with nullcontext() if model is module or is_last else model.no_sync():
                    with mixed_precision(device, recipe.precision):
                        part = model(tokens=tokens, **send_to_device(inputs, device, non_blocking=True))
                    (part * process.num_processes).backward()  # gradients are averaged
                loss += part.detach()
            value = reduce(loss, "sum").item()  # so that all processes end together
            if not math.isfinite(value):
                raise diverged(folder, "the loss", state.step, recipe)
            norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            state.lines.append({"loss": value, "learning_rate": rate, "gradient_norm": norm.item()})
            tuned.after_step(state.step, recipe.steps)
            optimizer.zero_grad()
            show(state.step, {f"train/{name}": x for name, x in state.lines[-1].items()})
            if validation and validation.is_due(state.step):
                scores = validation.validate(state.step)
                show(state.step, {f"validation/{column}": x for column, x in scores.items()})
            on_step(state.step)
            is_over = state.step == recipe.steps or (validation is not None and validation.is_over)
            if is_over or state.step % SAVE_EVERY == 0:
                if not all(bool(weight.isfinite().all()) for weight in tuned.parameters().values()):
                    raise diverged(folder, "a weight", state.step, recipe)  # so the last state is of use
                state.save(folder / STATES / f"step-{state.step}.pt")
    if validation:
        load_weights(tuned, validation.best)
    tuned.family.model.eval()
    if process.is_main_process:
        lines = (
            [step, round(line["loss"], 5), line["learning_rate"], round(line["gradient_norm"], 4)]
            for step, line in enumerate(state.lines, 1)
        )
        write_table(folder / METRICS, ["step", *state.lines[0]], lines)
    last = [line["loss"] for line in state.lines[-LAST:]]
    return Trained(sum(last) / len(last), state.earlier)


def _loader(data: TaskData, recipe: Recipe, seed: int, device: torch.device, begin: int) -> DataLoader:
    """This process's batches, one for each pass, from the given step."""
    process = PartialState()
    size = recipe.per_process(process.num_processes, len(data))
    together = recipe.group_pictures
    numbers = picture_numbers(data.examples) if together > 1 else None

    def batches() -> Iterator[list[Place]]:
        for step in range(begin, recipe.steps):
            places = places_of(len(data), recipe.batch_size, seed, step, numbers, together)
            parts = [places[start : start + size] for start in range(0, len(places), size)]
            yield from parts[process.process_index :: process.num_processes]

    return DataLoader(
        data,
        batch_sampler=batches(),
        collate_fn=partial(_inputs, data.family),
        pin_memory=device.type == "cuda",
        **loader_options(data.reads_pictures, device),
    )


def _inputs(family: ModelFamily, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """A batch of training inputs.

    Raises:
        UserError: the first position has a label, which no earlier position predicts.
    """
    inputs = family.training_inputs(samples)
    if (inputs["labels"][:, 0] != IGNORED).any():
        raise UserError(
            f"{family.title}: training_inputs has a label at the first position, which nothing predicts: put "
            "each label at the position of its token in the decoder's input, and ignore the first position"
        )
    return inputs


@contextmanager
def _errors_in_words(folder: Path, recipe: Recipe, examples: int) -> Iterator[None]:
    """A block in which out-of-memory errors have a remedy, and errors of users raised in data loaders lose
    the traceback that PyTorch prepends.
    """
    try:
        yield
    except UserError as error:
        if "DataLoader worker process" not in str(error):
            raise
        name = f"{UserError.__module__}.{UserError.__qualname__}: "
        raise UserError(str(error).rpartition(name)[2].strip()) from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = recipe.per_process(PartialState().num_processes, examples)
        raise UserError(
            f"{folder}: out of memory with {size} examples at a time ({first_line(error)}): use a larger "
            f"recipe.accumulation, now {recipe.accumulation}, in another --out (the same step in more "
            "passes), or save memory with recipe.checkpointing or a smaller side"
        ) from None


def compute_again(model: PreTrainedModel) -> None:
    """Let a model recompute activations in the backward pass instead of keeping them, layer by layer.

    Raises:
        UserError: the model does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} cannot recompute activations: remove checkpointing")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # layers below the first trained one, too


def diverged(folder: Path, what: str, step: int, recipe: Recipe) -> Diverged:
    """The error for a non-finite number in a run."""
    return Diverged(
        f"{folder}: {what} is not finite at step {step}; lower the learning rate ({recipe.learning_rate:g})"
    )


# ---- states to go on from ---------------------------------------------------------------------------------


class State:
    """State of a run: everything that the next step depends on.

    Args:
        tuned: the model, whose trained weights are part of the state.
        parts: optimiser, schedule and others with a ``state_dict``.
        validation: validation of the run, if any.

    Attributes:
        lines: the numbers of each step so far.
        earlier: seconds spent in earlier, interrupted calls.
    """

    def __init__(self, tuned: Tuned, parts: Sequence[Any], validation: Validation | None):
        self.tuned, self.parts, self.validation = tuned, parts, validation
        self.lines: list[dict[str, float]] = []
        self.earlier, self.began = 0.0, time.perf_counter()
        self.random: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return len(self.lines)

    def save(self, file: Path) -> None:
        """Write the state from the first process, completely or not at all. All processes call this together.

        Raises:
            UserError: the disk is full.
        """
        content = {
            "weights": weights_of(self.tuned),
            "parts": [part.state_dict() for part in self.parts],
            "random": gather_object([random_state()]),
            "lines": self.lines,
            "seconds": self.earlier + time.perf_counter() - self.began,
        }
        if self.validation:
            content |= {"validations": self.validation.done, "best": self.validation.best}
        agreed(lambda: self._write(file, content))

    def _write(self, file: Path, content: dict[str, Any]) -> None:
        try:
            with whole(file) as part:
                torch.save(content, part)
        except Exception as error:  # each library has its own for a full disk
            raise UserError(
                f"{file} cannot be saved ({type(error).__name__}: {first_line(error)}): free disk space and "
                "run again; the run continues from the previous state, or starts again"
            ) from error
        for older in _states(file.parent.parent)[:-KEPT]:
            older.unlink(missing_ok=True)

    def load(self, file: Path) -> None:
        """Restore a state written by :meth:`save`.

        Raises:
            UserError: the file is damaged.
        """
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            if self.validation:
                self.validation.done, self.validation.best = content["validations"], content["best"]
            self.random = content["random"][PartialState().process_index]
            load_weights(self.tuned, content["weights"])
            for part, saved in zip(self.parts, content["parts"], strict=True):
                part.load_state_dict(saved)
            self.lines, self.earlier = content["lines"], content["seconds"]
        except Exception as error:  # whatever is wrong with the file
            raise UserError(
                f"{file} cannot be read ({type(error).__name__}: {first_line(error)}): delete that file and "
                "run again; the run continues from the previous state, or starts again"
            ) from error


def last_state(folder: Path) -> Path | None:
    """The last state in a run's folder."""
    return max(_states(folder), key=_step_of, default=None)


def last_step(folder: Path) -> int:
    """The step after which the last state was saved; 0 if there is none."""
    state = last_state(folder)
    return 0 if state is None else _step_of(state)


def _states(folder: Path) -> list[Path]:
    """The states in a run's folder, by step."""
    return sorted((folder / STATES).glob("step-*.pt"), key=_step_of)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))
