"""Turn an original checkpoint into a folder that ``--model`` takes, see :mod:`experiments.models.convert`."""

from __future__ import annotations

from attngraph.errors import UserError
from experiments.base.options import from_hub
from experiments.base.outputs import Outputs
from experiments.commands.options import ConvertOptions
from experiments.models.convert import ARRANGEMENTS, find_vocabulary, read_original, save_converted
from experiments.models.weights import weights_digest

NAMES = ("*.safetensors", "*config.json", "tokenizer.json")


def run(options: ConvertOptions) -> int:
    """Read, convert and write."""
    file = options.checkpoint
    if not file.is_file():
        raise UserError(f"{file}: no such file: give a checkpoint as its authors published it")
    settings = {name: getattr(options, name) for name in ("layout", "arrangement", "side", "tokenizer")}
    outputs = Outputs(options.out, "convert", {**settings, "weights": weights_digest(file)}, NAMES)
    outputs.check()
    tokenizer, download = from_hub(options.tokenizer)
    vocabulary = find_vocabulary(tokenizer, file, download)
    original = read_original(file, vocabulary, options.layout, options.arrangement)
    family = original.family
    own = family.image_side
    print(f"{file}: {original.arrangement}, {ARRANGEMENTS[original.arrangement]}")
    print(f"{original.read} tensors in the file, {original.used} in the model")
    if options.side is not None and options.side != own:
        family.resize(options.side)
        print(f"positions interpolated: {own} -> {options.side} pixels")
    outputs.save(lambda folder: save_converted(family, folder))
    return 0
