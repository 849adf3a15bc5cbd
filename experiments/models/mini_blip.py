"""mini-BLIP: Hugging Face's BLIP captioner (ViT encoder, text decoder with cross-attention), small."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.models.images import open_image
from experiments.models.original.vocabulary import in_folder
from experiments.models.weights import misfits
from experiments.shipped import CHECKPOINTS, DEFAULT, again, shipped_folder

CHECKPOINT = CHECKPOINTS / DEFAULT
DESCRIBE = "what does the image describe ?"  # the prompt of captions in pre-training
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # BLIP's own image statistics
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    width: int = 128,
    vision_layers: int = 4,
    text_layers: int = 4,
    heads: int = 4,
) -> BlipForConditionalGeneration:
    """A freshly initialised mini-BLIP for 64x64 images in patches of 8 (65 image states).

    Args:
        tokenizer: from ``build_tokenizer``; gives the vocabulary and the ids of the start and end tokens.
        width: hidden width of both towers; the feed-forward width is 4 times this.
        vision_layers, text_layers: depth of the image encoder and of the text decoder.
        heads: attention heads in both towers.
    """
    end = tokenizer.sep_token_id
    shared = dict(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads, projection_dim=width
    )
    text = dict(
        shared,
        encoder_hidden_size=width,
        num_hidden_layers=text_layers,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        sep_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    # initializer_range: BLIP's default of 1e-10 is for weights that are loaded; nothing is learnt from it.
    vision = dict(
        shared,
        num_hidden_layers=vision_layers,
        image_size=64,
        patch_size=8,
        initializer_range=0.02,
    )
    config = BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        positions = model.vision_model.embeddings.position_embedding
        positions[0, 1:] = grid_positions(vision["image_size"] // vision["patch_size"], width)
    return model


def grid_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column: what the position embeddings start from.

    From BLIP's own start (noise of 0.02) a model this small never learnt left from right: its patch
    embeddings outgrow the positions before any text rewards them.

    Row ``r`` and column ``c`` each give ``width / 4`` sines and cosines, of ``r / 10000^(4k / width)``
    for ``k`` in ``0 .. width / 4 - 1`` (Vaswani et al. 2017, for two dimensions).

    Args:
        side: patches along a side of the image.
        width: hidden width, a multiple of 4.

    Returns:
        float32 tensor ``(side * side, width)``, in the order of the patches (row by row).
    """
    rates = 10000.0 ** -(torch.arange(width // 4) * 4 / width)
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


def load_model(
    path_or_name: str | Path | None = None, allow_download: bool = False
) -> tuple[BlipForConditionalGeneration, PreTrainedTokenizerBase]:
    """A BLIP captioner and its tokenizer, in float32, in evaluation mode, with eager attention.

    Args:
        path_or_name: None for the mini-BLIP that ships with this package, a local folder, or a hub name of
            any BLIP captioner such as "Salesforce/blip-image-captioning-base".
        allow_download: look on the hub for what is not on this machine. Off by default: no network is used.

    Raises:
        UserError: the checkpoint is missing, damaged, or not a BLIP captioner in safetensors.
    """
    source = str(CHECKPOINT if path_or_name is None else path_or_name)
    is_folder = path_or_name is None or os.path.isdir(source)
    shipped = path_or_name is None
    remedy = (
        again(DEFAULT)
        if shipped
        else "check the folder (config.json, model.safetensors, tokenizer.json)"
        if is_folder
        else "check the name and the network"
        if allow_download
        else "give an existing folder, or allow the download (--download)"
    )
    if is_folder:
        missing = [
            f for f in ("config.json", "tokenizer.json") if not os.path.isfile(os.path.join(source, f))
        ]
        if not any(Path(source).glob("*.safetensors")):
            missing.append("model.safetensors")
        if missing:
            raise UserError(f"checkpoint {source}: {', '.join(missing)} missing; {remedy}")
    try:
        options = dict(local_files_only=is_folder or not allow_download)
        config = BlipConfig.from_pretrained(source, **options)
        if config.to_dict().get("model_type") != "blip":
            raise ValueError("not a BLIP model")
        model, report = BlipForConditionalGeneration.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # whatever is wrong with the files means the same to the user
        raise UserError(f"checkpoint {source} cannot be loaded ({first_line(error)}); {remedy}") from error
    wrong = misfits(model, report)
    if wrong:
        raise UserError(f"checkpoint {source}: {wrong}; {remedy}")
    _set_special_tokens(model, tokenizer, source, remedy)
    return model.eval(), tokenizer


def weights_digest(path_or_name: str | Path | None = None) -> str:
    """A digest of a checkpoint folder's weights, configuration, tokenizer and processor (None or a name of
    :mod:`experiments.shipped`: a shipped folder), or of an original checkpoint and the vocabulary next
    to it; a hub name stands for itself.
    """
    folder = shipped_folder(path_or_name) or Path(str(path_or_name))
    if folder.is_file():
        return _digest(_dated(filter(None, (folder, in_folder(folder.parent)))))
    patterns = ("*.safetensors", "*config.json", "tokenizer.json", "chat_template*")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern)) if folder.is_dir() else []
    return _digest(_dated(files)) if files else str(path_or_name)


def _dated(files: Iterable[Path]) -> tuple[tuple[Path, int], ...]:
    return tuple((file, file.stat().st_mtime_ns) for file in files)


@cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _ in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]


def _set_special_tokens(model, tokenizer, source: str, remedy: str) -> None:
    """Give hub tokenizers BLIP's [DEC] start token, and the decoder its real end token ([SEP])."""
    text = model.config.text_config
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if tokenizer.bos_token_id != text.bos_token_id or tokenizer.sep_token_id != text.sep_token_id:
        raise UserError(
            f"checkpoint {source}: the tokenizer's start or end token is not the model's; {remedy}"
        )
    if len(tokenizer) > text.vocab_size:
        raise UserError(
            f"checkpoint {source}: the tokenizer has {len(tokenizer)} tokens, "
            f"the model {text.vocab_size}; {remedy}"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.max_position_embeddings)
    text.eos_token_id = text.sep_token_id


def preprocess(
    images: Sequence[Image.Image | str | Path],
    image_size: int = 64,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
) -> Tensor:
    """Images to BLIP's normalised pixels.

    Args:
        images: PIL images or paths of image files.
        image_size: side length to resize to: ``model.config.vision_config.image_size``.
        mean, std: of each colour, by which pixels are normalised.

    Returns:
        float32 tensor ``(B, 3, image_size, image_size)``.

    Raises:
        UserError: a file is missing or is no picture, or its pixels' range is not known.
    """
    return normalise(torch.from_numpy(np.stack([_read(image, image_size) for image in images])), mean, std)


def normalise(pixels: Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD) -> Tensor:
    """uint8 ``(B, height, width, 3)`` to normalised float32 ``(B, 3, height, width)``."""
    return ((pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def _read(image: Image.Image | str | Path, image_size: int) -> np.ndarray:
    image = open_image(image)
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)
