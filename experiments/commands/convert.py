"""Convert an original checkpoint into a folder for ``--model``, see
:mod:`attngraph.experiments.models.convert`.
"""

from __future__ import annotations

from attngraph.errors import UserError
from attngraph.experiments.base.options import from_hub
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import ConvertOptions
from attngraph.experiments.models.convert import ARRANGEMENTS, BERT, read_original, save_converted
from attngraph.experiments.models.weights import in_folder, weights_digest

NAMES = ("*.safetensors", "*config.json", "tokenizer.json")


def run(options: ConvertOptions) -> int:
    """Read, convert and write."""
    file = options.checkpoint
    if not file.is_file():
        raise UserError(f"{file}: no such file: provide a checkpoint as published by its authors")
    settings = {name: getattr(options, name) for name in ("layout", "arrangement", "side", "tokenizer")}
    outputs = Outputs(options.out, "convert", {**settings, "weights": weights_digest(file)}, NAMES)
    outputs.check()
    tokenizer, download = from_hub(options.tokenizer)
    if tokenizer is None:
        tokenizer = file.parent if in_folder(file.parent) else BERT
    family, arrangement = read_original(file, tokenizer, options.layout, options.arrangement, download)
    own = family.image_side
    print(f"{file}: {arrangement}, {ARRANGEMENTS[arrangement][1]}")
    if options.side is not None and options.side != own:
        family.resize(options.side)
        print(f"positions interpolated: {own} -> {options.side} pixels")
    outputs.save(lambda folder: save_converted(family, folder))
    return 0
