"""Train every scheme on planted graphs; ``docs/planted.md`` describes the graphs and the predictions of
theory.
"""

from __future__ import annotations

import platform
from dataclasses import replace

import pandas as pd
import torch

from attngraph.analysis.plots.style import files
from attngraph.experiments.base.files import write_text
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.commands.options import PlantedOptions
from attngraph.experiments.studies.planted import QUICK, Study
from attngraph.experiments.studies.planted import run as train_all
from attngraph.experiments.studies.planted_cues import SECOND
from attngraph.experiments.studies.planted_report import FIGURES, conditions, draw, text

RUNS, CONDITIONS, TEXT = "planted.csv", "conditions.csv", "planted.txt"
NAMES = (RUNS, CONDITIONS, TEXT, *(name for stem in FIGURES for name in files(stem)))
STUDIES = {"direction": Study(), "cues": SECOND, "quick": QUICK}
SEEDS = {"direction": 10, "cues": 10, "quick": 3}


def run(options: PlantedOptions) -> int:
    """``attngraph planted``."""
    count = options.seeds or SEEDS[options.preset]
    study = replace(STUDIES[options.preset], join=options.join)
    settings = {
        "preset": options.preset,
        "seeds": count,
        "join": options.join,
        "torch": torch.__version__,
    }
    outputs = Outputs(options.out, "planted", settings, NAMES)
    with outputs.alone():
        total = len(study.parts) * len(study.rows) * len(study.rates)
        runs = pd.concat(Progress(train_all(study, range(count)), "rows × rates", total), ignore_index=True)
        with outputs.writing() as folder:
            runs.to_csv(folder / RUNS, index=False, float_format="%.6g")
            runs = pd.read_csv(folder / RUNS)  # as rounded, so that the report follows from the file
            table = conditions(runs)
            table.to_csv(folder / CONDITIONS, index=False, float_format="%.5g")
            machine = f"{platform.system()} {platform.machine()}, cpu, PyTorch {torch.__version__}"
            report = text(runs, table, f"seeds 0-{count - 1}, join {options.join}, {machine}")
            write_text(folder / TEXT, report)
            figures = draw(table, folder)
    print(report)
    written = [RUNS, CONDITIONS, TEXT, *(f"{stem}.png" for stem in figures)]
    print(f"written: {options.out}/{', '.join(written)}")
    return 0
