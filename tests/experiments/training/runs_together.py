"""``torchrun ... -m tests.experiments.training.runs_together FOLDER``: small runs shared by all processes.

The first process writes what each run leaves into a file ``NAME.json`` of the folder.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import PartialState

from experiments.training import device, trainer
from tests.experiments.training.small import RECIPE, train_small

RUNS = {
    "stopped early": ("pgnn", replace(RECIPE, steps=12, batch_size=4, validate_every=2, patience=2)),
    "in passes": ("full", replace(RECIPE, batch_size=8, accumulation=2, validate_every=3)),
    "computed again": ("gcn", replace(RECIPE, batch_size=4, checkpointing=True)),
    "lora": ("lora", replace(RECIPE, batch_size=4)),
    "prefix": ("prefix", replace(RECIPE, batch_size=4)),
}


def run_all(folder: Path) -> None:
    for name, (method, recipe) in RUNS.items():
        outcome = train_small(folder / name, method, recipe)
        validated = folder / name / "run" / "validation.csv"
        found = {
            "metrics": outcome.metrics,
            "predictions": outcome.predictions,
            "trained": asdict(outcome.trained),
            "validations": validated.read_text() if recipe.validate_every else None,
        }
        if PartialState().is_main_process:
            (folder / f"{name}.json").write_text(json.dumps(found))
        PartialState().wait_for_everyone()


if __name__ == "__main__":
    device.uses_bfloat16 = lambda name: False
    trainer.SAVE_EVERY = 3
    run_all(Path(sys.argv[1]))
