"""``attngraph pretrain``: pre-trains mini-BLIP from scratch on drawn scenes.

::

    attngraph pretrain --out runs/mini-blip    # about 24 minutes on 2 free cores
    attngraph pretrain --check                 # score the shipped checkpoint again

Ctrl-C stops a run, the same command goes on with it. Every step draws new scenes and writes several texts
about each (:mod:`experiments.pretraining`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.models.mini_blip import CHECKPOINT, load_model
from experiments.pretraining import scoring
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.run import Pretraining
from experiments.training.device import check_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph pretrain``."""
    steps = Recipe().steps
    parser.add_argument("--out", type=Path, default=Path("runs/mini-blip"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps (default %(default)s)")
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
    """Trains into ``--out``; goes on where an earlier call with the same seed and steps stopped."""
    training = Pretraining(args.out, Recipe(steps=args.steps), args.seed, args.device)
    if not training.train():
        print(f"\nstopped after step {training.step}; the same command goes on from there")
        return 130
    minutes = f"{training.seconds / 60:.1f} minutes"
    print(f"trained {training.step} steps in {minutes}; scoring on {scoring.SCENES} held-out scenes")
    scores = training.finish()
    print("\n".join(f"{name:24} {value:.4f}" for name, value in scores.items()))
    if (CHECKPOINT / "scores.json").exists():
        shipped = scoring.saved_scores(CHECKPOINT)["exact_average"]
        difference = abs(scores["exact_average"] - shipped)
        is_equal = difference <= scoring.TOLERANCE
        verdict = "equal within" if is_equal else f"differs by {difference:.4f}, more than"
        print(f"the shipped checkpoint's average is {shipped:.4f}: {verdict} {scoring.TOLERANCE:g}")
    return 0


def check(folder: Path, device: str = "cpu") -> int:
    """Scores a checkpoint again and compares with the scores saved with it: 0 if they agree, else 1."""
    saved = scoring.saved_scores(folder)
    model, tokenizer = load_model(folder)
    scores = scoring.skill_scores(model.to(device), tokenizer, scoring.SCENES)
    agree = saved.keys() == scores.keys()
    for name in sorted(saved.keys() & scores.keys()):
        difference = abs(scores[name] - saved[name])
        agree &= difference <= scoring.CHECK_TOLERANCE
        print(f"{name:24} saved {saved[name]:.4f}  now {scores[name]:.4f}  difference {difference:.4f}")
    print("the scores agree" if agree else f"the scores differ by more than {scoring.CHECK_TOLERANCE}")
    return 0 if agree else 1
