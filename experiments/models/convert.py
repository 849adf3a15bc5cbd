"""Checkpoints as their authors published them, turned into the models that are computed with here.

BLIP's (Li et al., 2022, https://github.com/salesforce/BLIP):

==================== ==================================================================================
pre-training         ``visual_encoder``, ``text_encoder``, ``text_decoder``, the heads that match pictures
                     and texts (``itm_head``, ``vision_proj``, ``text_proj``, ``temp``), copies with
                     momentum (``*_m``) and queues: ``model_base_capfilt_large.pth``
captions             ``visual_encoder``, ``text_decoder``: ``model_base_caption_capfilt_large.pth``
questions            ``visual_encoder``, ``text_encoder``, ``text_decoder``:
                     ``model_base_vqa_capfilt_large.pth``
==================== ==================================================================================

mPLUG's (Li et al., 2022, https://github.com/X-PLUG/mPLUG):

====================== ================================================================================
``visual_encoder``     the whole of OpenAI's CLIP, of which ``visual`` is used and the text tower is not
``visn_*``             brings pictures to the texts' width where that is another one (ViT-L)
``text_encoder``       of questions
``fusion_encoder``     twelve layers, of which the last six are run (see :func:`_mplug`), and not all parts
                       of these
``text_decoder``       of answers and captions
``*_m``                copies with momentum
====================== ================================================================================

mPLUG's checkpoints of pre-training have ``bert`` or ``fusion`` in the names of the two encoders' parts, and
heads of their own. The names are those of the published code; no released file has been read.

Every tensor of a file is renamed or left out, and the model has no other. Shapes give all sizes but the
number of heads: a head is 64 wide in ViT-B, ViT-L and BERT alike. The files hold no vocabulary: BERT's is
read from a file next to the checkpoint, from another place that is named, or from the hub's cache.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from experiments.base.messages import first_line
from experiments.base.progress import note
from experiments.base.reading import read_text
from experiments.models.blip import DECODER_START, ENCODER_START, BlipAnswerer, BlipCaptioner, BlipLike
from experiments.models.mplug import MPlug
from experiments.models.mplug.modeling import STRIDES, MPlugConfig, sizes
from experiments.models.weights import VOCABULARY, in_folder, quiet_transformers

#: What can be made of a checkpoint, in words.
ARRANGEMENTS = {
    "captioner": "image encoder and text decoder, as p-Adapter has it for all tasks and BLIP for captions",
    "vqa": "image encoder, question encoder and answer decoder, as BLIP has it for questions",
    "whole": "image encoder, text encoder, their fusion and text decoder, for questions and captions",
}
PLACES = ("model", "module", "state_dict")  # under which training programs keep the weights
HEAD = 64  # width of a head
EMBEDDINGS = "text_decoder.bert.embeddings"
BERT = "google-bert/bert-base-uncased"
NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Tensors = dict[str, Tensor]
#: Pattern of names -> the new name, those of equal parts along the first axis, or None where the tensor is
#: left out. The first that fits counts.
Names = Sequence[tuple[str, str | tuple[str, ...] | None]]


@dataclass(frozen=True, eq=False)
class Original:
    """A checkpoint that has been read.

    Args:
        family: its model with what makes its inputs, in float32 and evaluation mode.
        arrangement: one of :data:`ARRANGEMENTS`.
        read, used: number of tensors in the file and in the model.
    """

    family: BlipLike
    arrangement: str
    read: int
    used: int


def read_original(
    file: Path, vocabulary: Path, kind: str | None = None, arrangement: str | None = None
) -> Original:
    """Reads a checkpoint.

    Args:
        file: as the authors published it.
        vocabulary: BERT's, see :func:`find_vocabulary`.
        kind: whose, one of :data:`KINDS`; None for the one that fits.
        arrangement: one of :data:`ARRANGEMENTS`; None for what the tensors say.

    Raises:
        UserError: it is no checkpoint of these authors, or none that the arrangement can be made of.
    """
    tensors = read_tensors(file)
    _, sizes_of, own = KINDS[_kind_of(tensors, file, kind)]
    try:
        size, _ = tensors[f"{EMBEDDINGS}.word_embeddings.weight"].shape
        longest, _ = tensors[f"{EMBEDDINGS}.position_embeddings.weight"].shape
        tokenizer = make_tokenizer(vocabulary, size, longest, *own)
        arrangement, family, names, config = sizes_of(tensors, arrangement, tokenizer)
        state = _renamed(tensors, names)
        _check(state, family, config)
    except KeyError as error:
        raise UserError(f"{file}: {error.args[0]} is missing: give another checkpoint") from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{file}: {first_line(error)}: give another checkpoint, or another --as") from None
    weights = {name: x.to(torch.float32, copy=True).contiguous() for name, x in state.items()}
    with quiet_transformers():
        model = family.kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32, attn_implementation="eager"
        )
    model.config.architectures = [type(model).__name__]
    model.name_or_path = model.config.name_or_path = ""  # else "None", PEFT's name on the hub
    return Original(family(model.eval(), tokenizer), arrangement, len(tensors), len(weights))


def read_tensors(file: Path) -> Tensors:
    """The weights of a checkpoint by their names.

    They are stored under one of ``PLACES``, next to an optimiser's state and the like, or are the whole of
    the file. Only tensors and plain values are unpickled (``weights_only=True``); a file in PyTorch's present
    format is mapped into memory, so that what nobody uses is never read from the disk.

    Args:
        file: which.

    Raises:
        UserError: it cannot be read, is no such file, is cut short, or holds other objects.
    """
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}: check the path and your rights") from None
    except Exception as error:  # whatever is wrong with the file; pickles fail in many ways
        if other := re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error)):
            raise UserError(
                f"{file}: it holds Python objects other than tensors ({other[1]}), which reading would run: "
                'ask its author for its tensors alone, as torch.save({"model": model.state_dict()}, FILE) '
                "writes them"
            ) from None
        line = first_line(error)  # PyTorch's messages go on with advice to load the file unsafely
        raise UserError(
            f"{file}: no PyTorch checkpoint, or one that is damaged or cut short "
            f"({line if len(line) <= 80 else type(error).__name__}): download it again"
        ) from None
    if isinstance(content, dict):
        content = next((content[place] for place in PLACES if place in content), content)
    values = content.items() if isinstance(content, dict) else ()
    if not values or not all(isinstance(key, str) and isinstance(x, Tensor) for key, x in values):
        raise UserError(
            f"{file}: it holds no weights by their names: give a checkpoint that holds a model's state_dict, "
            f"as the whole or under {', '.join(PLACES)}"
        )
    return dict(content)


def kind_of(file: Path) -> str:
    """Whose checkpoint a file is, one of :data:`KINDS`; its weights are not read.

    Raises:
        UserError: it is none that is known.
    """
    return _kind_of(read_tensors(file), file)


def _kind_of(tensors: Tensors, file: Path, asked: str | None = None) -> str:
    for kind, (mark, _, _) in KINDS.items():
        if asked in (None, kind) and mark in tensors:
            return kind
    raise UserError(
        f"{file}: its tensors ({next(iter(tensors))}, ...) are those of no checkpoint known here "
        f"({asked or ', '.join(KINDS)}): give one of these"
    )


def load_original(file: Path) -> BlipLike:
    """The model of a checkpoint whose vocabulary is next to it.

    Raises:
        UserError: the vocabulary is not there, or the checkpoint is none.
    """
    vocabulary = in_folder(file.parent)
    if vocabulary is None:
        kind = kind_of(file)  # what is no checkpoint needs no vocabulary
        raise UserError(
            f"--model {file}: there is no vocabulary next to it: put BERT's {VOCABULARY[0]} there, or make a "
            f"folder once with `attngraph convert {kind} {file} --out FOLDER --tokenizer hub:{BERT}`"
        )
    return read_original(file, vocabulary).family


def save_converted(family: BlipLike, folder: Path) -> None:
    """Writes all that ``--model`` needs into an empty folder."""
    side = family.image_side
    with quiet_transformers():
        family.model.save_pretrained(str(folder))
    family.tokenizer.save_pretrained(str(folder))
    BlipImageProcessor(size={"height": side, "width": side}).save_pretrained(str(folder))


def _renamed(tensors: Tensors, names: Names) -> Tensors:
    """The tensors that are used, by their new names.

    Raises:
        ValueError: one has no new name, or holds other than finite numbers.
    """
    state: Tensors = {}
    for name, tensor in tensors.items():
        fits = ((re.fullmatch(pattern, name), new) for pattern, new in names)
        match, new = next(((match, new) for match, new in fits if match), (None, ""))
        if new is None:
            continue
        if match is None:
            raise ValueError(f"{name} is not known")
        if tensor.layout != torch.strided or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{name} holds other than finite numbers")
        news = [match.expand(each) for each in ((new,) if isinstance(new, str) else new)]
        state |= zip(news, tensor.chunk(len(news)), strict=True)
    return state


def _check(state: Tensors, family: type[BlipLike], config: PretrainedConfig) -> None:
    """Take out tensors that the model shares with others, and check that the rest are all of its own.

    Raises:
        ValueError: a tensor is missing, too many, of another shape, or not equal to the one it is shared
            with.
    """
    with torch.device("meta"):
        model = family.kind(config)
    twins = model._tied_weights_keys or {}
    for twin in state.keys() & twins.keys():
        if not torch.equal(state.pop(twin), state[twins[twin]]):
            raise ValueError(f"{twin} is not equal to {twins[twin]}, which the model shares with it")
    wanted = {name: weight.shape for name, weight in model.state_dict().items() if name not in twins}
    given = {name: tensor.shape for name, tensor in state.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing, too many or of another shape, first {wrong[0]}")


# ---- the vocabulary --------------------------------------------------------------------------------------


def find_vocabulary(source: str | None, checkpoint: Path, download: bool) -> Path:
    """The file with the vocabulary.

    Args:
        source: a file, a folder or a hub name; None for the checkpoint's folder, or else :data:`BERT`.
        checkpoint: whose vocabulary it is.
        download: whether the hub may be asked for what is not on this machine.

    Raises:
        UserError: there is none.
    """
    place = checkpoint.parent if source is None else Path(source)
    if (found := place if place.is_file() else in_folder(place)) is not None:
        return found
    if source is not None and place.exists():
        raise UserError(f"--tokenizer {source}: the folder holds neither {' nor '.join(VOCABULARY)}")
    name = source or BERT
    try:
        if download:
            note(f"looking for {name} on the hub")
        return Path(hf_hub_download(name, VOCABULARY[0], local_files_only=not download))
    except Exception as error:  # a bad name, no network, not in the cache
        remedy = (
            "check the name and the network" if download else f"allow the download (--tokenizer hub:{name})"
        )
        where = "" if source else f"no {' or '.join(VOCABULARY)} next to {checkpoint}, and "
        raise UserError(
            f"--tokenizer: {where}{name} cannot be found ({first_line(error)[:100]}): give its "
            f"{VOCABULARY[0]}, or a folder with it, or {remedy}"
        ) from None


def make_tokenizer(file: Path, size: int, longest: int, *own: str) -> PreTrainedTokenizerBase:
    """BERT's tokenizer for lower-case text, with a model's own tokens after the words.

    Args:
        file: with the vocabulary; what a ``tokenizer.json`` adds to its words is left out.
        size: tokens that have an embedding.
        longest: how many tokens the model has positions for.
        own: the model's own tokens, in this order; the first comes before what is written.

    Raises:
        UserError: the file holds no vocabulary, or not the checkpoint's.
    """
    text = read_text(file, f"give BERT's {VOCABULARY[0]}")
    added = [token for token in own if token not in NEEDED]
    try:
        if file.suffix == ".json":
            words = dict(json.loads(text)["model"]["vocab"])
        else:
            lines = text.removesuffix("\n").split("\n")
            words = {line.removesuffix("\r"): place for place, line in enumerate(lines)}
        if sorted(words.values()) != list(range(size - len(added))) or not words.keys() >= set(NEEDED):
            raise ValueError(f"{len(words)} words of the {size - len(added)} that have embeddings")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: not the checkpoint's vocabulary ({first_line(error)[:100]}): give the {VOCABULARY[0]} "
            "that the checkpoint was trained with"
        ) from None
    tokenizer = BertTokenizerFast(vocab=words, do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": own[0]})
    if own[1:]:
        tokenizer.add_special_tokens({"additional_special_tokens": list(own[1:])})
    tokenizer.model_max_length = longest
    return tokenizer


# ---- names and sizes -------------------------------------------------------------------------------------


def _blip(
    tensors: Tensors, asked: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, type[BlipLike], Names, PretrainedConfig]:
    """p-Adapter's captioner, which answers questions too, and BLIP's own for questions."""
    parts = {name.partition(".")[0] for name in tensors}
    for_questions = "text_encoder" in parts and "itm_head" not in parts
    arrangement = asked or ("vqa" if for_questions else "captioner")
    if arrangement not in ("captioner", "vqa"):
        raise ValueError(f"--as {arrangement}: BLIP has no such arrangement: give captioner or vqa")
    if arrangement == "captioner" and for_questions:
        raise ValueError(
            "its decoder looks at questions, not at pictures: convert it --as vqa, or give another checkpoint"
        )
    if arrangement == "vqa" and "text_encoder" not in parts:
        raise ValueError("it has no question encoder: convert it --as captioner")
    asks = arrangement == "vqa"
    block, layer = r"visual_encoder\.blocks\.(\d+)", r"vision_model.encoder.layers.\1"
    head = "text_decoder.cls.predictions"
    names: Names = (
        (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
        (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
        (r"visual_encoder\.patch_embed\.proj\.(\w+)", r"vision_model.embeddings.patch_embedding.\1"),
        (rf"{block}\.norm(1|2)\.(\w+)", rf"{layer}.layer_norm\2.\3"),
        (rf"{block}\.attn\.qkv\.(\w+)", rf"{layer}.self_attn.qkv.\2"),  # queries, keys, values, in both
        (rf"{block}\.attn\.proj\.(\w+)", rf"{layer}.self_attn.projection.\2"),
        (rf"{block}\.mlp\.(fc[12]\.\w+)", rf"{layer}.mlp.\2"),
        (r"visual_encoder\.norm\.(\w+)", r"vision_model.post_layernorm.\1"),
        (r".*\.position_ids", None),
        # The output layer's bias has two names. transformers shares them the other way round.
        (rf"{head}\.decoder\.bias", f"{head}.bias"),
        (rf"{head}\.bias", None),
        (r"text_decoder\.(.+)", r"text_decoder.\1"),
        (r"text_encoder\.(.+)", r"text_encoder.\1" if asks else None),
        (r"(itm_head|vision_proj|text_proj)\..+|temp|(image|text)_queue|queue_ptr", None),
        (r"\w+_m\..+", None),
    )
    width, _, _, patch = tensors["visual_encoder.patch_embed.proj.weight"].shape
    vision = dict(
        hidden_size=width,
        intermediate_size=len(tensors["visual_encoder.blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=_layers(tensors, "visual_encoder.blocks."),
        num_attention_heads=_heads("visual_encoder", width),
        image_size=_rows(tensors["visual_encoder.pos_embed"]) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
        initializer_range=0.02,
    )
    text = _decoder(tensors, tokenizer) | dict(
        encoder_hidden_size=width,
        num_hidden_layers=_layers(tensors, "text_decoder.bert.encoder.layer."),
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.1,  # in training
        attention_probs_dropout_prob=0.1,
        sep_token_id=tokenizer.sep_token_id,
    )
    family = BlipAnswerer if asks else BlipCaptioner
    return arrangement, family, names, BlipConfig(text_config=text, vision_config=vision)


def _mplug(
    tensors: Tensors, asked: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, type[BlipLike], Names, PretrainedConfig]:
    """One arrangement: the model answers questions and writes captions.

    The stride of the fusion is not in the tensors: it is 3 where pictures and texts have one width (ViT-B),
    else 6, as in the authors' two configurations. Nor is how many layers of the fusion are run: BERT's layers
    are shared out, so that the fusion begins after as many as the text encoder has; all are run where it has
    no more than that.
    """
    if asked not in (None, "whole"):
        raise ValueError(f"--as {asked}: mPLUG has no such arrangement: give whole")
    seen = "visual_encoder.visual"
    width, _, _, patch = tensors[f"{seen}.conv1.weight"].shape
    text = _decoder(tensors, tokenizer)
    stride = STRIDES["base" if width == text["hidden_size"] else "large"]
    read, fusion = (
        next((inner for inner in inners if any(name.startswith(inner) for name in tensors)), inners[-1])
        for inners in (
            ("text_encoder.bert.", "text_encoder."),
            ("fusion_encoder.bert.", "fusion_encoder.fusion.", "fusion_encoder."),
        )
    )
    questions, built = (_layers(tensors, f"{part}encoder.layer.") for part in (read, fusion))
    first = questions if questions < built else 0  # layer of the fusion that is run
    vision = dict(
        hidden_size=width,
        intermediate_size=len(tensors[f"{seen}.transformer.resblocks.0.mlp.c_fc.weight"]),
        num_hidden_layers=_layers(tensors, f"{seen}.transformer.resblocks."),
        num_attention_heads=_heads("visual_encoder", width),
        image_size=_rows(tensors[f"{seen}.positional_embedding"]) * patch,
        patch_size=patch,
    )
    layers = questions, built - first, _layers(tensors, "text_decoder.bert.encoder.layer.")
    config = sizes(vision, text, layers, stride)
    return "whole", MPlug, _mplug_names(re.escape(read), re.escape(fusion), first, built, config), config


def _mplug_names(read: str, fusion: str, first: int, built: int, config: MPlugConfig) -> Names:
    """mPLUG's names.

    Args:
        read, fusion: patterns of how those of text encoder and fusion begin.
        first, built: layer of the fusion that is run, and how many there are.
        config: of the model.
    """
    seen = r"visual_encoder\.visual"
    block, layer = rf"{seen}\.transformer\.resblocks\.(\d+)", r"vision_model.encoder.layers.\1"
    run: list[tuple[str, str | None]] = []
    for number in range(built):
        name = rf"{fusion}encoder\.layer\.{number}"
        if number < first:
            run.append((rf"{name}\..+", None))
        elif config.joins(number - first):  # image and text in one sequence
            run.append((rf"{name}\.crossattention\..+", None))
        run.append((rf"{name}\.(.+)", rf"fusion_encoder.layer.{number - first}.\1"))
    return (
        (rf"{seen}\.class_embedding", "vision_model.embeddings.class_embedding"),
        (rf"{seen}\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (rf"{seen}\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
        (rf"{seen}\.ln_(pre|post)\.(\w+)", r"vision_model.\1_layernorm.\2"),
        (rf"{block}\.ln_([12]\.\w+)", rf"{layer}.layer_norm\2"),
        (
            rf"{block}\.attn\.in_proj_(\w+)",
            (
                rf"{layer}.self_attn.q_proj.\2",
                rf"{layer}.self_attn.k_proj.\2",
                rf"{layer}.self_attn.v_proj.\2",
            ),
        ),
        (rf"{block}\.attn\.out_proj\.(\w+)", rf"{layer}.self_attn.out_proj.\2"),
        (rf"{block}\.mlp\.c_fc\.(\w+)", rf"{layer}.mlp.fc1.\2"),
        (rf"{block}\.mlp\.c_proj\.(\w+)", rf"{layer}.mlp.fc2.\2"),
        # CLIP's projection to the space of its texts, and its text tower.
        (rf"{seen}\.proj|visual_encoder\.(transformer|token_embedding|ln_final)\..+", None),
        (r"visual_encoder\.(positional_embedding|text_projection|logit_scale)", None),
        (r"visn_fc\.(\w+)", r"vision_model.projection.dense.\1"),
        (r"visn_layer_norm\.(\w+)", r"vision_model.projection.norm.\1"),
        (r".*\.position_ids", None),
        (r"text_decoder\.(.+)", r"text_decoder.\1"),
        (rf"{read}pooler\..+", None),
        (rf"{read}(embeddings|encoder)\.(.+)", r"text_encoder.\1.\2"),
        (rf"{fusion}(embeddings|pooler)\..+", None),
        *run,
        (r"(itm_head|vision_proj|text_proj)\..+|(text|fusion)_encoder\.cls\..+|temp", None),
        (r"(image|text)_queue|(queue|idx|ptr)_(ptr|queue)", None),
        (r"\w+_m\..+", None),
    )


#: Whose checkpoints -> a tensor that marks them, what reads their names and sizes, and their own tokens.
KINDS = {
    "blip": ("visual_encoder.pos_embed", _blip, (DECODER_START, ENCODER_START)),
    "mplug": ("visual_encoder.visual.class_embedding", _mplug, ("[CLS]",)),
}


def _decoder(tensors: Tensors, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The sizes of the text decoder but its depth."""
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
    """How many layers there are under a prefix.

    Raises:
        ValueError: there is none.
    """
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if not numbers:
        raise ValueError(f"layers {prefix}* are missing")
    return len(numbers)


def _rows(positions: Tensor) -> int:
    """Rows of patches in a picture, of the table of positions, which also has one for the class token."""
    return math.isqrt(positions.shape[-2] - 1)


def _heads(part: str, width: int) -> int:
    if width % HEAD:
        raise ValueError(f"{part} is {width} wide, and heads are {HEAD} wide, which must divide it")
    return width // HEAD
