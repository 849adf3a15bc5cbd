"""Pre-train mini-BLIP or mini-mPLUG from scratch on synthetic scenes
(:mod:`attngraph.experiments.studies.pretrain`)."""

from __future__ import annotations

from pathlib import Path

import torch

from attngraph.errors import UserError
from attngraph.experiments.commands.options import PretrainOptions
from attngraph.experiments.models.loading import load_family
from attngraph.experiments.runs.device import check_device
from attngraph.experiments.studies import pretrain as study


def run(options: PretrainOptions) -> int:
    """Pre-train, or check a checkpoint; returns the exit code."""
    check_device(options.device)
    torch.set_flush_denormal(True)
    mini = study.MINIS[options.model]
    if options.check:
        for option, given in (("--steps", options.steps), ("--seed", options.seed)):
            if given is not None:
                raise UserError(f"{option} has no effect with --check, which does not train: remove it")
        return check(options.out or mini.checkpoint, options.device)
    out = options.out or Path("runs", mini.name)
    scores = study.pretrain(mini, out, options.steps, options.seed or 0, options.device)
    print("\n".join(f"{name:24} {value:.4f}" for name, value in scores.items()))
    return 0


def check(folder: Path, device: str) -> int:
    """Re-evaluate a checkpoint and compare with its saved scores: 0 if they agree, else 1."""
    saved = study.saved_scores(folder)
    family = load_family(folder)
    family.model.to(device)
    scores = study.skill_scores(family, study.SCENES)
    agree = saved.keys() == scores.keys()
    for name in sorted(saved.keys() & scores.keys()):
        difference = abs(scores[name] - saved[name])
        agree &= difference <= study.TOLERANCE
        print(f"{name:24} saved {saved[name]:.4f}  now {scores[name]:.4f}  difference {difference:.4f}")
    print("the scores agree" if agree else f"the scores differ by more than {study.TOLERANCE}")
    return 0 if agree else 1
