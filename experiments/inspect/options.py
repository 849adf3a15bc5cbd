"""The options of the analysis commands that say what is looked at, and the source that they describe.

By default the mini-BLIP that ships with the package, on drawn scenes with their captions; or any
transformers model (``--model``), on images and texts of one's own (``--images``, ``--texts``) or on a data
set in its official files (``--data``, ``--task``). With ``--adapter`` the model has graph adapters in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.arguments import EachOnce, add_model_arguments, seed
from experiments.files import check_out
from experiments.inspect.adapted import put_in
from experiments.inspect.samples import own_samples, task_samples
from experiments.inspect.source import Source
from experiments.models import load_family
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.models.images import open_image
from experiments.models.weights import weights_digest
from experiments.progress import Progress
from experiments.shipped import unless_default
from experiments.tasks import TASKS
from experiments.tasks.task import SPLITS
from experiments.training.device import check_device

TASK, SPLIT = "caption", "validation"  # where none is given
NOT_SETTINGS = ("command", "version", "quiet", "out", "download", "batch", "strict", "device")


def add_source_arguments(
    parser: argparse.ArgumentParser,
    out: Path = Path("runs"),
    layers: str = "all",
    heads: str = "all",
    task: str = TASK,
) -> None:
    """The options that say what is looked at, and where results go.

    Args:
        parser: gets the options.
        out: the default folder.
        layers, heads, task: which ones a command takes by default, in words.
    """
    add = parser.add_argument
    add_model_arguments(parser, "Look at this transformers model")
    add(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="Put these graph adapters into the model: a cell's folder of `attngraph ablation`, or a folder "
        "that PEFT saved.",
    )
    add("--images", nargs="+", type=Path, metavar="PATH", help="Look at these image files or folders.")
    add(
        "--texts",
        type=Path,
        metavar="FILE",
        help="Read a text per line from this file, one for each image or one for all. Without it, BLIP "
        "describes the images itself, without its adapters.",
    )
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="Take data in official files, as `attngraph scenes` lays them out. Default: scenes that are "
        "drawn for the run.",
    )
    add(
        "--task",
        choices=list(TASKS),
        metavar="NAME",
        help=f"Take prompts and answers of this task: {', '.join(TASKS)}. Default: {task}.",
    )
    add(
        "--split",
        choices=SPLITS,
        metavar="NAME",
        help=f"Take this split of the data: {', '.join(SPLITS)}. Default: {SPLIT}.",
    )
    add("--examples", type=int, default=64, metavar="N", help="Look at this many examples at most.")
    add("--batch", type=int, default=16, metavar="N", help="Put this many examples into a forward pass.")
    add(
        "--layers",
        nargs="+",
        action=EachOnce,
        metavar="NAME",
        help="Look at these attention layers: names or patterns such as '*crossattention*'. Default: "
        f"{layers}.",
    )
    add(
        "--heads",
        nargs="+",
        type=int,
        action=EachOnce,
        metavar="N",
        help=f"Look at these heads. Default: {heads}.",
    )
    add(
        "--strict",
        action="store_true",
        help="Open every image before the model runs, also those that are not drawn, and stop at an "
        "unreadable one instead of leaving it out. --examples limits which.",
    )
    add("--out", type=Path, default=out, metavar="FOLDER", help="Write the results into this folder.")
    add("--device", default="cpu", metavar="NAME", help="Compute on this device: cpu, cuda, cuda:1 or mps.")
    add(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="Set the seed of scenes, choices and random numbers.",
    )


def settings_of(args: argparse.Namespace, task: str = TASK) -> dict[str, Any]:
    """What decides a command's results, for :class:`experiments.outputs.Outputs`: all options but those that
    only say where and how it runs, and digests of the weights that are looked at.

    Args:
        args: the parsed options.
        task: of the command, where none is given and none of one's own images and texts are looked at.
    """
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    settings = {"weights": weights_digest(args.model), **settings, "model": unless_default(args.model)}
    if not brings_own(args):
        settings |= {"task": args.task or task, "split": args.split or SPLIT}
    if args.adapter is not None:
        settings["adapter_weights"] = weights_digest(args.adapter)
    return json.loads(json.dumps(settings, default=str))


def brings_own(args: argparse.Namespace) -> bool:
    """Whether one's own images or texts are looked at, and no task's."""
    return bool(args.images or args.texts)


def open_source(args: argparse.Namespace, trained: bool = True) -> Source:
    """The source that the options of :func:`add_source_arguments` describe.

    Args:
        args: the parsed options.
        trained: False for the adapters of ``--adapter`` as they were before training (the model then
            computes what it does without them, unless the join is ``replace``).

    Raises:
        UserError: something is missing, damaged or out of range.
    """
    _check(args)
    family = load_family(args.model, args.download)
    samples = _samples(args, family)
    if args.strict:
        _open_all(samples)
    family.check(samples)
    adapters = {} if args.adapter is None else put_in(family, args.adapter, trained, args.seed)
    return Source(family, samples, args.batch, args.layers, args.heads, args.device, adapters=adapters)


def _check(args: argparse.Namespace) -> None:
    for name in ("examples", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.texts and args.data:
        raise UserError("--texts and --data exclude one another: the data have their own texts")
    if args.images and args.data:
        raise UserError("--images and --data exclude one another: the data have their own images")
    for name in ("task", "split"):
        if brings_own(args) and getattr(args, name):
            raise UserError(
                f"--{name} chooses among a task's data, and here you give images or texts of your own: leave "
                "it out"
            )
    reads_files = args.images or args.data or (not args.texts and TASKS[args.task or TASK].packaged)
    if args.strict and not reads_files:
        raise UserError("--strict is about image files, and none are read here: leave it out")
    check_device(args.device)
    check_out(args.out)


def _open_all(samples: Sequence[Sample]) -> None:
    for sample in Progress(samples, "opening images", leave=False, delay=1):
        try:
            if sample.image is not None:
                open_image(sample.image)
        except UserError as error:
            raise UserError(f"{error}, or leave out --strict to go on without it") from None


def _samples(args: argparse.Namespace, family: ModelFamily) -> list[Sample]:
    name = family.title if args.model is None else type(family.model).__name__
    if args.images and not family.sees:
        raise UserError(f"{name} looks at no images: leave out --images")
    if args.texts and not family.reads:
        raise UserError(f"{name} reads no texts: leave out --texts")
    if brings_own(args):
        return own_samples(args.images, args.texts)[: args.examples]
    task, split = args.task or TASK, args.split or SPLIT
    return task_samples(task, family.name, split, args.data, args.examples, args.seed)
