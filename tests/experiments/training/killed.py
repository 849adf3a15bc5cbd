"""``python -m tests.experiments.training.killed FOLDER METHOD DROPOUT THREADS``: a run killed in step 5."""

import os
import signal
import sys
from pathlib import Path

import torch

from experiments.training import device, trainer
from tests.experiments.training.small import train_small


def stop(step: int) -> None:
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, method, dropout, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    trainer.SAVE_EVERY = 3
    device.uses_bfloat16 = lambda name: False
    train_small(Path(folder), method, dropout=float(dropout), on_step=stop)
