"""Conversion of original checkpoints, as published by their authors: BLIP (Li et al., 2022,
https://github.com/salesforce/BLIP) and mPLUG (Li et al., 2022, https://github.com/X-PLUG/mPLUG).

BLIP's have a ``visual_encoder``, a ``text_decoder`` and, for questions and in pre-training, a
``text_encoder``. mPLUG's ``visual_encoder`` is the whole of OpenAI's CLIP, whose text tower is not used;
``visn_*`` projects image features to the texts' width if it differs (ViT-L); of the twelve layers of the
``fusion_encoder`` the last six are executed, and only parts of these (see :func:`_mplug`). The names are
those of the published code; the conversion has not been tested with released files.

Tensors are renamed, those used only in pre-training are dropped, and the others are loaded strictly. Shapes
determine all sizes except the number of heads: a head has 64 features in ViT-B, ViT-L and BERT. The files do
not contain a vocabulary: BERT's is read from the checkpoint's folder, from a given place, or from the hub's
cache.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.models.blip import (
    DECODER_START,
    ENCODER_START,
    BlipAnswerer,
    BlipCaptioner,
    BlipLike,
)
from attngraph.experiments.models.mplug import MPlug
from attngraph.experiments.models.mplug.modeling import STRIDES, sizes
from attngraph.experiments.models.weights import VOCABULARY, in_folder, quiet_transformers

#: Architectures for conversion, with descriptions.
ARRANGEMENTS: dict[str, tuple[type[BlipLike], str]] = {
    "captioner": (
        BlipCaptioner,
        "image encoder and text decoder, as in p-Adapter for all tasks and in BLIP for captions",
    ),
    "vqa": (BlipAnswerer, "image encoder, question encoder and answer decoder, as in BLIP for questions"),
    "whole": (
        MPlug,
        "image encoder, text encoder, their fusion and text decoder, for questions and captions",
    ),
}
PLACES = ("model", "module", "state_dict")  # under which training programs keep the weights
HEAD = 64  # width of a head
NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT = "google-bert/bert-base-uncased"
EMBEDDINGS = "text_decoder.bert.embeddings"
PREDICTIONS = "text_decoder.cls.predictions"
#: Heads, queues and momentum copies of pre-training, and buffers.
LEFT_OUT = (
    r"(itm_head|vision_proj|text_proj|(text|fusion)_encoder\.cls)\..+|temp|(image|text)_queue|"
    r"(queue|idx|ptr)_(ptr|queue)|\w+_m\..+|.+\.position_ids"
)
BLIP_NAMES = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.": "vision_model.embeddings.patch_embedding.",
    "visual_encoder.norm.": "vision_model.post_layernorm.",
    "visual_encoder.blocks.": "vision_model.encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    # The output layer's bias has two names. transformers shares them the other way round.
    f"{PREDICTIONS}.decoder.bias": f"{PREDICTIONS}.bias",
}
MPLUG_NAMES = {
    "visual_encoder.visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual_encoder.visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual_encoder.visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual_encoder.visual.ln_pre.": "vision_model.pre_layernorm.",
    "visual_encoder.visual.ln_post.": "vision_model.post_layernorm.",
    "visual_encoder.visual.transformer.resblocks.": "vision_model.encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    "visn_fc.": "vision_model.projection.dense.",
    "visn_layer_norm.": "vision_model.projection.norm.",
}

Tensors = dict[str, Tensor]


def read_original(
    file: Path,
    vocabulary: str | Path,
    kind: str | None = None,
    arrangement: str | None = None,
    download: bool = False,
) -> tuple[BlipLike, str]:
    """The model family of a checkpoint, in float32 and evaluation mode, and its architecture, one of
    :data:`ARRANGEMENTS`.

    Args:
        file: the file published by the authors.
        vocabulary: BERT's, see :func:`make_tokenizer`.
        kind: origin, one of :data:`KINDS`; None to detect it.
        arrangement: one of :data:`ARRANGEMENTS`; None to detect it from the tensors.
        download: whether the vocabulary may be downloaded from the hub.

    Raises:
        UserError: the file is not a checkpoint of these authors, or it cannot be converted to this
            architecture.
    """
    tensors = read_tensors(file)
    _, convert, own = KINDS[_kind_of(tensors, file, kind)]
    try:
        count, longest = (
            len(tensors[f"{EMBEDDINGS}.{name}_embeddings.weight"]) for name in ("word", "position")
        )
        tokenizer = make_tokenizer(vocabulary, count, longest, own, download)
        arrangement, config, state = convert(tensors, arrangement, tokenizer)
        family = ARRANGEMENTS[arrangement][0]
        weights = {name: x.to(torch.float32, copy=True).contiguous() for name, x in state.items()}
        with quiet_transformers():
            model, told = family.kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,  # they are an error below, which names one
                output_loading_info=True,
            )
        if told["mismatched_keys"]:
            name, found, size = min(told["mismatched_keys"])
            raise ValueError(f"{name} has shape {tuple(found)}, not {tuple(size)}")
        wrong = sorted({*told["missing_keys"], *told["unexpected_keys"]})
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing or unknown, first {wrong[0]}")
        for name, tensor in model.state_dict().items():
            if name in weights and not torch.equal(tensor, weights[name]):
                raise ValueError(f"{name} differs from the tensor that it is tied to in the model")
    except KeyError as error:
        raise UserError(f"{file}: {error.args[0]} is missing: use another checkpoint") from None
    except UserError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{file}: {first_line(error)}: use another checkpoint, or another --as") from None
    model.config.architectures = [type(model).__name__]
    model.name_or_path = model.config.name_or_path = ""  # else "None", PEFT's name on the hub
    return family(model.eval(), tokenizer), arrangement


def read_tensors(file: Path) -> Tensors:
    """The weights of a checkpoint by name.

    They are stored under one of ``PLACES``, next to other content such as an optimiser's state, or are the
    whole file. Only tensors and plain values are unpickled (``weights_only=True``); a file in PyTorch's
    current format is memory-mapped, so that unused tensors are not read from the disk.

    Raises:
        UserError: the file cannot be read, is not a checkpoint, is truncated, or contains other objects.
    """
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}: check the path and its permissions") from None
    except Exception:  # pickles fail in many ways; PyTorch's messages advise to load the file unsafely
        raise UserError(
            f"{file}: not a PyTorch checkpoint, or truncated, or with Python objects other than tensors, "
            "which reading would execute: download it again, or ask its author for a file with tensors only"
        ) from None
    if isinstance(content, dict):
        content = next((content[place] for place in PLACES if place in content), content)
    values = content.items() if isinstance(content, dict) else ()
    if not values or not all(isinstance(key, str) and isinstance(x, Tensor) for key, x in values):
        raise UserError(
            f"{file}: does not contain a state_dict: use a checkpoint with a model's state_dict as the whole "
            f"file or under {', '.join(PLACES)}"
        )
    return dict(content)


def kind_of(file: Path) -> str:
    """Origin of a checkpoint, one of :data:`KINDS`, without reading its weights.

    Raises:
        UserError: the origin is unknown.
    """
    return _kind_of(read_tensors(file), file)


def _kind_of(tensors: Tensors, file: Path, asked: str | None = None) -> str:
    for kind, (mark, _, _) in KINDS.items():
        if asked in (None, kind) and mark in tensors:
            return kind
    raise UserError(
        f"{file}: its tensors ({next(iter(tensors))}, ...) do not belong to a supported checkpoint "
        f"({asked or ', '.join(KINDS)}): use one of these"
    )


def load_original(file: Path) -> BlipLike:
    """The model of a checkpoint with the vocabulary in the same folder.

    Raises:
        UserError: the vocabulary is missing, or the file is not a checkpoint.
    """
    if in_folder(file.parent) is None:
        kind = kind_of(file)  # what is no checkpoint needs no vocabulary
        raise UserError(
            f"--model {file}: there is no vocabulary next to it: put BERT's {VOCABULARY[0]} there, or "
            f"convert it once with `attngraph convert {kind} {file} --out FOLDER --tokenizer hub:{BERT}`"
        )
    return read_original(file, file.parent)[0]


def save_converted(family: BlipLike, folder: Path) -> None:
    """Write all files for ``--model`` into an empty folder."""
    side = family.image_side
    with quiet_transformers():
        family.model.save_pretrained(str(folder))
    family.tokenizer.save_pretrained(str(folder))
    BlipImageProcessor(size={"height": side, "width": side}).save_pretrained(str(folder))


def make_tokenizer(
    place: str | Path, size: int, longest: int, own: tuple[str, ...], download: bool = False
) -> PreTrainedTokenizerBase:
    """BERT's tokenizer for lower-case text, with a model's special tokens after the words.

    Args:
        place: a file with one word per line, a folder or a hub name.
        size: number of tokens with an embedding.
        longest: number of positions of the model.
        own: special tokens of the model, in this order; generated texts begin with the first one.
        download: whether the vocabulary may be downloaded from the hub.

    Raises:
        UserError: there is no vocabulary, or it is not the checkpoint's.
    """
    file = in_folder(Path(place)) or Path(place)
    try:
        if file.suffix == ".json" and file.name != VOCABULARY[1]:
            raise ValueError(f"the name is not {VOCABULARY[1]}")
        with quiet_transformers(download):
            if file.is_file() and file.suffix != ".json":
                words = BertTokenizerFast(vocab=str(file), do_lower_case=True)
            else:
                folder = str(file.parent if file.is_file() else place)
                words = BertTokenizerFast.from_pretrained(folder, local_files_only=not download)
        held = words.backend_tokenizer.get_vocab(with_added_tokens=False)
        if lacking := [token for token in NEEDED if token not in held]:  # transformers adds them at the end
            raise ValueError(f"{lacking[0]} is missing")
        words.add_special_tokens({"bos_token": own[0]})
        if own[1:]:
            words.add_special_tokens({"additional_special_tokens": list(own[1:])})
        if len(words) != size:  # where it finds nothing, transformers makes a tokenizer without words
            raise ValueError(f"{len(words)} tokens, but the model has {size}")
    except Exception as error:  # whatever is wrong with the place
        raise UserError(
            f"--tokenizer {place}: not the checkpoint's vocabulary ({first_line(error)[:100]}): use BERT's "
            f"{VOCABULARY[0]}, or download it (--tokenizer hub:{BERT})"
        ) from None
    words.model_max_length = longest
    return words


# ---- names and sizes -------------------------------------------------------------------------------------

Converted = tuple[str, PretrainedConfig, Tensors]  # arrangement, configuration, weights by their new names


def _blip(tensors: Tensors, asked: str | None, tokenizer: PreTrainedTokenizerBase) -> Converted:
    """The captioner of p-Adapter, which also answers questions, and BLIP's model for questions."""
    parts = {name.partition(".")[0] for name in tensors}
    for_questions = "text_encoder" in parts and "itm_head" not in parts
    arrangement = asked or ("vqa" if for_questions else "captioner")
    if arrangement == "whole":
        raise ValueError("--as whole: BLIP does not have this architecture: use captioner or vqa")
    if arrangement == "captioner" and for_questions:
        raise ValueError(
            "the decoder attends to questions, not to images: convert it --as vqa, or use another checkpoint"
        )
    if arrangement == "vqa" and "text_encoder" not in parts:
        raise ValueError("there is no question encoder: convert it --as captioner")
    left_out = rf"{LEFT_OUT}|{re.escape(PREDICTIONS)}\.bias"
    left_out += r"|text_encoder\..+" if arrangement == "captioner" else ""
    vision = _vision(tensors, "visual_encoder", "patch_embed.proj", "pos_embed", "blocks", "mlp.fc1")
    vision |= dict(layer_norm_eps=1e-6, initializer_range=0.02)
    text = _decoder(tensors, tokenizer) | dict(
        encoder_hidden_size=vision["hidden_size"],
        num_hidden_layers=_layers(tensors, "text_decoder.bert.encoder.layer."),
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.1,  # in training
        attention_probs_dropout_prob=0.1,
        sep_token_id=tokenizer.sep_token_id,
    )
    config = BlipConfig(text_config=text, vision_config=vision)
    return arrangement, config, _renamed(tensors, BLIP_NAMES, left_out)


def _mplug(tensors: Tensors, asked: str | None, tokenizer: PreTrainedTokenizerBase) -> Converted:
    """One architecture: the model answers questions and generates captions.

    The stride of the fusion cannot be inferred from the tensors: it is 3 if images and texts have the same
    width (ViT-B), else 6, as in the authors' two configurations. The number of executed layers of the fusion
    cannot be inferred, either: BERT's layers are divided, so that the fusion begins after as many as the text
    encoder has; all are executed if it has no more than that. CLIP's text projection and text tower are
    dropped.
    """
    if asked not in (None, "whole"):
        raise ValueError(f"--as {asked}: mPLUG does not have this architecture: use whole")
    inner = re.compile(r"^(text_encoder|fusion_encoder)\.(bert|fusion)\.")
    tensors = {inner.sub(r"\1.", name): tensor for name, tensor in tensors.items()}
    seen = "visual_encoder.visual"
    vision = _vision(tensors, seen, "conv1", "positional_embedding", "transformer.resblocks", "mlp.c_fc")
    text = _decoder(tensors, tokenizer)
    read, built, written = (
        _layers(tensors, f"{part}.encoder.layer.")
        for part in ("text_encoder", "fusion_encoder", "text_decoder.bert")
    )
    first = read if read < built else 0  # layer of the fusion that is run
    stride = STRIDES["base" if vision["hidden_size"] == text["hidden_size"] else "large"]
    config = sizes(vision, text, (read, built - first, written), stride)
    left_out = (
        rf"{LEFT_OUT}|visual_encoder\.(?!visual\.).+|visual_encoder\.visual\.proj|"
        r"(text|fusion)_encoder\.pooler\..+|fusion_encoder\.embeddings\..+"
    )
    state: Tensors = {}
    for name, tensor in _renamed(tensors, MPLUG_NAMES, left_out).items():
        layer = re.match(r"fusion_encoder\.encoder\.layer\.(\d+)\.(.+)", name)
        if ".in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                state[name.replace("in_proj_", f"{part}_proj.")] = third
        elif layer is None:
            state[name] = tensor
        else:
            number, part = int(layer[1]) - first, layer[2]
            joined = config.joins(number) and part.startswith("crossattention.")
            if number >= 0 and not joined:  # image and text in one sequence have no cross-attention
                state[f"fusion_encoder.layer.{number}.{part}"] = tensor
    return "whole", config, state


#: Origin -> a tensor that identifies it, the conversion, and its special tokens.
KINDS = {
    "blip": ("visual_encoder.pos_embed", _blip, (DECODER_START, ENCODER_START)),
    "mplug": ("visual_encoder.visual.class_embedding", _mplug, ("[CLS]",)),
}


def _renamed(tensors: Tensors, names: dict[str, str], left_out: str) -> Tensors:
    state: Tensors = {}
    for name, tensor in tensors.items():
        if not re.fullmatch(left_out, name):
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise ValueError(f"{name} contains values that are not finite")
            for old, new in names.items():
                name = name.replace(old, new)
            state[name] = tensor
    return state


def _vision(
    tensors: Tensors, part: str, patches: str, positions: str, blocks: str, hidden: str
) -> dict[str, Any]:
    """The sizes of the image encoder, from the names of the patch kernel, of the table of positions (which
    includes the class token), and of the layers.
    """
    kernel, table = tensors[f"{part}.{patches}.weight"], tensors[f"{part}.{positions}"]
    if kernel.dim() != 4 or table.dim() < 2:
        raise ValueError(
            f"{part} has patches of shape {tuple(kernel.shape)} and positions of shape {tuple(table.shape)}"
        )
    width, _, _, patch = kernel.shape
    rows = math.isqrt(table.shape[-2] - 1)
    return dict(
        hidden_size=width,
        intermediate_size=len(tensors[f"{part}.{blocks}.0.{hidden}.weight"]),
        num_hidden_layers=_layers(tensors, f"{part}.{blocks}."),
        num_attention_heads=_heads("visual_encoder", width),
        image_size=rows * patch,
        patch_size=patch,
    )


def _decoder(tensors: Tensors, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The sizes of the text decoder except its depth."""
    size, width = tensors[f"{EMBEDDINGS}.word_embeddings.weight"].shape
    return dict(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=len(tensors["text_decoder.bert.encoder.layer.0.intermediate.dense.weight"]),
        num_attention_heads=_heads("text_decoder", width),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _layers(tensors: Tensors, prefix: str) -> int:
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if not numbers:
        raise ValueError(f"layers {prefix}* are missing")
    return len(numbers)


def _heads(part: str, width: int) -> int:
    if width % HEAD:
        raise ValueError(f"{part} has width {width}, which must be a multiple of the heads' width {HEAD}")
    return width // HEAD
