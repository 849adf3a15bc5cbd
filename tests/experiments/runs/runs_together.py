"""``torchrun ... -m tests.experiments.runs.runs_together FOLDER``: small runs shared by all processes.

The first process writes what each run leaves into a file ``NAME.json`` of the folder.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

from accelerate import PartialState

from attngraph.experiments.runs import device
from attngraph.experiments.runs import train as training
from tests.experiments.runs.small import Stopped, recipe_of, small_mplug, train_small

IN_PASSES = recipe_of(batch_size=8, accumulation=2, validate_every=3)
RUNS = {
    "stopped early": ("pgnn", recipe_of(steps=12, batch_size=4, validate_every=2, patience=2)),
    "in passes": ("full", IN_PASSES),
    "in passes, interrupted": ("full", IN_PASSES),
    "computed again": ("gcn", recipe_of(batch_size=4, checkpointing=True)),
    "lora": ("lora", recipe_of(batch_size=4, group_pictures=2)),
    "prefix": ("prefix", recipe_of(batch_size=4)),
    "mPLUG's captions": ("full", recipe_of(batch_size=4)),
    "mPLUG's captions, computed again": ("decoder", recipe_of(batch_size=4, checkpointing=True)),
}


def stop(step: int) -> None:
    if step == 5:
        raise Stopped


def run_all(folder: Path) -> None:
    several = device.processes("cpu").num_processes > 1
    for name, (method, recipe) in RUNS.items():
        family = small_mplug() if name.startswith("mPLUG") else None
        if several and "interrupted" in name:
            with suppress(Stopped):
                train_small(folder / name, method, recipe, on_step=stop)
        outcome = train_small(folder / name, method, recipe, family=family)
        validated = folder / name / "run" / "validation.csv"
        found = {
            "metrics": outcome.metrics,
            "predictions": outcome.predictions,
            "loss": outcome.trained.loss,
            "validations": validated.read_text() if recipe.validate_every else None,
            "weights": {name: weight.double().sum().item() for name, weight in outcome.weights.items()},
        }
        if PartialState().is_main_process:
            (folder / f"{name}.json").write_text(json.dumps(found))
        PartialState().wait_for_everyone()


if __name__ == "__main__":
    device.uses_bfloat16 = lambda name: False
    training.SAVE_EVERY = 3
    run_all(Path(sys.argv[1]))
