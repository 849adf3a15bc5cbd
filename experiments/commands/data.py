"""Check a data set's files, say how they are laid out, download them, or draw a small set in the same layout.

    attngraph data layout vqa2
    attngraph data fetch textcaps --root data/textcaps --split val
    attngraph data check vqa2 --root data/vqa2
    attngraph data check vqa2 --root data/vqa2 --deep --leave-out
    attngraph data make scenes --out data/drawn

``check`` ends with exit code 0 if the set is whole, 1 if something is missing or damaged, and 3 if there is
no fault but a count differs from the published one. What reads the data set afterwards stops at the first
damaged record, or leaves out what ``--leave-out`` has listed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.arguments import Between, EachOnce, did_you_mean, seed
from experiments.base.files import write_json, write_text
from experiments.base.outputs import Outputs, check_folder
from experiments.base.progress import note
from experiments.data.check import check
from experiments.data.dataset import DATA_SETS, LIST, DataSet, data_set_named, is_picture, read_list
from experiments.data.drawn import LAYOUTS, LEAST, MOST, SIZE, make_scenes
from experiments.data.hub import download, hub_reader

WHOLE, FAULTY, OTHER_COUNTS = 0, 1, 3  # exit codes of `check`
NAMES = TEXT, DETAILS = "check.txt", "check.json"
SCENES = "scenes"
MOST_JOBS = 60  # what Windows can wait for
#: Action -> the options that it takes.
OPTIONS = {
    "check": ("root", "split", "form", "deep", "jobs", "leave_out", "out"),
    "layout": (),
    "fetch": ("root", "split"),
    "make": ("out", "size", "seed"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph data``; those of another action than the one asked for are refused."""
    parser.add_argument(
        "act",
        choices=list(OPTIONS),
        metavar="ACTION",
        help="Read a data set and name what is missing or damaged (check), show which files it has, where "
        "they come from, their licence and citation (layout), download it from the Hugging Face hub where a "
        "repository is known (fetch), or draw small data sets so laid out (make).",
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="NAME",
        help=f"Take this data set: {', '.join(DATA_SETS)}. `layout` shows all without it; `make` takes "
        f"{SCENES}.",
    )
    add = parser.add_argument_group("check and fetch").add_argument
    add(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="Take this folder as the data set's: `check` reads it, `fetch` downloads into it.",
    )
    add(
        "--split",
        nargs="+",
        action=EachOnce,
        metavar="NAME",
        help="Read or download these splits only, by their official names. Default: all of each format.",
    )
    add = parser.add_argument_group("check").add_argument
    add(
        "--format",
        dest="form",
        metavar="FORMAT",
        help="Read this format only. Default: each format that has files there.",
    )
    add("--deep", action="store_true", default=None, help="Look whether every picture can be decoded.")
    add(
        "--jobs",
        type=Between(1, MOST_JOBS),
        metavar="N",
        help="Open so many pictures at a time. Default: one a core.",
    )
    add(
        "--leave-out",
        action="store_true",
        default=None,
        help=f"Write the damaged records and pictures into {LIST} in the data set's folder: whatever reads "
        "the data set leaves these out, and counts them.",
    )
    add = parser.add_argument_group("check and make").add_argument
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"Write into this folder: the drawn data sets; or every fault that was found, in {TEXT} and "
        f"{DETAILS}.",
    )
    add = parser.add_argument_group("make").add_argument
    add(
        "--size",
        type=Between(LEAST, MOST),
        metavar="N",
        help="Draw so many questions, pairs or images with captions for training in each data set, a fifth "
        f"as many for validation and a third as many for test. Default: {SIZE}.",
    )
    add("--seed", type=seed, metavar="N", help="Set the seed of the scenes and their texts. Default: 0.")


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    for names in OPTIONS.values():
        for name in names:
            if getattr(args, name) is not None and name not in OPTIONS[args.act]:
                option = "--format" if name == "form" else f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is no option of `attngraph data {args.act}`: leave it out")
    return {"check": _check, "layout": _layout, "fetch": _fetch, "make": _make}[args.act](args)


def _layout(args: argparse.Namespace) -> int:
    shown = DATA_SETS.values() if args.what is None else [data_set_named(args.what)]
    print(f"\n{'-' * 100}\n\n".join(data_set.layout() for data_set in shown), end="")
    return WHOLE


def _fetch(args: argparse.Namespace) -> int:
    data_set, root = _named(args)
    if root.exists() and not root.is_dir():
        raise UserError(f"--root {root} is no folder: give the one to download into")
    splits = args.split or hub_reader(data_set, None).splits
    for split in splits:
        hub_reader(data_set, split)  # an unknown one is refused before any is downloaded
    for split in splits:
        print(download(data_set, root, split))
    return WHOLE


def _named(args: argparse.Namespace) -> tuple[DataSet, Path]:
    """The data set that is asked for, and its folder."""
    if args.what is None:
        raise UserError(f"NAME is missing: choose from {', '.join(DATA_SETS)}")
    data_set = data_set_named(args.what)
    if args.root is None:
        raise UserError(f"--root is missing: give the folder of {data_set.title}")
    return data_set, args.root


def _make(args: argparse.Namespace) -> int:
    if args.what != SCENES:
        given = "NAME is missing" if args.what is None else f"NAME: {args.what!r} cannot be made"
        near = did_you_mean(args.what or "", [SCENES])
        raise UserError(f"{given}{near}: give `attngraph data make {SCENES}`")
    if args.out is None:
        raise UserError("--out is missing: give the folder to write into")
    check_folder(args.out, "data make")
    number, size = args.seed or 0, args.size or SIZE
    make_scenes(args.out, number, size)
    print(f"{args.out}: {', '.join(LAYOUTS)}, seed {number}, size {size}")
    return WHOLE


def _check(args: argparse.Namespace) -> int:
    data_set, root = _named(args)
    if args.out is not None and args.out.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--out {args.out}: lies in the data set's folder, where nothing is written; give another"
        )
    if args.leave_out and (args.split or args.form):
        raise UserError(
            f"--leave-out lists what is damaged in all splits and formats: leave out "
            f"{'--split' if args.split else '--format'}"
        )
    earlier = read_list(root) if args.leave_out else {}  # an error where another file has its name
    settings = {
        "data": data_set.name,
        "root": str(root),
        "split": args.split,
        "format": args.form,
        "deep": bool(args.deep),
    }
    outputs = None if args.out is None else Outputs(args.out, "data check", settings, NAMES)
    if outputs is not None:
        outputs.check()
    jobs = args.jobs or min(MOST_JOBS, os.cpu_count() or 1)
    report = check(data_set, root, args.split or (), args.form, bool(args.deep), jobs, bool(args.leave_out))
    print(report.text(data_set), end="")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            write_text(part / TEXT, report.text(data_set, shown=None))
            write_json(part / DETAILS, report.json())
        note(f"saved: {', '.join(str(args.out / name) for name in NAMES)}")
    if args.leave_out:
        unseen = {} if args.deep else {what: why for what, why in earlier.items() if is_picture(what)}
        _leave_out(unseen | report.damaged, root)
    return FAULTY if report.faults else OTHER_COUNTS if report.differs else WHOLE


def _leave_out(damaged: dict[str, str], root: Path) -> None:
    """Write the list of what is damaged; remove it where nothing is."""
    file = root / LIST
    try:
        if damaged:
            write_json(file, damaged, ensure_ascii=False)
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror or error}): check your rights to the folder"
        ) from None
    note(f"{file}: what is left out from now on ({len(damaged):,})")
