"""Training on transformers' :class:`~transformers.Trainer`: what is trained, in which order, saved how."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from adapters.peft import optimizer_groups
from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import write_text
from experiments.methods.method import Tuned
from experiments.models.batch import token_losses
from experiments.training.data import TaskData
from experiments.training.device import half_precision
from experiments.training.loading import begin_loader, errors_of_loaders, loader_options
from experiments.training.order import StepSampler
from experiments.training.out_of_memory import is_out_of_memory, passes_of, smaller_passes
from experiments.training.recipe import Diverged, Recipe
from experiments.training.sharding import (
    load_optimizer,
    put_together,
    save_optimizer,
    shard,
    together,
    whole_tensor,
)
from experiments.training.states import (
    STATES,
    TRAINED,
    finish_state,
    last_state,
    load_weights,
    read_state,
    readable,
    save_weights,
    written,
)
from experiments.training.trackers import Tracking
from experiments.training.validation import Validation

LAST = 20  # steps whose mean loss sums up a run
SAVE_EVERY = 200  # steps between states from which an interrupted run continues
SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")  # what `accelerate launch` sets
MIXED = {"bfloat16": "bf16", "float16": "fp16", None: "no"}  # accelerate's names
COMPILER = "inductor"  # backend of torch.compile


class LossModule(nn.Module):
    """A model family as the Trainer takes it: from inputs with labels to the loss.

    The loss is the sum over the batch's answer tokens, divided by their number in the whole step (all passes
    and processes): the mean that one process would compute in one pass.
    """

    def __init__(self, tuned: Tuned, label_smoothing: float):
        super().__init__()
        self.model, self.family, self.label_smoothing = tuned.family.model, tuned.family, label_smoothing

    def forward(
        self, labels: Tensor, num_items_in_batch: Tensor | int, **inputs: Tensor
    ) -> dict[str, Tensor]:
        losses = token_losses(self.family.logits(inputs), labels, self.label_smoothing)
        return {"loss": losses.sum() / num_items_in_batch}


class CellTrainer(Trainer):
    """The Trainer with the recipe's schedule, groups of parameters and order, and small states to continue
    from.
    """

    def __init__(self, tuned: Tuned, data: TaskData, recipe: Recipe, args: TrainingArguments, **options: Any):
        self.recipe, self.tuned = recipe, tuned
        model = LossModule(tuned, recipe.label_smoothing)
        if recipe.compile:
            model.compile(backend=COMPILER)
        if recipe.shard:
            shard(model)
        super().__init__(
            model, args, data_collator=data.family.training_inputs, train_dataset=data, **options
        )
        if recipe.shard:  # the Trainer must not wrap it in data parallelism
            self.is_distributed_loading_by_transformers = True
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        loader.worker_init_fn = begin_loader
        return loader

    def _get_train_sampler(self, train_dataset: TaskData | None = None) -> StepSampler:
        recipe = self.recipe
        return StepSampler(len(self.train_dataset), recipe.batch_size, self.args.seed, recipe.steps)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            recipe = self.recipe
            groups = optimizer_groups(
                self.model, recipe.learning_rate, recipe.weight_decay, self.tuned.rates()
            )
            self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            schedule = torch.optim.lr_scheduler.LambdaLR
            self.lr_scheduler = schedule(optimizer or self.optimizer, self.recipe.factor)
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        total = self.accelerator.reduce(loss.clone(), "sum")  # so that all processes end together
        if not math.isfinite(total.item()):
            raise diverged(Path(self.args.output_dir).parent, "the loss", self.state.global_step, self.recipe)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        return whole_tensor(super()._clip_grad_norm(model))

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return nullcontext()  # gradients are averaged, and divided, after every pass

    # ---- states to continue from hold the trained weights only --------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with together(self.model):
            check_finite(self.tuned, self.state.global_step, self.recipe, Path(self.args.output_dir).parent)
        with written(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with together(self.model):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.tuned, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with readable(resume_from_checkpoint):
            load_weights(self.tuned, Path(resume_from_checkpoint) / TRAINED)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.recipe.shard:
            return super()._save_optimizer_and_scheduler(output_dir)
        save_optimizer(self.model, self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            if not self.recipe.shard:
                return super()._load_optimizer_and_scheduler(checkpoint)
            load_optimizer(self.model, self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)


def check_finite(tuned: Tuned, step: int, recipe: Recipe, folder: Path) -> None:
    """Raise :class:`~experiments.training.recipe.Diverged` where a trained weight is not finite: such a state
    is never saved, so that the last one is of use.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in tuned.parameters().values()):
        raise diverged(folder, "a weight", step, recipe)


def diverged(folder: Path, what: str, step: int, recipe: Recipe) -> Diverged:
    """The error for a number of a run that is not finite."""
    return Diverged(
        f"{folder}: {what} is not finite at step {step}; lower the learning rate ({recipe.learning_rate:g})"
    )


@dataclass(frozen=True)
class Trained:
    """What a training run leaves.

    Args:
        loss: mean of the last steps.
        earlier_seconds: that interrupted calls took before.
        passes: into which a step was divided.
        best_step: whose state was the best on validation data; None for a run without validations.
        validations: how many there were.
    """

    loss: float
    earlier_seconds: float
    passes: int = 1
    best_step: int | None = None
    validations: int = 0


class _Progress(TrainerCallback):
    """Tells of every step, and makes states whole with what the run has taken and found so far."""

    def __init__(self, on_step: Callable[[int], None], data: TaskData, validation: Validation | None):
        self.on_step, self.data, self.validation = on_step, data, validation
        self.began, self.earlier = time.perf_counter(), 0.0

    def on_step_end(self, args, state, control, **more) -> None:
        self.on_step(state.global_step)

    def on_save(self, args, state, control, **more) -> None:
        PartialState().wait_for_everyone()  # each process has written its part
        left_out, validation = self.data.left_out(), self.validation
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seconds = self.earlier + time.perf_counter() - self.began
            finish_state(folder, seconds, left_out, validation.done if validation else [])
            if validation:
                validation.tidy()


def train(
    tuned: Tuned,
    data: TaskData,
    recipe: Recipe,
    seed: int,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
    validation: Validation | None = None,
    tracking: Tracking | None = None,
) -> Trained:
    """Train what a method declared trainable; continue where an interrupted call stopped.

    Args:
        folder: the run's folder; gets ``metrics.csv``, and ``states`` until the caller removes it.
        on_step: told after every step.
        validation: scores the run while it trains; the model gets the best weights in the end.
        tracking: shows the run's numbers elsewhere.

    Raises:
        Diverged: the loss or a weight is not finite.
        OutOfMemory: a pass does not fit in memory; the next call goes on with smaller ones.
        UserError: the saved state is damaged, or a state cannot be saved.
    """
    if sharded := [name for name in SHARDING if os.environ.get(name, "").lower() in ("1", "true")]:
        raise UserError(
            f"{sharded[0]} is set: runs do not take it; start the processes with torchrun, and give shard"
        )
    passes = passes_of(folder, recipe)
    progress = _Progress(on_step, data, validation)
    args = arguments(tuned, replace(recipe, accumulation=passes), seed, folder, data)
    callbacks = [each for each in (validation, progress, tracking) if each is not None]
    trainer = CellTrainer(tuned, data, recipe, args, callbacks=callbacks)
    place = last_state(folder)
    state = None if place is None else read_state(place)
    if state is not None:
        progress.earlier = state.seconds
        data.leave_out(state.left_out)
        if validation:
            validation.go_on(state.validations)
            with readable(place):
                validation.check()
    if state is not None and validation and validation.is_over:
        lines = state.lines
    else:
        lines = _run(trainer, None if place is None else str(place), recipe, passes, tracking)
    put_together(trainer.model)
    if validation:
        PartialState().wait_for_everyone()  # the first process has written the best weights
        validation.take_best()
    tuned.family.model.eval()
    if trainer.is_world_process_zero():
        write_text(folder / "metrics.csv", _metrics(lines))
    last = [line["loss"] for line in lines[-LAST:]]
    return Trained(
        sum(last) / len(last),
        progress.earlier,
        passes,
        validation.best_step if validation else None,
        len(validation.done) if validation else 0,
    )


def _run(
    trainer: CellTrainer, state: str | None, recipe: Recipe, passes: int, tracking: Tracking | None
) -> list[dict[str, Any]]:
    """Train from a state to the end; returns the lines of the log, one for each step."""
    model, args = trainer.tuned.family.model, trainer.args
    shortage, ended = None, False
    try:
        with errors_of_loaders(), checkpointed(model, recipe.checkpointing):
            trainer.train(resume_from_checkpoint=state)
        ended = True
    except RuntimeError as error:
        if recipe.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise UserError(
                f"the model cannot be compiled here ({type(error).__name__}: {first_line(error)}): leave out "
                "compile"
            ) from error
        if not is_out_of_memory(error):
            raise
        folder, examples = Path(args.output_dir).parent, len(trainer.train_dataset)
        shortage = smaller_passes(error, folder, recipe, passes, args.world_size, examples)
    finally:
        if tracking:
            tracking.close(failed=not ended)
    if shortage is not None:  # after the error, whose traceback holds tensors, is gone
        raise shortage
    return [line for line in trainer.state.log_history if "loss" in line]


@contextmanager
def checkpointed(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """A block in which activations are computed again in the backward pass instead of being kept, layer by
    layer, where that is wanted.

    Raises:
        UserError: the model cannot.
    """
    if not wanted:
        yield
        return
    if not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} cannot compute activations again: leave out checkpointing")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # layers below the first trained one, too
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()


def arguments(tuned: Tuned, recipe: Recipe, seed: int, folder: Path, data: TaskData) -> TrainingArguments:
    """The Trainer's arguments for a run."""
    device = tuned.family.device
    half = half_precision(str(device), recipe.precision)
    options = dict(
        output_dir=str(folder / STATES),
        max_steps=recipe.steps,
        gradient_accumulation_steps=recipe.accumulation,
        max_grad_norm=recipe.clip,
        seed=seed,
        use_cpu=device.type == "cpu",
        bf16=half == "bfloat16",
        fp16=half == "float16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=SAVE_EVERY,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        **loader_options(data.reads_pictures, device),
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    args = TrainingArguments(**options)
    args.mixed_precision = MIXED[half]  # whatever `accelerate launch` says
    args.per_device_train_batch_size = recipe.per_process(args.world_size, len(data))
    if args.world_size == 1 and device.type == "cuda":
        # A run stays on its device. transformers takes cuda:0 for one process, and nn.DataParallel over all
        # others; accelerate takes the current one.
        args._n_gpu = 1
        args.__dict__["_setup_devices"] = device  # the cached answer of args.device
        torch.cuda.set_device(device)
    return args


def _metrics(steps: list[dict]) -> str:
    """A line for each step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss", "learning_rate", "gradient_norm"])
    for line in steps:
        writer.writerow(
            [
                line["step"],
                round(line["loss"], 5),
                line["learning_rate"],
                round(line.get("grad_norm", 0.0), 4),
            ]
        )
    return text.getvalue()
