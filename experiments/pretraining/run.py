"""A pre-training run in a folder, which can be stopped at any time and goes on where it was."""

from __future__ import annotations

import copy
import time
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import nn
from tqdm import tqdm

from attngraph.errors import UserError
from experiments.files import published, whole
from experiments.models.generation import decoder_logits, encode_images
from experiments.models.mini_blip import build_model, load_model, normalise
from experiments.pretraining import model_card, scoring
from experiments.pretraining.losses import patch_loss, text_loss
from experiments.pretraining.packing import PackedSteps, batches, block_causal_mask
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.tokenizer import build_tokenizer
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES
from experiments.scenes.vocabulary import all_words
from experiments.training.device import mixed_precision, training_precision

SAVE_SECONDS = 120
LOG_STEPS = 20
STATE = "training_state.pt"


class Pretraining:
    """Mini-BLIP, an auxiliary head, the optimiser, and how far they are.

    Makes the folder with the tokenizer, or goes on with the unfinished run that it holds.

    Args:
        out: the checkpoint's folder.
        recipe: what is learned and how.
        seed: of the weights and of the scenes.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: a number is out of range, or the folder holds something else.
    """

    def __init__(self, out: Path, recipe: Recipe, seed: int, device: str) -> None:
        if recipe.steps < 1 or seed < 0:
            raise UserError(
                f"--steps {recipe.steps}, --seed {seed}: give at least 1 step and a seed of at least 0"
            )
        if (out / "scores.json").exists():
            raise UserError(
                f"{out} holds a finished checkpoint; choose another --out, or score it with --check {out}"
            )
        self.out, self.recipe, self.seed, self.device = out, recipe, seed, device
        self.settings = {"seed": seed, "steps": recipe.steps, "recipe": recipe.describe()}
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer(all_words())
        self.model = build_model(self.tokenizer).to(device).train()
        # Says what each patch shows; dropped with the training state.
        self.head = nn.Linear(self.model.config.vision_config.hidden_size, SHAPE_CLASSES + COLOR_CLASSES)
        self.head.to(device)
        self.trained = nn.ModuleDict({"model": self.model, "head": self.head})
        self.optimizer = torch.optim.AdamW(
            recipe.parameter_groups(self.trained), lr=recipe.learning_rate, betas=recipe.betas, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.log: list[list[float]] = []  # step, running mean of the text loss, seconds
        if (out / STATE).exists():
            self._restore()
        elif out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and holds no interrupted pre-training; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(out)

    def train(self) -> bool:
        """Trains to the last step or until Ctrl-C, and saves; whether it came to the last step."""
        recipe = self.recipe
        sizes = (recipe.steps, recipe.images, recipe.texts, recipe.row_length)
        data = PackedSteps(self.tokenizer, self.seed, *sizes)
        bar = tqdm(
            batches(data, self.step),
            initial=self.step,
            total=recipe.steps,
            desc="pretrain",
            unit="step",
            smoothing=0.02,
        )
        running = self.log[-1][1] if self.log else None
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        try:
            for batch in bar:
                loss = self._learn({name: tensor.to(self.device) for name, tensor in batch.items()})
                self.step += 1
                self.seconds = time.monotonic() - began
                running = loss if running is None else 0.98 * running + 0.02 * loss
                if self.step % LOG_STEPS == 0 or self.step == recipe.steps:
                    self.log.append([self.step, round(running, 4), round(self.seconds, 1)])
                    bar.set_postfix(loss=f"{running:.3f}", refresh=False)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            pass
        self.save()
        return self.step == recipe.steps

    def _learn(self, batch: dict[str, torch.Tensor]) -> float:
        """One optimiser step; the loss of the texts."""
        batch["attention_mask"] = block_causal_mask(batch["segments"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        with mixed_precision(self.device):
            states = encode_images(self.model, normalise(batch["pixels"]))
            loss = text_loss(decoder_logits(self.model, states, batch), batch)
            total = loss + self.recipe.patch_weight * patch_loss(self.head(states[:, 1:]), batch)
        total.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def save(self) -> None:
        """Saves the state of the run, and the model in float16."""
        state = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with whole(self.out / STATE) as part:
            torch.save(state, part)
        with published(self.out) as folder:
            copy.deepcopy(self.model).cpu().half().save_pretrained(folder)

    def _restore(self) -> None:
        file = self.out / STATE
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
        except Exception as error:
            raise UserError(f"{file} cannot be read ({type(error).__name__}); choose another --out") from None
        changed = [name for name, value in self.settings.items() if state["settings"].get(name) != value]
        if changed:
            raise UserError(
                f"{self.out} holds a run with other {' and '.join(changed)}; choose another --out"
            )
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]

    def finish(self) -> dict[str, float]:
        """Scores the saved float16 weights, not those in memory, and writes the card; returns the scores."""
        model, tokenizer = load_model(self.out)
        scores = scoring.skill_scores(model.to(self.device), tokenizer, scoring.SCENES)
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
        model_card.write_card(self.out, model, about, scores, self.log)
        (self.out / STATE).unlink()
        return scores
