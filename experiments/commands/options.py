"""What can be asked of each command: one dataclass for each, from which its parser and its help are made.

They stand together, apart from the commands, so that ``attngraph COMMAND --help`` imports no package but the
standard library. Names that registries know (tasks, methods, data sets) are checked where the command runs.
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

RUN = "Take the trained model of this folder, a run's."
SETTINGS = "Take the settings of this file, as `attngraph search` and `sweep` write it, before all others."
SEVERAL = "Run every row with this many seeds, or with those of FIRST-LAST. Default: as the file says."


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Train and score one experiment, which a YAML file describes."""

    experiment: str | None = argument(
        f"Run the experiment of this YAML file, or one of these: {described('experiment')}.", "FILE", None
    )
    changes: tuple[str, ...] = option(
        "Put this value in the place of the file's, such as recipe.learning_rate=1e-3 (repeatable).",
        fields=FIELDS | {word: word for word in ("method", "task", "seed")} | {"gnn": "method"},
        **SET,
    )
    out: Path = option("Write the run into cells/METHOD/TASK/seedN of this folder.", Path("runs/train"))
    track: tuple[Literal["tensorboard", "wandb", "mlflow", "none"], ...] = option(
        "Show the run's curves in these: tensorboard, wandb, mlflow, or none.", ("tensorboard",)
    )
    dry_run: bool = option(
        "Show the file with all decided, try its settings on the model, run nothing.", False
    )


@dataclass(frozen=True, kw_only=True)
class AblationOptions(RowsOptions):
    """Train and score the GNN ablation table."""

    preset: str = option(f"Run this preset: a YAML file, or one of these: {described('preset')}.", "quick")
    seeds: Seeds | None = option(SEVERAL, metavar="N")
    settings: Path | None = option(SETTINGS, metavar="FILE")
    out: Path | None = option("Write the runs and tables into this folder. Default: runs/ablation-PRESET.")


@dataclass(frozen=True, kw_only=True)
class TableOptions(RowsOptions):
    """Make a table of the paper: main, gnn and the smaller ones, on drawn or on official data."""

    name: str = argument(f"Make this table: a YAML file, or one of these: {described('table')}.", "TABLE")
    size: str = option(f"Run this much of it: a YAML file, or one of these: {described('size')}.", "scenes")
    seeds: Seeds | None = option(SEVERAL, metavar="N")
    settings: Path | None = option(SETTINGS, metavar="FILE")
    out: Path | None = option(
        "Write the runs, and the table in a folder of its name, into this folder. Default: runs/tables-SIZE."
    )


@dataclass(frozen=True, kw_only=True)
class SweepOptions(RowsOptions):
    """Choose the learning rate of each row of a table on validation data."""

    name: str = argument("Take the rows and tasks of this table, as `attngraph table` does.", "TABLE")
    size: str = option("Take the budgets and rates of this size of it.", "scenes")
    out: Path | None = option(
        "Write runs, settings.yaml, sweep.csv and sweep.md into this folder. Default: runs/tables-SIZE."
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(GridOptions):
    """Choose learning rates, joins and scheme arguments on validation data."""

    preset: str = option("Take budgets, data and checkpoints of this preset: a name or a YAML file.", "full")
    out: Path = option(
        "Write runs, what was tried and what was chosen into this folder.", Path("runs/search")
    )


@dataclass(frozen=True, kw_only=True)
class SignificanceOptions:
    """Recompute every comparison and p value of a table from its raw results."""

    source: Path = argument(
        "Read a table's folder with cells, or with their archives (seed-*.tar.xz).", "FOLDER"
    )
    baseline: Names = option("Compare with these rows, separated by commas.", ("gcn",))
    rows: Names | None = option(
        "Compare these rows; Holm's correction is over them. Default: the GNN adapters and pGNN's controls."
    )
    columns: Names | None = option("Compare in these columns, such as vqa.accuracy. Default: all.")
    margin: float | None = option(
        "Also test whether rows are equivalent: whether they differ by fewer points than this (two one-sided "
        "tests).",
        metavar="POINTS",
    )
    out: Path | None = option("Write the comparisons into this folder. Default: they are printed only.")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Put tables, significance and costs of finished runs on one page."""

    runs: tuple[Path, ...] = argument("Read these folders: of tables, single runs, or archives.", "FOLDER")
    out: Path = option("Write report.html into this folder.", ...)
    baseline: str | None = option("Compare all rows with this one. Default: GNN adapters with gcn.")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DeviceOptions):
    """Score a finished run on another split, on other data, or with another way to answer."""

    folder: Path = argument(RUN, "RUN")
    data: Path | None = option("Read the data from this folder. Default: the run's own.")
    split: Split | None = option("Take this split: train, validation or test. Default: the run's own.")
    changes: tuple[str, ...] = option(
        "Set how answers come about, by answering, decoding, ranking or eval_examples, such as "
        "decoding.num_beams=5 (repeatable).",
        **SET,
    )
    out: Path | None = option(
        "Write scores and predictions into this folder. Default: scores are printed only."
    )


@dataclass(frozen=True, kw_only=True)
class PredictOptions(DeviceOptions):
    """Answer with a finished run: one question, a file of them, or a split for a server."""

    folder: Path = argument(RUN, "RUN")
    image: Path | None = option("Look at this picture, and print the answer.", metavar="PICTURE")
    text: str | None = option("Put this question or statement about the picture of --image.", metavar="WORDS")
    file: Path | None = option(
        "Add answers to the records of this JSON or JSON Lines file, which have image and text.",
        metavar="RECORDS",
    )
    data: Path | None = option("Read the data from this folder. Default: the run's own, where needed.")
    split: str | None = option(
        "Answer this split, an official one of tasks on official files. Default: test."
    )
    format: str | None = option(
        "Read this format of official files, as `attngraph data check` names them: official for the server's "
        "test split of vqa2. Default: the one that the task is scored on, else the first that has files.",
        metavar="FORMAT",
    )
    out: Path | None = option("Write results.json of a split, or answers.json, into this folder.")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Score a file of predictions, of this or another program, with a task's own metric."""

    predictions: Path = argument("Read predictions from this JSON file.", "FILE")
    task: str = option("Take the examples, format and metric of this task, such as vqa2.", ...)
    data: Path | None = option("Read the data from this folder. Tasks of a package need none.")
    split: Split = option("Take this split of the data: train, validation or test.", "test")
    allow_empty: bool = option("Take empty answers as answers, as the evaluators do.", False)
    out: Path | None = option(
        "Write scores and results.json into this folder. Default: scores are printed only."
    )


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Pre-train a small model from scratch on drawn scenes."""

    model: Literal["mini-blip", "mini-mplug"] = option("Train mini-blip or mini-mplug.", "mini-blip")
    out: Path | None = option("Write the checkpoint into this folder. Default: runs/MODEL.")
    steps: Annotated[int, Between(1, 10**9)] | None = option(
        "Take this many optimiser steps. Default: those of the shipped checkpoint."
    )
    seed: Seed = option("Set the seed of the weights and of the scenes.", 0)
    device: str = option("Compute on this device: cpu or cuda.", "cpu")
    check: bool = option(
        "Train nothing: score the checkpoint of --out, or the shipped one, and compare with its scores.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Check, lay out and draw data sets in the official files of six benchmarks."""

    act: Literal["check", "layout", "fetch", "make"] = argument(
        "Name what is missing or damaged in a data set (check), show its files and where they come from "
        "(layout), download it from the Hugging Face hub (fetch), or draw small ones (make).",
        "ACTION",
    )
    what: str | None = argument("Take this data set, such as vqa2; `make` takes scenes.", "NAME", None)
    root: Path | None = option("Read the data set in this folder, or download it there.")
    split: tuple[str, ...] = option("Take these splits only, by their official names. Default: all.", ())
    format: str | None = option("Check this format. Default: each that has files there.", metavar="FORMAT")
    deep: bool = option("Check whether every picture can be decoded.", False)
    leave_out: bool = option(
        "List damaged records and pictures in damaged.json in the data set's folder: whatever reads the data "
        "set leaves these out, and counts them.",
        False,
    )
    out: Path | None = option("Write the data sets that `make` draws into this folder.")
    size: Annotated[int, Between(10, 1_000_000)] | None = option(
        "Draw so many questions, pairs or images for training, a fifth as many for validation and a third as "
        "many for test. Default: 3000."
    )
    seed: Seed | None = option("Set the seed of the scenes and their texts. Default: 0.")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Turn an original checkpoint into a folder that --model takes."""

    layout: Literal["blip", "mplug"] = argument("Read a checkpoint of these authors: blip, mplug.", "KIND")
    checkpoint: Path = argument("Read this file, such as model_base_capfilt_large.pth.", "FILE")
    out: Path = option("Write the model and its tokenizer into this folder.", ...)
    arrangement: Literal["captioner", "vqa", "whole"] | None = option(
        "Make this of it: captioner (image encoder and text decoder, as p-Adapter has it for all tasks), vqa "
        "(with a question encoder, as BLIP has it for questions), or whole (mPLUG). Default: of BLIP vqa "
        "where the file is one for questions, else captioner; of mPLUG whole.",
        flag="--as",
    )
    side: Annotated[int, Between(1, 4096)] | None = option(
        "Interpolate positions for pictures of this side. Default: the file's own.", metavar="PIXELS"
    )
    tokenizer: str | None = option(
        "Take the vocabulary from this file, folder or hub name (hub:NAME fetches it). Default: what lies "
        "next to the checkpoint, else google-bert/bert-base-uncased.",
        metavar="PLACE",
    )


@dataclass(frozen=True, kw_only=True)
class ParametersOptions(ModelOptions):
    """Count what methods train: how many parameters, where, and their share of the model."""

    methods: Names | None = argument(
        "Take these methods, separated by commas. Default: those of the main table.", "NAME", None
    )
    base: bool = option("Take BLIP-base at full size, without weights.", False)
    reduction: Annotated[int, Between(1, 100_000)] | None = option(
        "Divide the model's width by this for adapters' bottlenecks. Default: as chosen on validation data; "
        "with --base 8, the paper's.",
        metavar="FACTOR",
    )


Count = Annotated[int, Between(1, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """Draw the Scenes data sets and write them in the official file formats."""

    out: Path = option("Write into this folder. It must be new or empty, or hold the same data.", ...)
    seed: Seed = option("Set the seed of the scenes and their texts.", 0)
    size: tuple[Count, Count, Count] | None = option(
        "Draw so many questions, hypotheses and images with captions for training, validation and test. "
        "Default: 4000 800 1600 questions, 3600 600 1200 hypotheses, 1200 400 600 images.",
        metavar=("TRAIN", "VALIDATION", "TEST"),
    )


@dataclass(frozen=True, kw_only=True)
class HeterophilyOptions(LookOptions):
    """Measure the heterophily of attention graphs per layer and head, beside what chance gives."""

    out: Path = option("Write the results into this folder.", Path("runs/heterophily"))
    labels: tuple[Word, ...] = option(
        "Measure by these classes of tokens, too: JSON files {token: class}, whose names are the labels' "
        "names; and spacy:NAME for the parts of speech of this spaCy pipeline. Without one, only those of "
        "the drawn scenes' words are known.",
        (),
        "FILE",
    )
    regions: Path | None = option(
        "Take what the words name in pictures of your own from this JSON file of boxes (docs/statistics.md).",
        metavar="FILE",
    )
    clusters: Annotated[int, Between(0, 512)] = option(
        "Label the nodes by this many clusters (k-means over queries and values); 0 for none.", 8, "K"
    )
    p: float = option("Measure the p-Dirichlet energy and pGNN's closed form with this p.", 1.5)
    spectra: bool = option("Measure the energy over the spectrum, too, which decomposes every graph.", False)


@dataclass(frozen=True, kw_only=True)
class TsneOptions(LookOptions):
    """Draw the projected query and value spaces of attention layers."""

    layers: tuple[str, ...] = option(
        "Look at these attention layers: names or patterns such as '*crossattention*'; '*' takes all. "
        "Default: the last cross-attention layer and the self-attention layer before it.",
        (),
    )
    heads: tuple[int, ...] = option(
        "Look at these heads, each on a map of its own. Default: all in one space, as after W_o.", ()
    )
    out: Path = option("Write the results into this folder.", Path("runs/tsne"))
    points: Annotated[int, Between(3, LARGEST)] = option("Draw at most this many points on each map.", 3000)
    method: Literal["tsne", "umap", "pca"] = option(
        "Make the maps by this method: tsne, umap, pca; umap needs the package umap-learn.", "tsne"
    )
    perplexity: tuple[float, ...] = option(
        "Make a map for each of these perplexities (UMAP's numbers of neighbours). Default: 30.", (), "P"
    )
    colour: tuple[Literal["role", "modality", "class", "token", "example"], ...] = option(
        "Draw a figure for each of these labels: role, modality, class, token, example.", ("role",), "LABEL"
    )


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(LookOptions):
    """Draw where a model looks: attention, rollout, gradient-weighted relevance on the picture."""

    task: str | None = option(
        "Take prompts and answers of this task, such as vqa2. Default: questions about one object."
    )
    examples: Positive = option("Look at this many examples at most.", 256)
    batch: Positive = option("Put this many examples into a forward pass.", 8)
    layers: tuple[str, ...] = option(
        "Show these attention layers in the viewer: names or patterns such as '*crossattention*'; raw "
        "attention is read from the last that leads to the image. Default: those that lead to the image.",
        (),
    )
    out: Path = option("Write the results into this folder.", Path("runs/attention"))
    tokens: tuple[str, ...] = option(
        "Draw the maps of these tokens: first (the first that sees the image), answer (from which the "
        "answer's first token is predicted), last, or numbers of tokens from 0. Default: first, and answer "
        "where it is known, else a decoder's last.",
        (),
        "TOKEN",
    )
    pictures: Positive = option("Draw this many examples.", 4)


@dataclass(frozen=True, kw_only=True)
class PlantedOptions:
    """Train every scheme on planted graphs, where theory says who wins."""

    preset: Literal["direction", "cues"] = option(
        "Graphs: direction (relevant values differ from distractors in direction only) or cues (also in "
        "attention weight, degree or length).",
        "direction",
    )
    seeds: Annotated[int, Between(2, 100)] | None = option(
        "Train with this many seeds, from 0 on. Default: 10, with --quick 3."
    )
    join: Literal["replace", "blend"] = option(
        "Join the schemes' output to the attention output in this way: replace or blend.", "replace"
    )
    quick: bool = option("Run few conditions with short training, to see whether everything runs.", False)
    out: Path = option("Write the results into this folder.", Path("runs/planted"))


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
    dry_run: bool = option("List the runs, and which of them have scores already; run nothing.", False)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the methods, tasks, models, tables or schemes, one on each line.

    Examples: `attngraph list methods`, `attngraph --plugin mine.py list tasks`.
    """

    what: Literal["methods", "tasks", "models", "tables", "schemes"] = argument(
        "List these: methods (rows of tables), tasks, models, tables or schemes (of graph adapters).", "WHAT"
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure speed and memory against attention itself and against peers."""

    only: tuple[str, ...] = option("Run only these benchmarks. Default: all.", ())
    quick: bool = option("Run tiny sizes, to see whether everything runs, not how fast.", False)
    out: Path = option("Write the results into this folder.", Path("runs/bench"))


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Print versions and devices, and look for what is missing."""
