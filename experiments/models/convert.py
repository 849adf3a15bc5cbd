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

Every tensor of a file is renamed or left out, and the model has no other. Shapes tell all sizes but the
number of heads: a head is 64 wide in ViT-B, ViT-L and BERT alike.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.models.blip import DECODER_START, ENCODER_START, BlipAnswerer, BlipCaptioner, BlipLike
from experiments.models.mplug.family import MPlug
from experiments.models.mplug.modeling import STRIDES, MPlugConfig, sizes
from experiments.models.vocabulary import BERT, FILES, in_folder, make_tokenizer
from experiments.models.weights import quiet_transformers

#: What can be made of a checkpoint, in words.
ARRANGEMENTS = {
    "captioner": "image encoder and text decoder, as p-Adapter has it for all tasks and BLIP for captions",
    "vqa": "image encoder, question encoder and answer decoder, as BLIP has it for questions",
    "whole": "image encoder, text encoder, their fusion and text decoder, for questions and captions",
}
PLACES = ("model", "module", "state_dict")  # under which training programs keep the weights
HEAD = 64  # width of a head
EMBEDDINGS = "text_decoder.bert.embeddings"

Tensors = dict[str, Tensor]
#: Pattern of names -> the new name, those of equal parts along the first axis, or None where the tensor is
#: left out. The first that fits counts.
Names = Sequence[tuple[str, str | tuple[str, ...] | None]]


@dataclass(frozen=True, eq=False)
class Original:
    """A checkpoint that has been read, and what is made of it.

    Args:
        file: the checkpoint.
        tensors: its weights by name.
        arrangement: one of :data:`ARRANGEMENTS`.
        kind: the model's family.
        names: new ones of the tensors.
        config, tokenizer: of the model.
    """

    file: Path
    tensors: Tensors
    arrangement: str
    kind: type[BlipLike]
    names: Names
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def weights(self) -> Tensors:
        """The tensors that are used, by their new names.

        Raises:
            UserError: they are not those of the model, or not plain finite numbers.
        """
        with torch.device("meta"):
            model = self.kind.kind(self.config)
        twins = model._tied_weights_keys or {}  # tensors of the model that are others, too
        wanted = {name: weight.shape for name, weight in model.state_dict().items()}
        found: dict[str, Tensor] = {}
        unknown = []
        for name, tensor in self.tensors.items():
            fits = ((re.fullmatch(pattern, name), new) for pattern, new in self.names)
            match, new = next(((match, new) for match, new in fits if match), (None, ""))
            if new is None:
                continue
            news = [match.expand(each) for each in ((new,) if isinstance(new, str) else new)] if match else []
            if not news or not wanted.keys() >= set(news):
                unknown.append(name)
                continue
            shape = torch.Size([sum(wanted[each][0] for each in news), *wanted[news[0]][1:]])
            if (why := _unusable(tensor)) or tensor.shape != shape:
                raise self._refused(
                    f"{name} {why or f'is of the shape {_size(tensor.shape)}, not {_size(shape)}'}"
                )
            if not tensor.isfinite().all():
                raise self._refused(f"{name} holds numbers that are not finite")
            found |= zip(news, tensor.chunk(len(news)), strict=True)
        missing = sorted(wanted.keys() - twins.keys() - found.keys())
        for names, how in ((unknown, "not known"), (missing, "missing")):
            if names:
                raise self._refused(f"{names[0]} is {how}" + f" ({len(names)} in all)" * (len(names) > 1))
        for twin in found.keys() & twins.keys():
            if not torch.equal(found.pop(twin), found[twins[twin]]):
                raise self._refused(f"{twin} is not equal to {twins[twin]}, which the model shares with it")
        return found

    def family(self, side: int | None = None) -> BlipLike:
        """The model with what makes its inputs, in float32 and evaluation mode.

        Args:
            side: of the pictures that it is to see, in pixels; None as the checkpoint says.

        Raises:
            UserError: see :attr:`weights`; or it can't see pictures of that side.
        """
        state = {name: x.to(torch.float32, copy=True).contiguous() for name, x in self.weights.items()}
        with quiet_transformers():
            model = self.kind.kind.from_pretrained(
                None, config=self.config, state_dict=state, dtype=torch.float32, attn_implementation="eager"
            )
        model.config.architectures = [type(model).__name__]
        model.name_or_path = model.config.name_or_path = ""  # else "None", PEFT's name on the hub
        family = self.kind(model.eval(), self.tokenizer)
        if side is not None and side != family.image_side:
            family.resize(side)
        return family

    def _refused(self, why: str) -> UserError:
        return UserError(f"{self.file}: {why}, so it is no checkpoint for the arrangement {self.arrangement}")


def read_tensors(file: Path) -> Tensors:
    """The weights of a checkpoint by their names.

    They lie under one of ``PLACES``, beside an optimiser's state and the like, or are the whole of the file.
    Only tensors and plain values are unpickled (``weights_only=True``); a file in PyTorch's present format is
    mapped into memory, so that what nobody uses is never read from the disk.

    Args:
        file: which.

    Raises:
        UserError: it cannot be read, is no such file, is cut short, or holds other objects.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
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
    inner: Any = content
    if isinstance(content, dict):
        inner = next((content[place] for place in PLACES if place in content), content)
    if not isinstance(inner, dict) or not inner:
        raise UserError(f"{file}: it holds no weights by their names, as a model's state_dict does")
    for name, value in inner.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{file}: {name} is no tensor with a name ({type(value).__name__}): give a checkpoint that "
                f"holds a model's state_dict, as the whole or under {', '.join(PLACES)}"
            )
    return dict(inner)


def read_original(
    file: Path, vocabulary: Path, kind: str | None = None, arrangement: str | None = None
) -> Original:
    """Reads a checkpoint; whether its tensors are complete is told when a model is made of them.

    Args:
        file: as the authors published it.
        vocabulary: BERT's, see :func:`experiments.models.vocabulary.find_vocabulary`.
        kind: whose, one of :data:`KINDS`; None for the one that fits.
        arrangement: one of :data:`ARRANGEMENTS`; None for what the tensors say.

    Raises:
        UserError: it is no checkpoint of these authors, or none that the arrangement can be made of.
    """
    tensors = read_tensors(file)
    read, own = KINDS[_kind_of(tensors, file, kind)][1:]
    try:
        size, _ = _shape(tensors, f"{EMBEDDINGS}.word_embeddings.weight")
        longest, _ = _shape(tensors, f"{EMBEDDINGS}.position_embeddings.weight")
        tokenizer = make_tokenizer(vocabulary, size, longest, *own)
        return Original(file, tensors, *read(tensors, arrangement, tokenizer), tokenizer)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


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
    """The model of a checkpoint whose vocabulary lies next to it.

    Raises:
        UserError: the vocabulary is not there, or the checkpoint is none.
    """
    vocabulary = in_folder(file.parent)
    if vocabulary is None:
        kind = kind_of(file)  # what is no checkpoint needs no vocabulary
        raise UserError(
            f"--model {file}: there is no vocabulary next to it: put BERT's {FILES[0]} there, or make a "
            f"folder once with `attngraph convert {kind} {file} --out FOLDER --tokenizer hub:{BERT}`"
        )
    return read_original(file, vocabulary).family()


def save_converted(family: BlipLike, folder: Path) -> None:
    """Writes all that ``--model`` needs into an empty folder."""
    side = family.image_side
    with quiet_transformers():
        family.model.save_pretrained(str(folder))
    family.tokenizer.save_pretrained(str(folder))
    BlipImageProcessor(size={"height": side, "width": side}).save_pretrained(str(folder))


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
    width, _, _, patch = _shape(tensors, "visual_encoder.patch_embed.proj.weight", 4)
    vision = dict(
        hidden_size=width,
        intermediate_size=_shape(tensors, "visual_encoder.blocks.0.mlp.fc1.weight")[0],
        num_hidden_layers=_layers(tensors, "visual_encoder.blocks."),
        num_attention_heads=_heads("visual_encoder", width),
        image_size=_rows(tensors, "visual_encoder.pos_embed", 3) * patch,
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
    width, _, _, patch = _shape(tensors, f"{seen}.conv1.weight", 4)
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
        intermediate_size=_shape(tensors, f"{seen}.transformer.resblocks.0.mlp.c_fc.weight")[0],
        num_hidden_layers=_layers(tensors, f"{seen}.transformer.resblocks."),
        num_attention_heads=_heads("visual_encoder", width),
        image_size=_rows(tensors, f"{seen}.positional_embedding") * patch,
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
    size, width = _shape(tensors, f"{EMBEDDINGS}.word_embeddings.weight")
    return dict(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=_shape(tensors, "text_decoder.bert.encoder.layer.0.intermediate.dense.weight")[0],
        num_attention_heads=_heads("text_decoder", width),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _shape(tensors: Tensors, name: str, axes: int = 2) -> torch.Size:
    """The shape of a tensor with so many axes.

    Raises:
        ValueError: there is none, or none of such a shape.
    """
    if name not in tensors:
        raise ValueError(f"{name} is missing, and tells the model's sizes: give another checkpoint")
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise ValueError(
            f"{name} is of the shape {_size(shape)}, which tells no sizes: give another checkpoint"
        )
    return shape


def _layers(tensors: Tensors, prefix: str) -> int:
    """How many layers there are under a prefix; that none is missing is told later."""
    numbers = (name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix))
    found = {int(number) for number in numbers if number.isdigit()}
    if len(found) <= max(found, default=0):
        raise ValueError(f"layers {prefix}* are missing or not numbered from 0 on: give another checkpoint")
    return len(found)


def _rows(tensors: Tensors, name: str, axes: int = 2) -> int:
    """Rows of patches in a picture, of the table of positions, which also has one for the class token."""
    patches = _shape(tensors, name, axes)[-2] - 1
    if patches < 1 or math.isqrt(patches) ** 2 != patches:
        size = _size(tensors[name].shape)
        raise ValueError(
            f"{name} ({size}) fits no square of patches with a class token: give another checkpoint"
        )
    return math.isqrt(patches)


def _heads(part: str, width: int) -> int:
    if width % HEAD:
        raise ValueError(f"{part} is {width} wide, and heads are {HEAD} wide, which must divide it")
    return width // HEAD


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _unusable(tensor: Tensor) -> str | None:
    """Why a tensor's numbers cannot be read as they are; None if they can."""
    if (
        tensor.is_meta
        or tensor.is_quantized
        or tensor.layout != torch.strided
        or not tensor.is_floating_point()
    ):
        return f"is no table of plain numbers ({tensor.dtype}, {tensor.layout}, {tensor.device})".replace(
            "torch.", ""
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"repeats {tensor.untyped_storage().nbytes():,} bytes of numbers"
    return None
