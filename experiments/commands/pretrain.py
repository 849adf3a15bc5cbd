"""``attngraph pretrain``: pre-trains mini-BLIP or mini-mPLUG from scratch on drawn scenes.

::

    attngraph pretrain --out runs/mini-blip    # 34 minutes on one core
    attngraph pretrain --model mini-mplug      # into runs/mini-mplug
    attngraph pretrain --check                 # score the shipped checkpoint again

Ctrl-C stops a run, the same command goes on with it. Every step draws new scenes and writes several texts
about each (:mod:`experiments.pretraining`).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.models.loading import load_family
from experiments.outputs import check_folder
from experiments.pretraining import scoring
from experiments.pretraining.minis import MINIS, Mini
from experiments.pretraining.run import Pretraining
from experiments.shipped import DEFAULT
from experiments.training.device import check_device, check_threads, cpu_threads
from experiments.training.lock import sole_use
from experiments.training.stopping import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph pretrain``."""
    add = parser.add_argument
    add(
        "--model",
        choices=MINIS,
        default=DEFAULT,
        metavar="NAME",
        help=f"Train this model: {' or '.join(MINIS)}.",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="Write the checkpoint into this folder. Default: runs/NAME, with the model's name.",
    )
    steps = ", ".join(f"{mini.recipe.steps} for {name}" for name, mini in MINIS.items())
    add("--steps", type=int, metavar="N", help=f"Take this many optimiser steps. Default: {steps}.")
    add("--seed", type=int, default=0, metavar="N", help="Set the seed of the weights and of the scenes.")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="Use this many CPU threads; the last digits of the weights depend on them. Default: those of "
        "the run that goes on, else PyTorch's choice.",
    )
    add("--device", default="cpu", metavar="NAME", help="Compute on this device: cpu or cuda.")
    add(
        "--check",
        nargs="?",
        const=True,
        type=Path,
        metavar="FOLDER",
        help="Train nothing: score a checkpoint and compare with its scores.json. Default: the shipped one.",
    )


def run(args: argparse.Namespace) -> int:
    """Pre-trains, or checks a checkpoint. Returns the process's exit code."""
    check_device(args.device)
    if args.check:
        given = {"--steps": args.steps, "--seed": args.seed or None, "--out": args.out}
        if args.check is not True and args.model != DEFAULT:
            given["--model"] = args.model
        if idle := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{idle[0]} changes nothing with --check, which trains nothing: leave it out")
    if args.threads is not None:
        check_threads(args.threads)
    torch.set_flush_denormal(True)
    with cpu_threads(args.threads or torch.get_num_threads()):
        if args.check:
            return check(MINIS[args.model].checkpoint if args.check is True else args.check, args.device)
        return train(args)


def train(args: argparse.Namespace) -> int:
    """Trains into ``--out``; goes on where an earlier call with the same seed and steps stopped."""
    mini = MINIS[args.model]
    out = args.out or Path("runs", mini.name)
    check_folder(out, "pretrain")
    try:
        with sole_use(out):
            return _train(mini, out, args)
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command goes on from the last state that was saved", file=sys.stderr)
        return exit_code(stop)


def _train(mini: Mini, out: Path, args: argparse.Namespace) -> int:
    recipe = mini.recipe if args.steps is None else replace(mini.recipe, steps=args.steps)
    training = Pretraining(mini, out, recipe, args.seed, args.device, args.threads)
    if not training.train():
        print(f"\nstopped after step {training.step}; the same command goes on from there", file=sys.stderr)
        return 128 + training.stopped_by
    minutes = f"{training.seconds / 60:.1f} minutes"
    print(f"trained {training.step} steps in {minutes}; scoring on {scoring.SCENES} held-out scenes")
    scores = training.finish()
    print("\n".join(f"{name:24} {value:.4f}" for name, value in scores.items()))
    if (mini.checkpoint / "scores.json").exists():
        shipped = scoring.saved_scores(mini.checkpoint)[1]["exact_average"]
        difference = abs(scores["exact_average"] - shipped)
        is_equal = difference <= scoring.TOLERANCE
        verdict = "equal within" if is_equal else f"differs by {difference:.4f}, more than"
        print(f"the shipped checkpoint's average is {shipped:.4f}: {verdict} {scoring.TOLERANCE:g}")
    return 0


def check(folder: Path, device: str = "cpu") -> int:
    """Scores a checkpoint again and compares with the scores saved with it: 0 if they agree, else 1."""
    name, saved = scoring.saved_scores(folder)
    family = load_family(folder)
    family.model.to(device)
    scores = scoring.skill_scores(family, scoring.SCENES, MINIS[name].prompts_captions)
    agree = saved.keys() == scores.keys()
    for name in sorted(saved.keys() & scores.keys()):
        difference = abs(scores[name] - saved[name])
        agree &= difference <= scoring.CHECK_TOLERANCE
        print(f"{name:24} saved {saved[name]:.4f}  now {scores[name]:.4f}  difference {difference:.4f}")
    print("the scores agree" if agree else f"the scores differ by more than {scoring.CHECK_TOLERANCE}")
    return 0 if agree else 1
