"""The options of each command: one dataclass per command, from which its parser and its help are made.

They are in one module, separate from the commands, so that ``attngraph COMMAND --help`` imports only the
standard library. Names in registries (tasks, methods, datasets) are checked when the command runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from attngraph.experiments.base.arguments import argument, option
from attngraph.experiments.base.options import (
    FIELDS,
    SET,
    DeviceOptions,
    GridOptions,
    LookOptions,
    ModelOptions,
    RowsOptions,
    RunOptions,
    Split,
)
from attngraph.experiments.base.shipped import DEFAULT, described
from attngraph.experiments.base.types import LARGEST, Between, Names, Positive, Seed, Seeds, Word

RUN = "Folder of the finished run whose model is used."
SETTINGS = "File of settings written by `attngraph search` or `sweep`; they take precedence over all others."
SEVERAL = "Number of seeds of every row, or FIRST-LAST. Default: those of the file."


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Train and score one experiment defined by a YAML file."""

    experiment: str | None = argument(
        f"YAML file of the experiment, or one of these: {described('experiment')}.", "FILE", None
    )
    changes: tuple[str, ...] = option(
        "Value that replaces the file's, such as recipe.learning_rate=1e-3 (repeatable).",
        fields=FIELDS | {word: word for word in ("method", "task", "seed")} | {"gnn": "method"},
        **SET,
    )
    out: Path = option("Output folder; the run is in `cells/METHOD/TASK/seedN`.", Path("runs/train"))
    track: tuple[Literal["tensorboard", "wandb", "mlflow", "none"], ...] = option(
        "Trackers of the training curves: tensorboard, wandb, mlflow, or none.", ("tensorboard",)
    )
    dry_run: bool = option(
        "Print the completed experiment file and check its settings on the model; run nothing.", False
    )


@dataclass(frozen=True, kw_only=True)
class AblationOptions(RowsOptions):
    """Train and score the GNN ablation table."""

    preset: str = option(f"Preset: a YAML file, or one of these: {described('preset')}.", "quick")
    seeds: Seeds | None = option(SEVERAL, metavar="N")
    settings: Path | None = option(SETTINGS, metavar="FILE")
    out: Path | None = option("Folder of the runs and tables. Default: runs/ablation-PRESET.")


@dataclass(frozen=True, kw_only=True)
class TableOptions(RowsOptions):
    """Make a table of the paper: main, gnn and the smaller ones, on synthetic or on official data."""

    name: str = argument(f"Table: a YAML file, or one of these: {described('table')}.", "TABLE")
    size: str = option(f"Scale of the runs: a YAML file, or one of these: {described('size')}.", "scenes")
    seeds: Seeds | None = option(SEVERAL, metavar="N")
    settings: Path | None = option(SETTINGS, metavar="FILE")
    out: Path | None = option(
        "Folder of the runs, with a subfolder for each table. Default: runs/tables-SIZE."
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(RowsOptions):
    """Choose the learning rate of each row of a table on validation data."""

    name: str = argument("Table whose rows and tasks are used, as in `attngraph table`.", "TABLE")
    size: str = option("Size whose budgets and rates are used.", "scenes")
    out: Path | None = option(
        "Folder of the runs, settings.yaml, sweep.csv and sweep.md. Default: runs/tables-SIZE."
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(GridOptions):
    """Choose learning rates, joins and scheme arguments on validation data."""

    preset: str = option("Preset with budgets, data and checkpoints: a name or a YAML file.", "full")
    out: Path = option("Folder of the runs, of all settings tried, and of those chosen.", Path("runs/search"))


@dataclass(frozen=True, kw_only=True)
class SignificanceOptions:
    """Recompute every comparison and p-value of a table from its raw results."""

    source: Path = argument(
        "Folder of a table that contains its runs, or their archives (seed-*.tar.xz).", "FOLDER"
    )
    baseline: Names = option("Rows to compare with, separated by commas.", ("gcn",))
    rows: Names | None = option(
        "Rows to compare; Holm's correction covers them. Default: the GNN adapters and pGNN's controls."
    )
    columns: Names | None = option("Columns to compare in, such as vqa.accuracy. Default: all.")
    margin: float | None = option(
        "Margin of an additional test of equivalence (two one-sided tests), in points.",
        metavar="POINTS",
    )
    out: Path | None = option("Folder of the comparisons. Default: they are printed only.")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Summarise tables, significance and costs of finished runs on one page."""

    runs: tuple[Path, ...] = argument("Folders of tables, single runs, or archives.", "FOLDER")
    out: Path = option("Folder of report.html.", ...)
    baseline: str | None = option("Row that all others are compared with. Default: GNN adapters with gcn.")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DeviceOptions):
    """Score a finished run on another split, on other data, or with another answering mode."""

    folder: Path = argument(RUN, "RUN")
    data: Path | None = option("Folder of the data. Default: the run's.")
    split: Split | None = option("Split: train, validation or test. Default: the run's.")
    changes: tuple[str, ...] = option(
        "Change of answering, decoding, ranking or eval_examples, such as decoding.num_beams=5 (repeatable).",
        **SET,
    )
    out: Path | None = option("Folder of the scores and predictions. Default: scores are printed only.")


@dataclass(frozen=True, kw_only=True)
class PredictOptions(DeviceOptions):
    """Answer one question, a file of questions, or a split for an evaluation server with a finished run."""

    folder: Path = argument(RUN, "RUN")
    image: Path | None = option("Image for which the answer is printed.", metavar="FILE")
    text: str | None = option("Question or statement about the image given by --image.", metavar="WORDS")
    file: Path | None = option(
        "JSON or JSON Lines file of records with image and text, which are written out with answers.",
        metavar="RECORDS",
    )
    data: Path | None = option("Folder of the data. Default: the run's, if data are needed.")
    split: str | None = option(
        "Split to answer; for tasks on official files, an official split. Default: test."
    )
    format: str | None = option(
        "Format of official files, as named by `attngraph data check`: official for the server's test split "
        "of vqa2. Default: the format that the task is scored on, or else the first one with files.",
        metavar="FORMAT",
    )
    out: Path | None = option("Folder of results.json (for a split) or answers.json.")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Score a predictions file, from attngraph or any other program, with the task's metric."""

    predictions: Path = argument("JSON file of predictions.", "FILE")
    task: str = option("Task with the examples, format and metric, such as vqa2.", ...)
    data: Path | None = option("Folder of the data. Not needed for tasks whose data are in a package.")
    split: Split = option("Split of the data: train, validation or test.", "test")
    allow_empty: bool = option("Accept empty answers, as the official evaluators do.", False)
    out: Path | None = option("Folder of the scores and results.json. Default: scores are printed only.")


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Pre-train a small model from scratch on synthetic scenes."""

    model: Literal["mini-blip", "mini-mplug"] = option("Model: mini-blip or mini-mplug.", "mini-blip")
    out: Path | None = option("Folder of the checkpoint. Default: runs/MODEL.")
    steps: Annotated[int, Between(1, 10**9)] | None = option(
        "Number of optimiser steps. Default: that of the shipped checkpoint."
    )
    seed: Seed | None = option("Seed of the weights and of the scenes. Default: 0.")
    device: str = option("Device: cpu or cuda.", "cpu")
    check: bool = option(
        "Do not train: score the checkpoint of --out, or the shipped one, and compare with its saved scores.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Check, describe, download and generate datasets in the official files of six benchmarks."""

    act: Literal["check", "layout", "fetch", "make"] = argument(
        "Report missing or damaged files of a dataset (check), show its files and their sources (layout), "
        "download it from the Hugging Face hub (fetch), or generate small synthetic datasets (make).",
        "ACTION",
    )
    what: str | None = argument("Dataset, such as vqa2; scenes for `make`.", "NAME", None)
    root: Path | None = option("Folder of the dataset.")
    split: tuple[str, ...] = option("Official names of the splits. Default: all.", ())
    format: str | None = option("Format to check. Default: all formats with files.", metavar="FORMAT")
    deep: bool = option("Also check that every image can be decoded.", False)
    leave_out: bool = option(
        "List damaged records and images in damaged.json in the dataset's folder. Other commands skip these "
        "and report their number.",
        False,
    )
    out: Path | None = option("Output folder of `make`.")
    size: Annotated[int, Between(10, 1_000_000)] | None = option(
        "Number of questions, pairs or images for training; a fifth as many are generated for validation "
        "and a third as many for test. Default: 3000."
    )
    seed: Seed | None = option("Seed of the scenes and their texts. Default: 0.")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Convert an original checkpoint into a folder for --model."""

    layout: Literal["blip", "mplug"] = argument("Origin of the checkpoint: blip or mplug.", "KIND")
    checkpoint: Path = argument("File of the checkpoint, such as model_base_capfilt_large.pth.", "FILE")
    out: Path = option("Folder of the converted model and its tokenizer.", ...)
    arrangement: Literal["captioner", "vqa", "whole"] | None = option(
        "Architecture to convert to: captioner (image encoder and text decoder, as in p-Adapter for all "
        "tasks), vqa (with a question encoder, as in BLIP for VQA), or whole (mPLUG). Default for BLIP: vqa "
        "if the file is a VQA checkpoint, otherwise captioner; for mPLUG: whole.",
        flag="--as",
    )
    side: Annotated[int, Between(1, 4096)] | None = option(
        "Image side to which positions are interpolated. Default: that of the file.", metavar="PIXELS"
    )
    tokenizer: str | None = option(
        "Vocabulary: a file, a folder, or a hub name (hub:NAME downloads it). Default: the one next to the "
        "checkpoint, or else google-bert/bert-base-uncased.",
        metavar="PLACE",
    )


@dataclass(frozen=True, kw_only=True)
class ParametersOptions(ModelOptions):
    """Count the parameters that each method trains, per part of the model, and their fraction."""

    methods: Names | None = argument(
        "Methods, separated by commas. Default: those of the main table.", "NAME", None
    )
    base: bool = option("Use BLIP-base at full size, without weights.", False)
    reduction: Annotated[int, Between(1, 100_000)] | None = option(
        "Ratio of the model's width to that of the adapters' bottlenecks. Default: as chosen on validation "
        "data; with --base, 8 as in the paper.",
        metavar="FACTOR",
    )


Count = Annotated[int, Between(1, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """Generate the synthetic Scenes datasets in the official file formats."""

    out: Path = option("Output folder, which must be new or empty, or contain the same data.", ...)
    seed: Seed = option("Seed of the scenes and their texts.", 0)
    size: tuple[Count, Count, Count] | None = option(
        "Number of questions, of hypotheses and of images with captions in each split. Default: 4000 800 "
        "1600 questions, 3600 600 1200 hypotheses, 1200 400 600 images.",
        metavar=("TRAIN", "VALIDATION", "TEST"),
    )


@dataclass(frozen=True, kw_only=True)
class HeterophilyOptions(LookOptions):
    """Measure the heterophily of attention graphs per layer and head, with null models."""

    out: Path = option("Folder of the results.", Path("runs/heterophily"))
    labels: tuple[Word, ...] = option(
        "Additional classes of tokens: JSON files {token: class}, each named after its label, or "
        "spacy:NAME for the parts of speech of this spaCy pipeline. Default: only the classes of words in "
        "the synthetic scenes.",
        (),
        "FILE",
    )
    regions: Path | None = option(
        "JSON file of boxes of the objects that words refer to in your own images (docs/statistics.md).",
        metavar="FILE",
    )
    clusters: Annotated[int, Between(0, 512)] = option(
        "Number of clusters as node labels (k-means over queries and values); 0 for none.", 8, "K"
    )
    p: float = option("Exponent p of the p-Dirichlet energy and of pGNN's closed form.", 1.5)
    spectra: bool = option("Also measure the energy over the spectrum (decomposes every graph).", False)


@dataclass(frozen=True, kw_only=True)
class TsneOptions(LookOptions):
    """Plot the projected query and value spaces of attention layers."""

    layers: tuple[str, ...] = option(
        "Attention layers: names or patterns such as '*crossattention*'; '*' for all. Default: the last "
        "cross-attention layer and the self-attention layer before it.",
        (),
    )
    heads: tuple[int, ...] = option(
        "Heads, each on a separate map. Default: all in one space, as after W_o.", ()
    )
    out: Path = option("Folder of the results.", Path("runs/tsne"))
    points: Annotated[int, Between(3, LARGEST)] = option("Maximum number of points on each map.", 3000)
    method: Literal["tsne", "umap", "pca"] = option(
        "Embedding method: tsne, umap or pca; umap requires the package umap-learn.", "tsne"
    )
    perplexity: tuple[float, ...] = option(
        "Perplexities (for UMAP, numbers of neighbours), each on a separate map. Default: 30.", (), "P"
    )
    colour: tuple[Literal["role", "modality", "class", "token", "example"], ...] = option(
        "Labels, one figure for each: role, modality, class, token, example.", ("role",), "LABEL"
    )


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(LookOptions):
    """Plot attention, rollout and gradient-weighted relevance over the images."""

    task: str | None = option(
        "Task with the prompts and answers, such as vqa2. Default: questions about one object."
    )
    examples: Positive = option("Maximum number of examples.", 256)
    batch: Positive = option("Number of examples in a forward pass.", 8)
    layers: tuple[str, ...] = option(
        "Attention layers in the viewer: names or patterns such as '*crossattention*'. Raw attention is "
        "read from the last layer that attends to the image. Default: all that attend to the image.",
        (),
    )
    out: Path = option("Folder of the results.", Path("runs/attention"))
    tokens: tuple[str, ...] = option(
        "Tokens whose maps are plotted: first (the first that sees the image), answer (from which the "
        "answer's first token is predicted), last, or indices of tokens from 0. Default: first, and answer "
        "if it is known, otherwise a decoder's last token.",
        (),
        "TOKEN",
    )
    pictures: Positive = option("Number of examples to plot.", 4)


@dataclass(frozen=True, kw_only=True)
class PlantedOptions:
    """Train every scheme on planted graphs, for which theory predicts the best one."""

    preset: Literal["direction", "cues", "quick"] = option(
        "Graphs: direction (relevant values differ from distractors in direction only), cues (also in "
        "attention weight, degree or length), or quick (a smoke test: direction, three conditions, short "
        "training).",
        "direction",
    )
    seeds: Annotated[int, Between(2, 100)] | None = option(
        "Number of seeds, from 0. Default: 10; with quick, 3."
    )
    join: Literal["replace", "blend"] = option(
        "Join of the schemes' output and the attention output: replace or blend.", "replace"
    )
    out: Path = option("Folder of the results.", Path("runs/planted"))


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Detect wrong answers by attention graphs, and compare with answer probability and permuted edges."""

    models: tuple[str, ...] = option(
        "Models: shipped names, folders, or names of the Hugging Face hub (hub:NAME fetches). Their text "
        "decoders must have cross-attention.",
        (DEFAULT,),
        "MODEL",
    )
    tasks: Names = option("Tasks, separated by commas. Default: vqa,ve.", ("vqa", "ve"))
    examples: Annotated[int, Between(40, 1_000_000)] = option(
        "Number of examples of each task: half to fit detectors, a quarter to choose hyperparameters, a "
        "quarter to test.",
        4000,
    )
    seeds: Seeds = option(
        "Number of seeds of permutations and detectors, or FIRST-LAST. Default: 2.", range(2), "N"
    )
    seed: Seed = option("Seed of the synthetic data.", 0)
    out: Path = option("Folder of the results.", Path("runs/detect"))
    dry_run: bool = option("List the runs and which of them already have scores; run nothing.", False)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the methods, tasks, models, tables or schemes, one on each line.

    Examples: `attngraph list methods`, `attngraph --plugin mine.py list tasks`.
    """

    what: Literal["methods", "tasks", "models", "tables", "schemes"] = argument(
        "Names to list: methods (rows of tables), tasks, models, tables or schemes (of adapters).", "WHAT"
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure speed and memory against plain attention and other implementations."""

    only: tuple[str, ...] = option("Names of the benchmarks. Default: all.", ())
    quick: bool = option("Run tiny sizes, as a smoke test without meaningful times.", False)
    out: Path = option("Folder of the results.", Path("runs/bench"))


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Print versions and devices, and check for missing packages."""
