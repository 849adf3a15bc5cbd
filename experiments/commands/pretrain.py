"""Pre-train mini-BLIP from scratch on drawn scenes.

    attngraph pretrain --out runs/mini-blip    # about 24 minutes on 2 free cores
    attngraph pretrain --check                 # score the shipped checkpoint again

Ctrl-C stops a run, the same command goes on with it.

Every step draws new scenes and writes several texts about each (see experiments/models/packing.py).
"""

import argparse
import copy
import json
import math
import time
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from attngraph.errors import UserError
from experiments.models.generation import IGNORED, decoder_logits, encode_images
from experiments.models.mini_blip import CHECKPOINT, build_model, load_model, normalise
from experiments.pretraining import model_card
from experiments.pretraining import scoring as skills
from experiments.pretraining.packing import PackedSteps, batches, block_causal_mask
from experiments.pretraining.tokenizer import build_tokenizer
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES
from experiments.scenes.vocabulary import all_words
from experiments.training.device import check_device, mixed_precision, training_precision

# The recipe. Options are the number of steps, the seed and the hardware only.
IMAGES = 16  # new images in each step; few, so that there are many steps
TEXTS = 8  # texts about each image, one of them a caption
ROW_LENGTH = 128  # tokens in the packed row of an image
STEPS = 8000
LEARNING_RATE = 1e-3
WARMUP_STEPS = 300
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
CLIP = 1.0
PATCH_WEIGHT = 1.0  # of the auxiliary loss
RECIPE = f"""{IMAGES} new images in each step, with up to {TEXTS} texts each (a caption, and questions and
statements of {len(skills.KINDS) - 1} kinds in varied wordings), packed into rows of {ROW_LENGTH} tokens. The
loss covers answers and end tokens, and an answer of n tokens weighs n^(1/2) in all; a linear head on the
image states, dropped afterwards, also names the shape and the colour that each patch shows (cross-entropy,
weight {PATCH_WEIGHT:g}). AdamW, learning rate {LEARNING_RATE:g} with {WARMUP_STEPS} steps of warm-up, then a cosine to 1 % of it; betas {BETAS[0]} and {BETAS[1]}, weight
decay {WEIGHT_DECAY} on matrices but not on embeddings, gradients clipped at {CLIP:g}."""

SAVE_SECONDS = 120
TOLERANCE = 0.05  # a new run of the recipe: the average score
CHECK_TOLERANCE = 0.01  # the same checkpoint scored on another machine: every score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `attngraph pretrain`."""
    parser.add_argument("--out", type=Path, default=Path("runs/mini-blip"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the scenes (default 0)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument(
        "--check",
        nargs="?",
        const=CHECKPOINT,
        default=None,
        type=Path,
        metavar="FOLDER",
        help="train nothing: score a checkpoint (default: the shipped one) and compare with its scores.json",
    )


def run(args: argparse.Namespace) -> int:
    """Pre-trains, or checks a checkpoint. Returns the process's exit code."""
    check_device(args.device)
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads must be at least 1, got {args.threads}")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    return check(args.check, args.device) if args.check else train(args)


def train(args: argparse.Namespace) -> int:
    """Trains into `args.out`; continues where an earlier call with the same seed and steps stopped."""
    out: Path = args.out
    if args.steps < 1 or args.seed < 0:
        raise UserError(
            f"--steps {args.steps}, --seed {args.seed}: give at least 1 step and a seed of at least 0"
        )
    if (out / "scores.json").exists():
        raise UserError(
            f"{out} holds a finished checkpoint; choose another --out, or score it with --check {out}"
        )

    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(all_words())
    model = build_model(tokenizer).to(args.device).train()
    # Says what each patch shows; dropped with the training state.
    head = nn.Linear(model.config.vision_config.hidden_size, SHAPE_CLASSES + COLOR_CLASSES).to(args.device)
    trained = nn.ModuleDict({"model": model, "head": head})
    optimizer = torch.optim.AdamW(parameter_groups(trained), lr=LEARNING_RATE, betas=BETAS, fused=True)

    settings = {"seed": args.seed, "steps": args.steps, "recipe": RECIPE}
    step, seconds, log, running = 0, 0.0, [], None
    state_file = out / "training_state.pt"
    if state_file.exists():
        try:
            state = torch.load(state_file, map_location=args.device, weights_only=True)
        except Exception as error:
            raise UserError(
                f"{state_file} cannot be read ({type(error).__name__}); choose another --out"
            ) from None
        other = [name for name in settings if state["settings"].get(name) != settings[name]]
        if other:
            raise UserError(f"{out} holds a run with other {' and '.join(other)}; choose another --out")
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, log = state["step"], state["seconds"], state["log"]
        running = log[-1][1] if log else None
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no interrupted pre-training; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)

    began = saved = time.monotonic()

    def save() -> None:
        state = {
            "settings": settings,
            "step": step,
            "seconds": seconds + time.monotonic() - began,
            "log": log,
        }
        torch.save(
            state | {"trained": trained.state_dict(), "optimizer": optimizer.state_dict()},
            f"{state_file}.new",
        )
        Path(f"{state_file}.new").replace(state_file)
        save_weights(model, out)

    data = PackedSteps(tokenizer, args.seed, args.steps, IMAGES, TEXTS, ROW_LENGTH)
    bar = tqdm(
        batches(data, step), initial=step, total=args.steps, desc="pretrain", unit="step", smoothing=0.02
    )
    try:
        for batch in bar:
            batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
            batch["attention_mask"] = block_causal_mask(batch["segments"])
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * schedule(step, args.steps)
            with mixed_precision(args.device):
                states = encode_images(model, normalise(batch["pixels"]))
                loss = text_loss(decoder_logits(model, states, batch), batch)
                total = loss + PATCH_WEIGHT * patch_loss(head(states[:, 1:]), batch)
            total.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            if step % 20 == 0 or step == args.steps:
                log.append([step, round(running, 4), round(seconds + time.monotonic() - began, 1)])
                bar.set_postfix(loss=f"{running:.3f}", refresh=False)
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
    except KeyboardInterrupt:
        save()
        print(f"\nstopped after step {step}; the same command goes on from there")
        return 130
    save()
    seconds += time.monotonic() - began
    print(f"trained {step} steps in {seconds / 60:.1f} minutes; scoring on {skills.SCENES} held-out scenes")
    finish(out, args, seconds, log)
    state_file.unlink()
    return 0


def text_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the next token over answers and end tokens, a mean weighted by the batch's ``weights``.

    Args:
        logits: ``(images, row_length, vocabulary)``.
        batch: from `pack`.
    """
    targets, weights = batch["labels"][:, 1:].flatten(), batch["weights"][:, 1:].flatten()
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).sum() / weights.sum()


def patch_loss(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the shape, and of the colour, of the thing that each patch shows.

    From the texts alone the image encoder learns shapes slowly: a text says little about where in the picture its
    words come from.

    Args:
        scores: ``(images, patches, SHAPE_CLASSES + COLOR_CLASSES)``.
        batch: holds ``patch_shapes`` and ``patch_colors``, ``(images, patches)``.
    """
    shapes, colors = scores.float().flatten(0, 1).split((SHAPE_CLASSES, COLOR_CLASSES), dim=-1)
    return F.cross_entropy(shapes, batch["patch_shapes"].flatten()) + F.cross_entropy(
        colors, batch["patch_colors"].flatten()
    )


def parameter_groups(model: nn.Module) -> list[dict]:
    """Weight decay on matrices only, not on biases, norms and embeddings."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and "embedding" not in name else free).append(parameter)
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]


def schedule(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to 1 %."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def save_weights(model: nn.Module, out: Path) -> None:
    """Writes config.json and model.safetensors in float16; the model in training stays as it is."""
    copy.deepcopy(model).cpu().half().save_pretrained(out)


def finish(out: Path, args: argparse.Namespace, seconds: float, log: list[list[float]]) -> None:
    """Scores the saved float16 weights, not those in memory, and writes the model card."""
    model, tokenizer = load_model(out)
    scores = skills.skill_scores(model.to(args.device), tokenizer, skills.SCENES)
    about = {
        "seed": args.seed,
        "steps": args.steps,
        "recipe": RECIPE,
        "precision": training_precision(args.device),
        "date": date.today().isoformat(),
        "minutes": round(seconds / 60, 1),
        "machine": model_card.describe_machine(args.device),
        "remark": "",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "scenes": skills.SCENES,
        "check_tolerance": CHECK_TOLERANCE,
        "tolerance": TOLERANCE,
    }
    model_card.write_card(out, model, about, scores, log)
    print("\n".join(f"{name:24} {value:.4f}" for name, value in scores.items()))
    if (CHECKPOINT / "scores.json").exists():
        shipped = json.loads((CHECKPOINT / "scores.json").read_text(encoding="utf-8"))["scores"][
            "exact_average"
        ]
        far = abs(scores["exact_average"] - shipped)
        verdict = "equal within" if far <= TOLERANCE else f"differs by {far:.4f}, more than"
        print(f"the shipped checkpoint's average is {shipped:.4f}: {verdict} {TOLERANCE:g}")


def check(folder: Path, device: str = "cpu") -> int:
    """Scores a checkpoint again and compares with the scores saved with it: 0 if they agree, else 1."""
    file = folder / "scores.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))["scores"]
    except FileNotFoundError:
        raise UserError(f"{file} not found; give the folder of a finished `attngraph pretrain`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); run `attngraph pretrain` again") from None
    model, tokenizer = load_model(folder)
    now = skills.skill_scores(model.to(device), tokenizer, skills.SCENES)
    agree = saved.keys() == now.keys()
    for name in sorted(saved.keys() & now.keys()):
        difference = abs(now[name] - saved[name])
        agree &= difference <= CHECK_TOLERANCE
        print(f"{name:24} saved {saved[name]:.4f}  now {now[name]:.4f}  difference {difference:.4f}")
    print("the scores agree" if agree else f"the scores differ by more than {CHECK_TOLERANCE}")
    return 0 if agree else 1
