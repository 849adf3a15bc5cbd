"""``attngraph pretrain``: pre-trains mini-BLIP or mini-mPLUG from scratch on drawn scenes.

::

    attngraph pretrain --out runs/mini-blip    # 34 minutes on one core
    attngraph pretrain --model mini-mplug      # into runs/mini-mplug
    attngraph pretrain --check                 # score the shipped checkpoint again

Every step draws new scenes and writes several texts about each (:mod:`experiments.studies.pretrain`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.base.arguments import Between, seed
from experiments.base.shipped import DEFAULT
from experiments.models.loading import load_family
from experiments.runs.device import check_device
from experiments.studies import pretrain as study
from experiments.studies.pretrain import MINIS

MOST = 10**9  # steps


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
    add(
        "--steps",
        type=Between(1, MOST),
        metavar="N",
        help=f"Take this many optimiser steps. Default: {steps}.",
    )
    add("--seed", type=seed, default=0, metavar="N", help="Set the seed of the weights and of the scenes.")
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
    torch.set_flush_denormal(True)
    mini = MINIS[args.model]
    if args.check:
        given = {"--steps": args.steps, "--seed": args.seed or None, "--out": args.out}
        if args.check is not True and args.model != DEFAULT:
            given["--model"] = args.model
        if idle := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{idle[0]} changes nothing with --check, which trains nothing: leave it out")
        return check(mini.checkpoint if args.check is True else args.check, args.device)
    scores = study.pretrain(mini, args.out or Path("runs", mini.name), args.steps, args.seed, args.device)
    print("\n".join(f"{name:24} {value:.4f}" for name, value in scores.items()))
    shipped = study.saved_scores(mini.checkpoint)[1]["exact_average"]
    difference = abs(scores["exact_average"] - shipped)
    is_equal = difference <= study.TOLERANCE
    verdict = "equal within" if is_equal else f"differs by {difference:.4f}, more than"
    print(f"the shipped checkpoint's average is {shipped:.4f}: {verdict} {study.TOLERANCE:g}")
    return 0


def check(folder: Path, device: str = "cpu") -> int:
    """Scores a checkpoint again and compares with the scores saved with it: 0 if they agree, else 1."""
    name, saved = study.saved_scores(folder)
    family = load_family(folder)
    family.model.to(device)
    scores = study.skill_scores(family, study.SCENES, MINIS[name].prompts_captions)
    agree = saved.keys() == scores.keys()
    for name in sorted(saved.keys() & scores.keys()):
        difference = abs(scores[name] - saved[name])
        agree &= difference <= study.CHECK_TOLERANCE
        print(f"{name:24} saved {saved[name]:.4f}  now {scores[name]:.4f}  difference {difference:.4f}")
    print("the scores agree" if agree else f"the scores differ by more than {study.CHECK_TOLERANCE}")
    return 0 if agree else 1
