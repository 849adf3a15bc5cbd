"""A pre-training run in a folder, which can be stopped at any time and goes on where it was."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import nn

from attngraph.errors import UserError
from experiments.arguments import LARGEST
from experiments.errors import first_line
from experiments.files import published, write_bytes
from experiments.models.generation import encode_images
from experiments.models.images import normalise
from experiments.models.loading import load_family
from experiments.models.weights import quiet_transformers
from experiments.outputs import TRAINING_STATE
from experiments.pretraining import model_card, scoring
from experiments.pretraining.losses import patch_loss, text_loss
from experiments.pretraining.minis import Mini
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.steps import Steps, batches
from experiments.progress import Progress
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES
from experiments.shipped import DEFAULT
from experiments.training.device import mixed_precision, training_precision
from experiments.training.lock import LOCK
from experiments.training.stopping import Stopped, on_signals

SAVE_SECONDS = 120
LOG_STEPS = 20


class Pretraining:
    """A model, an auxiliary head, the optimiser, and how far they are.

    Makes the folder with the state before the first step, or goes on with the unfinished run that it holds.

    Args:
        mini: which model.
        out: the checkpoint's folder.
        recipe: what is learned and how.
        seed: of the weights and of the scenes.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads, on which the last digits of the weights depend; None for those of the unfinished
            run, or for PyTorch's choice.

    Raises:
        UserError: a number is out of range, or the folder holds something else.
    """

    def __init__(
        self, mini: Mini, out: Path, recipe: Recipe, seed: int, device: str, threads: int | None = None
    ) -> None:
        if recipe.steps < 1 or not 0 <= seed <= LARGEST:
            raise UserError(
                f"--steps {recipe.steps}, --seed {seed}: give at least 1 step and a seed from 0 to {LARGEST}"
            )
        if (out / "scores.json").exists() and not (out / TRAINING_STATE).exists():
            raise UserError(
                f"{out} holds a finished checkpoint; choose another --out, or score it with --check {out}"
            )
        self.mini, self.out, self.recipe, self.seed, self.device = mini, out, recipe, seed, device
        self.settings = {"model": mini.name, "seed": seed, "steps": recipe.steps, "recipe": recipe.describe()}
        torch.manual_seed(seed)
        self.tokenizer = mini.tokenizer()
        self.model = mini.build(self.tokenizer).to(device).train()
        # Says what each patch shows; dropped with the training state.
        self.head = nn.Linear(self.model.config.vision_config.hidden_size, SHAPE_CLASSES + COLOR_CLASSES)
        self.head.to(device)
        self.trained = nn.ModuleDict({"model": self.model, "head": self.head})
        self.optimizer = torch.optim.AdamW(
            recipe.parameter_groups(self.trained), lr=recipe.learning_rate, betas=recipe.betas, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.running: float | None = None  # mean of the text loss
        self.log: list[list[float]] = []  # step, running mean of the text loss, seconds
        self.stopped_by: int | None = None  # the signal that asked the run to stop
        if (out / TRAINING_STATE).exists():
            self._restore(threads)
        elif out.exists() and any(file.name != LOCK for file in out.iterdir()):
            raise UserError(f"{out} is not empty and holds no interrupted pre-training; choose another --out")
        else:
            self.settings["threads"] = threads or torch.get_num_threads()
            self._save_state()
        torch.set_num_threads(self.settings["threads"])
        self.tokenizer.save_pretrained(out)

    def train(self) -> bool:
        """Trains to the last step or until a signal asks it to stop, and saves; whether it came to the last
        step.

        Raises:
            Stopped: a signal has ended it within a step; the state that was saved before stands.
        """
        with on_signals(self._stop):
            try:
                self._train()
            except RuntimeError as error:
                if not self._is_stopped():
                    raise
                raise Stopped(self.stopped_by) from error  # in the middle of a step, which is not saved
        self.save()
        return self.step == self.recipe.steps

    def _stop(self, number: int) -> None:
        """Ends the run after the step in hand: half a step would be repeated when it goes on."""
        self.stopped_by = number

    def _train(self) -> None:
        recipe = self.recipe
        arrange = self.mini.arrange(self.tokenizer, recipe)
        data = Steps(arrange, self.seed, recipe.steps, recipe.images, recipe.texts)
        bar = Progress(
            self._until_stopped(batches(data, self.step)),
            initial=self.step,
            total=recipe.steps,
            desc="pretrain",
            unit="step",
            smoothing=0.02,
        )
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        for batch in bar:
            loss = self._learn({name: tensor.to(self.device) for name, tensor in batch.items()})
            self.step += 1
            self.seconds = time.monotonic() - began
            self.running = loss if self.running is None else 0.98 * self.running + 0.02 * loss
            if self.step % LOG_STEPS == 0 or self.step == recipe.steps:
                self.log.append([self.step, round(self.running, 4), round(self.seconds, 1)])
                bar.set_postfix(loss=f"{self.running:.3f}", refresh=False)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()

    def _until_stopped(self, steps: Iterable[dict[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
        """The batches, until a signal asks the run to stop."""
        try:
            for batch in steps:
                if self.stopped_by is not None:
                    return
                yield batch
        except RuntimeError:
            if not self._is_stopped():
                raise

    def _is_stopped(self) -> bool:
        """Whether an error may be PyTorch's about the process that makes batches: asked to stop too, it is
        gone.
        """
        time.sleep(0.5)  # the signal may still be on its way to this one
        return self.stopped_by is not None

    def _learn(self, batch: dict[str, torch.Tensor]) -> float:
        """One optimiser step; the loss of the texts."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        with mixed_precision(self.device):
            states = encode_images(self.model, normalise(batch["pixels"]))
            loss = text_loss(self.mini.read(self.model, states, batch))
            total = loss + self.recipe.patch_weight * patch_loss(self.head(states[:, 1:]), batch)
        total.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def save(self) -> None:
        """Saves the state of the run, and the model in float16.

        Raises:
            UserError: they cannot be saved. The files of the save before are as they were.
        """
        self._save_state()
        with self._saving(), published(self.out) as folder, quiet_transformers():
            copy.deepcopy(self.model).cpu().half().save_pretrained(folder)

    def _save_state(self) -> None:
        state = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
            "log": self.log,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        content = io.BytesIO()
        torch.save(state, content)
        with self._saving():
            write_bytes(self.out / TRAINING_STATE, content.getvalue())

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Whatever goes wrong while files are written means the same to the user; each library has its own
        error for a full disk.
        """
        try:
            yield
        except Exception as error:
            raise UserError(
                f"{self.out} cannot be saved to ({type(error).__name__}: {first_line(error)}); make room on "
                "the disk, and the same command goes on from the last state that was saved"
            ) from error

    def _restore(self, threads: int | None) -> None:
        """Takes up the state of the unfinished run.

        Raises:
            UserError: it is damaged, or of a run with other settings.
        """
        file = self.out / TRAINING_STATE
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
            settings = {"model": DEFAULT, **state["settings"]}  # former states did not say which
            if threads is None:
                threads = settings["threads"]
            self.settings["threads"] = threads
            changed = [name for name, value in self.settings.items() if settings.get(name) != value]
            if not changed:
                torch.set_num_threads(threads)
                self.trained.load_state_dict(state["trained"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds, self.running = state["step"], state["seconds"], state["running"]
                self.log = state["log"]
                _check_progress(self.step, self.seconds, self.running, self.log, self.recipe.steps)
        except Exception as error:
            raise UserError(
                f"{file} cannot be read ({type(error).__name__}: {first_line(error)}); choose another --out, "
                f"or delete {self.out} to begin anew"
            ) from None
        if changed:
            told = [f"{name} ({settings.get(name)})" if name != "recipe" else name for name in changed]
            raise UserError(f"{self.out} holds a run with other {' and '.join(told)}; choose another --out")

    def finish(self) -> dict[str, float]:
        """Scores the saved float16 weights, not those in memory, and writes the card; returns the scores."""
        family = load_family(self.out)
        family.model.to(self.device)
        scores = scoring.skill_scores(family, scoring.SCENES, self.mini.prompts_captions)
        about = {
            **self.settings,
            "precision": training_precision(self.device),
            "date": date.today().isoformat(),
            "minutes": round(self.seconds / 60, 1),
            "machine": model_card.describe_machine(self.device),
            "remark": "",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "scenes": scoring.SCENES,
            "check_tolerance": scoring.CHECK_TOLERANCE,
            "tolerance": scoring.TOLERANCE,
        }
        model_card.write_card(self.out, self.mini, family.model, about, scores, self.log)
        (self.out / TRAINING_STATE).unlink()
        return scores


def _check_progress(
    step: int, seconds: float, running: float | None, log: list[list[float]], steps: int
) -> None:
    """Raises ValueError where the numbers of a saved state are none that a run can have."""
    if not (isinstance(step, int) and 0 <= step <= steps and (running is not None or step == 0)):
        raise ValueError(f"step {step} of {steps}")
    numbers = [seconds, *([] if running is None else [running]), *(number for row in log for number in row)]
    if not all(math.isfinite(number) for number in numbers) or any(len(row) != 3 for row in log):
        raise ValueError("the log is not rows of three finite numbers")
