"""``torchrun ... -m tests.experiments.runs.together NOTES WORD... then WORD...``: two commands.

Both run in float32, the second if the first succeeds. Each process notes the examples that it answers in a
file of its own in the folder ``NOTES``.
"""

import os
import sys
from pathlib import Path

from attngraph.experiments.cli import main
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.runs import device

if __name__ == "__main__":
    notes = Path(sys.argv[1]) / f"{os.environ['RANK']}.txt"
    answer = Tuned.answer

    def noted(self, samples, decoding):
        with notes.open("a") as file:
            file.writelines(f"{sample.name}\n" for sample in samples)
        return answer(self, samples, decoding)

    Tuned.answer = noted
    device.uses_bfloat16 = lambda name: False
    split = sys.argv.index("then")
    if main(sys.argv[2:split]) != 0:
        sys.exit("the first command failed")
    print("the first command is done", file=sys.stderr, flush=True)
    sys.exit(main(sys.argv[split + 1 :]))
