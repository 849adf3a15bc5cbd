"""The images of a split: pixels, or the states of a frozen image encoder, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BlipForConditionalGeneration

from experiments.datasets.example import Example
from experiments.methods.method import Vision
from experiments.models.generation import encode_images, frozen_image_states
from experiments.models.mini_blip import preprocess


class ImageStates:
    """Image states of examples by position.

    Args:
        model: the model, in place on its device.
        examples: what is looked up by position.
        vision: ``frozen``, ``trained`` or ``zero``.
        cache: folder for the states of the frozen encoder; many runs share it.
    """

    def __init__(
        self, model: BlipForConditionalGeneration, examples: Sequence[Example], vision: Vision, cache: Path
    ):
        self.model, self.vision = model, vision
        paths = list(dict.fromkeys(example.image for example in examples))
        place = {path: k for k, path in enumerate(paths)}
        self.index = torch.tensor([place[example.image] for example in examples])
        self.paths = paths
        self.states = frozen_states(model, paths, cache) if vision == "frozen" else None

    def __call__(self, positions: Tensor) -> Tensor:
        """States ``(B, N, D)`` of the examples at these positions; with gradients if vision is trained."""
        device = self.model.device
        rows = self.index[positions]
        if self.vision == "frozen":
            return self.states[rows].to(device)
        config = self.model.config.vision_config
        if self.vision == "zero":
            tokens = (config.image_size // config.patch_size) ** 2 + 1
            return torch.zeros(len(rows), tokens, config.hidden_size, device=device)
        unique, back = rows.unique(return_inverse=True)
        pixels = preprocess([self.paths[k] for k in unique.tolist()], config.image_size).to(device)
        return encode_images(self.model, pixels)[back.to(device)]


def frozen_states(model: BlipForConditionalGeneration, paths: Sequence[Path], cache: Path) -> Tensor:
    """States ``(images, N, D)`` of images under the frozen encoder, from ``cache`` if they are there.

    The file's name is a digest of the encoder's weights and of the images' names, sizes and times, so a stale file is not
    read.
    """
    digest = hashlib.sha256()
    for name, parameter in model.vision_model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    file = cache / f"{digest.hexdigest()[:24]}.safetensors"
    if file.exists():
        try:
            return load_file(file)["states"]
        except Exception:  # damaged: made again below
            pass
    size = model.config.vision_config.image_size
    states = torch.cat(
        [
            frozen_image_states(model, preprocess(paths[k : k + 256], size).to(model.device)).cpu()
            for k in range(0, len(paths), 256)
        ]
    )
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{torch.randint(2**31, ()).item()}.part")
    save_file({"states": states.contiguous()}, part)
    part.replace(file)
    return states
