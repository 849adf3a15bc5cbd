"""``torchrun ... -m tests.experiments.training.together NOTES WORD...``: the command in float32.

Each process notes the examples that it answers in a file of its own in the folder ``NOTES``.
"""

import os
import sys
from pathlib import Path

from experiments.cli import main
from experiments.methods.method import Tuned
from experiments.training import trainer

if __name__ == "__main__":
    notes = Path(sys.argv[1]) / f"{os.environ['RANK']}.txt"
    answer = Tuned.answer

    def noted(self, samples, decoding):
        with notes.open("a") as file:
            file.writelines(f"{sample.name}\n" for sample in samples)
        return answer(self, samples, decoding)

    Tuned.answer = noted
    trainer.uses_bfloat16 = lambda device: False
    sys.exit(main(sys.argv[2:]))
