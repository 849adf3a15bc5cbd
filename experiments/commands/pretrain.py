"""Pre-train mini-BLIP or mini-mPLUG from scratch on drawn scenes (:mod:`experiments.studies.pretrain`)."""

from __future__ import annotations

from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.commands.options import PretrainOptions
from experiments.models.loading import load_family
from experiments.runs.device import check_device
from experiments.studies import pretrain as study
from experiments.studies.pretrain import MINIS


def run(options: PretrainOptions) -> int:
    """Pre-trains, or checks a checkpoint. Returns the process's exit code."""
    check_device(options.device)
    torch.set_flush_denormal(True)
    mini = MINIS[options.model]
    if options.check:
        if options.steps is not None or options.seed:
            name = "--seed" if options.steps is None else "--steps"
            raise UserError(f"{name} changes nothing with --check, which trains nothing: leave it out")
        return check(options.out or mini.checkpoint, options.device)
    out = options.out or Path("runs", mini.name)
    scores = study.pretrain(mini, out, options.steps, options.seed, options.device)
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
