"""Check a dataset's files, describe their layout, download them, or generate a small dataset in the same
layout.

``check`` ends with exit code 0 if the dataset is complete, 1 if something is missing or damaged, and 3 if
there is no fault but a count differs from the published one. Commands that read the dataset stop at the first
damaged record, or skip the records listed by ``--leave-out``.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.commands.options import DataOptions
from attngraph.experiments.data.check import check
from attngraph.experiments.data.dataset import (
    DATA_SETS,
    DataSet,
    data_set_named,
    is_picture,
    read_list,
    write_list,
)
from attngraph.experiments.data.drawn import LAYOUTS, SIZE, make_scenes
from attngraph.experiments.data.hub import download

WHOLE, FAULTY, OTHER_COUNTS = 0, 1, 3  # exit codes of `check`
SCENES = "scenes"
#: Action -> the options that it takes.
OPTIONS = {
    "check": ("root", "split", "format", "deep", "leave_out"),
    "layout": (),
    "fetch": ("root", "split"),
    "make": ("out", "size", "seed"),
}


def run(options: DataOptions) -> int:
    """Perform the action."""
    for name, default in vars(DataOptions(act=options.act)).items():
        if getattr(options, name) != default and name not in ("act", "what", *OPTIONS[options.act]):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is not an option of `attngraph data {options.act}`: remove it")
    return {"check": _check, "layout": _layout, "fetch": _fetch, "make": _make}[options.act](options)


def _layout(options: DataOptions) -> int:
    shown = DATA_SETS.values() if options.what is None else [data_set_named(options.what)]
    print(f"\n{'-' * 100}\n\n".join(data_set.layout() for data_set in shown), end="")
    return WHOLE


def _fetch(options: DataOptions) -> int:
    data_set, root = _named(options)
    for file in download(data_set, root, options.split):
        print(file)
    return WHOLE


def _named(options: DataOptions) -> tuple[DataSet, Path]:
    """The dataset and its folder."""
    if options.what is None:
        raise UserError(f"missing argument NAME: choose from {', '.join(DATA_SETS)}")
    data_set = data_set_named(options.what)
    if options.root is None or (options.root.exists() and not options.root.is_dir()):
        raise UserError(f"--root is missing or not a folder: use the folder of {data_set.title}")
    return data_set, options.root


def _make(options: DataOptions) -> int:
    check_known([options.what or ""], [SCENES], "synthetic dataset")
    if options.out is None:
        raise UserError("--out is missing: name the output folder")
    check_out(options.out)
    number, size = options.seed or 0, options.size or SIZE
    make_scenes(options.out, number, size)
    print(f"{options.out}: {', '.join(LAYOUTS)}, seed {number}, size {size}")
    return WHOLE


def _check(options: DataOptions) -> int:
    data_set, root = _named(options)
    if options.leave_out and (options.split or options.format):
        idle = "--split" if options.split else "--format"
        raise UserError(f"--leave-out lists damaged records of all splits and formats: remove {idle}")
    earlier = read_list(root) if options.leave_out else {}  # an error where another file has its name
    report = check(data_set, root, options.split, options.format, options.deep)
    print(report.text(), end="")
    if options.leave_out:
        unseen = {} if options.deep else {what: why for what, why in earlier.items() if is_picture(what)}
        write_list(root, unseen | report.damaged)
    return FAULTY if report.faults else OTHER_COUNTS if report.differing else WHOLE
