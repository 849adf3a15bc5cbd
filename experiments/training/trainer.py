"""Training on transformers' :class:`~transformers.Trainer`: what is trained, in which order, saved how."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from adapters.peft import optimizer_groups
from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import write_json, write_text
from experiments.methods.method import Tuned
from experiments.models.losses import token_losses
from experiments.training.data import TaskData
from experiments.training.device import uses_bfloat16
from experiments.training.loading import begin_loader, errors_of_loaders, loader_options
from experiments.training.order import StepSampler
from experiments.training.recipe import Diverged, Recipe

LAST = 20  # steps whose mean loss sums up a run
SAVE_EVERY = 200  # steps between states from which an interrupted run continues
STATES = "states"  # the folder of these states, in a run's folder
TRAINED = "trained.safetensors"  # in a state's folder: the weights
LEFT_OUT = "left_out.json"  # in a state's folder: the positions of examples without a readable picture
SECONDS = "seconds"  # written last: the time that the run has taken so far


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
        super().__init__(
            model, args, data_collator=data.family.training_inputs, train_dataset=data, **options
        )
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
            groups = optimizer_groups(self.model, self.recipe.learning_rate, self.recipe.weight_decay)
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
            raise Diverged(
                f"{Path(self.args.output_dir).parent}: the loss is not finite at step "
                f"{self.state.global_step}; lower the learning rate ({self.recipe.learning_rate:g})"
            )
        return loss

    # ---- states to continue from hold the trained weights only --------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with _written(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in self.tuned.parameters().items()},
            folder / TRAINED,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _readable(resume_from_checkpoint), torch.no_grad():
            saved = load_file(Path(resume_from_checkpoint) / TRAINED)
            for name, parameter in self.tuned.parameters().items():
                if saved[name].shape != parameter.shape:
                    raise ValueError(f"{name} has another shape")
                parameter.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def _readable(state: str | Path | None) -> Iterator[None]:
    """Whatever goes wrong while a state is read means the same to the user."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{state} cannot be read ({type(error).__name__}: {first_line(error)}): delete that folder and "
            "run again; the run goes on from the state before it, or starts anew"
        ) from error


@contextmanager
def _written(state: Path) -> Iterator[None]:
    """Whatever goes wrong while a state is written means the same to the user (each library has its own error
    for a full disk); nothing remains of that state.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(state, ignore_errors=True)
        raise UserError(
            f"{state} cannot be saved ({type(error).__name__}: {first_line(error)}): make room on the disk "
            "and run again; the run goes on from the state before it, or starts anew"
        ) from error


def _check_state(state: Path) -> float:
    """Checks that a state is the Trainer's and tells of every step; returns the seconds that it took."""
    step, seconds = int(state.name.rpartition("-")[2]), float((state / SECONDS).read_text())
    saved = TrainerState.load_from_json(str(state / TRAINER_STATE_NAME))
    lines = [line for line in saved.log_history if "loss" in line]
    if saved.global_step != step or [line["step"] for line in lines] != list(range(1, step + 1)):
        raise ValueError("steps are missing")
    if not all(map(math.isfinite, (seconds, *(line["loss"] for line in lines)))) or seconds < 0:
        raise ValueError("a number is not finite")
    return seconds


def _left_out(state: Path) -> list[int]:
    """The examples that a run had left out; none in states of earlier versions."""
    file = state / LEFT_OUT
    return [int(position) for position in json.loads(file.read_text())] if file.exists() else []


@dataclass(frozen=True)
class Trained:
    """What a training run leaves.

    Args:
        loss: mean of the last steps.
        earlier_seconds: that interrupted calls took before.
    """

    loss: float
    earlier_seconds: float


class _Progress(TrainerCallback):
    """Tells of every step, and keeps the time that a run has taken in its states."""

    def __init__(self, on_step: Callable[[int], None], data: TaskData):
        self.on_step, self.data, self.began = on_step, data, time.perf_counter()
        self.earlier = 0.0

    def on_step_end(self, args, state, control, **more) -> None:
        self.on_step(state.global_step)

    def on_save(self, args, state, control, **more) -> None:
        PartialState().wait_for_everyone()  # each process has written its part
        left_out = self.data.left_out()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with _written(folder):
                write_json(folder / LEFT_OUT, left_out)
                write_text(folder / SECONDS, str(self.earlier + time.perf_counter() - self.began))


def train(
    tuned: Tuned,
    data: TaskData,
    recipe: Recipe,
    seed: int,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Train what a method declared trainable; continue where an interrupted call stopped.

    Args:
        folder: the run's folder; gets ``metrics.csv``, and ``states`` until the caller removes it.
        on_step: told after every step.

    Raises:
        Diverged: the loss is not finite.
        UserError: the saved state is damaged, or a state cannot be saved.
    """
    progress = _Progress(on_step, data)
    trainer = CellTrainer(
        tuned, data, recipe, arguments(tuned, recipe, seed, folder, data), callbacks=[progress]
    )
    state = last_state(folder)
    if state is not None:
        with _readable(state):
            progress.earlier = _check_state(state)
            data.leave_out(_left_out(state))
    with errors_of_loaders():
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    tuned.family.model.eval()
    steps = [line for line in trainer.state.log_history if "loss" in line]
    if trainer.is_world_process_zero():
        write_text(folder / "metrics.csv", _metrics(steps))
    last = [line["loss"] for line in steps[-LAST:]]
    return Trained(sum(last) / len(last), progress.earlier)


def arguments(tuned: Tuned, recipe: Recipe, seed: int, folder: Path, data: TaskData) -> TrainingArguments:
    """The Trainer's arguments for a run."""
    device = tuned.family.device
    options = dict(
        output_dir=str(folder / STATES),
        max_steps=recipe.steps,
        gradient_accumulation_steps=recipe.accumulation,
        max_grad_norm=recipe.clip,
        seed=seed,
        use_cpu=device.type == "cpu",
        bf16=uses_bfloat16(str(device)),
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
    args.per_device_train_batch_size = recipe.per_process(args.world_size, len(data))
    if args.world_size == 1 and device.type == "cuda":
        # A run stays on its device. transformers takes cuda:0 for one process, and nn.DataParallel over all
        # others; accelerate takes the current one.
        args._n_gpu = 1
        args.__dict__["_setup_devices"] = device  # the cached answer of args.device
        torch.cuda.set_device(device)
    return args


def last_state(folder: Path) -> Path | None:
    """The last whole state in a run's folder."""
    whole = (mark.parent for mark in (folder / STATES).glob(f"checkpoint-*/{SECONDS}"))
    return max(whole, key=lambda state: int(state.name.rpartition("-")[2]), default=None)


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
