"""Check a data set's files, say how they are laid out, download them, or draw a small set in the same layout.

``check`` ends with exit code 0 if the set is whole, 1 if something is missing or damaged, and 3 if there is
no fault but a count differs from the published one. What reads the data set afterwards stops at the first
damaged record, or leaves out what ``--leave-out`` has listed.
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
    """Does what was asked for."""
    for name, default in vars(DataOptions(act=options.act)).items():
        if getattr(options, name) != default and name not in ("act", "what", *OPTIONS[options.act]):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is no option of `attngraph data {options.act}`: leave it out")
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
    """The data set that is asked for, and its folder."""
    if options.what is None:
        raise UserError(f"NAME is missing: choose from {', '.join(DATA_SETS)}")
    data_set = data_set_named(options.what)
    if options.root is None or (options.root.exists() and not options.root.is_dir()):
        raise UserError(f"--root is missing or no folder: give the folder of {data_set.title}")
    return data_set, options.root


def _make(options: DataOptions) -> int:
    check_known([options.what or ""], [SCENES], "data set to draw")
    if options.out is None:
        raise UserError("--out is missing: give the folder to write into")
    check_out(options.out)
    number, size = options.seed or 0, options.size or SIZE
    make_scenes(options.out, number, size)
    print(f"{options.out}: {', '.join(LAYOUTS)}, seed {number}, size {size}")
    return WHOLE


def _check(options: DataOptions) -> int:
    data_set, root = _named(options)
    if options.leave_out and (options.split or options.format):
        idle = "--split" if options.split else "--format"
        raise UserError(f"--leave-out lists what is damaged in all splits and formats: leave out {idle}")
    earlier = read_list(root) if options.leave_out else {}  # an error where another file has its name
    report = check(data_set, root, options.split, options.format, options.deep)
    print(report.text(), end="")
    if options.leave_out:
        unseen = {} if options.deep else {what: why for what, why in earlier.items() if is_picture(what)}
        write_list(root, unseen | report.damaged)
    return FAULTY if report.faults else OTHER_COUNTS if report.differing else WHOLE
