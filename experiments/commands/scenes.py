"""``attngraph scenes``: generates the synthetic Scenes datasets in the official file formats."""

from __future__ import annotations

from attngraph.experiments.base.files import check_out
from attngraph.experiments.commands.options import ScenesOptions
from attngraph.experiments.data.drawn import Sizes, write_scenes


def run(options: ScenesOptions) -> int:
    """Write the datasets and print where they are."""
    check_out(options.out)
    sizes = Sizes() if options.size is None else Sizes(*[options.size] * 3)
    write_scenes(options.out, options.seed, sizes)
    print(f"{options.out}: vqa_v2, snli_ve and karpathy, seed {options.seed}")
    return 0
