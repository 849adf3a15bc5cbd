"""``python -m tests.experiments.runs.killed FOLDER THREADS``: a run killed in step 5."""

import os
import signal
import sys
from pathlib import Path

import torch

from experiments.runs import device
from experiments.runs import train as training
from tests.experiments.runs.small import train_small


def stop(step: int) -> None:
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    training.SAVE_EVERY = 3
    device.uses_bfloat16 = lambda name: False
    train_small(Path(sys.argv[1]), dropout=0.3, on_step=stop)
