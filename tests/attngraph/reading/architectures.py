"""Every architecture of the installed transformers, as small as it can be made by rules, and what it is run
on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache

import torch
import transformers as hf
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

from tests.attngraph.reading.zoo import FAMILIES, Family, far_from_zero

VOCABULARY, WIDTH, DEPTH, EXPERTS = 2000, 256, 2, 8
MOST, PATCHES = 150e6, 8192
"""Parameters, and patches of a film, beyond which a model is not made."""
DEPTHS = re.compile(
    r"^depth$|^(num|n)_?(hidden|encoder|decoder|entity|global|local|latent)?_?(layers?|blocks)$|^num_.*layers$|"
    r"^(encoder|decoder)_layers$|^num_self_attends_per_block$"
)
STAGES = re.compile("num_encoder_blocks|num_stages|num_feat_")
"""Fields with one entry for each stage beside them, in lists."""
WIDTHS = re.compile(
    r"hidden_size|d_model|_dim|^dim|embed|_rank|intermediate_size|ffn|d_ff|d_inner|d_kv|inner|width|n_embd"
)
OTHERS = re.compile(
    r"head_dim|rope|conv_dim|dropout|vocab|pos|patch|image|kernel|std|norm|eps|init|act|scale|theta|prob|ratio|"
    "factor|num_|tie|rate|features|max_|class|id2|label"
)
"""In names of fields that are no widths of states."""
STATES = re.compile(r"^(text_|encoder_)?(hidden_size|d_model|n_embd|embed_dim|dim)$")
HEADS = ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "attention_heads")
STATE_FIELDS = ("hidden_size", "d_model", "n_embd", "embed_dim")
GROUPS = ("num_key_value_heads", "num_kv_heads", "decoder_attention_heads")
SOUND = ("input_features", "input_values", "audio_values")


class NotMade(Exception):
    """An architecture that the rules do not make, or do not run."""


@cache
def zoo() -> dict[str, Family]:
    """The families that have tests of their own, by the names of their architectures."""
    return {family.make().config.model_type: family for family in FAMILIES.values()}


def kind_of(name: str) -> type[hf.PreTrainedModel] | None:
    """The class of an architecture: its base model, or else the first model with a head."""
    tables = [table for table in dir(modeling_auto) if re.fullmatch("MODEL_.*MAPPING_NAMES", table)]
    for table in ["MODEL_MAPPING_NAMES", *tables]:
        found = getattr(modeling_auto, table).get(name)
        for kind in [found] if isinstance(found, str) else found or ():
            model = getattr(hf, kind, None)
            if model is not None and model.config_class is CONFIG_MAPPING[name]:
                return model
    return None


def parts(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A configuration and those inside it."""
    found: list[PreTrainedConfig] = []

    def add(x: object) -> None:
        if isinstance(x, PreTrainedConfig) and not any(x is y for y in found):
            found.append(x)
            for value in vars(x).values():
                for part in value if isinstance(value, (list, tuple)) else [value]:
                    add(part)

    add(config)
    return found


def is_whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def is_token(key: str, x: object) -> bool:
    """Whether a field holds the number of a token."""
    return key.endswith(("token_id", "token_index")) and is_whole(x)


def fields(config: PreTrainedConfig, *names: str) -> Iterator[tuple[str, int]]:
    """Those fields that are whole numbers."""
    for name in names:
        value = vars(config).get(name)
        if is_whole(value):
            yield name, value


def shrink(config: PreTrainedConfig) -> None:
    """Fewer layers, words and experts, and all widths divided by one power of two."""
    widest = [
        x for part in parts(config) for key, x in vars(part).items() if STATES.match(key) and is_whole(x)
    ]
    by = 1
    while max(widest, default=0) / by > WIDTH:
        by *= 2
    for part in parts(config):
        before = head_width(part)
        for key, value in list(vars(part).items()):
            new = smaller(key, value, by, part)
            if new is not None and new != value:
                setattr(part, key, new)
        fit_heads(part, before)


def smaller(key: str, value: object, by: int, config: PreTrainedConfig) -> object:
    """A field's new value, or None where it stays."""
    several = isinstance(value, (list, tuple)) and value
    divisible = [is_whole(x) and x % by == 0 and x >= 2 * by for x in (value if several else [value])]
    if WIDTHS.search(key) and not OTHERS.search(key) and all(divisible):
        return type(value)(x // by for x in value) if several else value // by
    if key == "depths" and several:
        return type(value)([1] * len(value))
    if key in ("layer_types", "mlp_layer_types") and several:
        kinds = list(dict.fromkeys(value))
        return (kinds * DEPTH)[: max(DEPTH, len(kinds))]
    if not is_whole(value):
        return None
    if re.search(r"vocab_size$|^n_vocab$", key):
        return min(value, VOCABULARY)
    if DEPTHS.match(key) and not STAGES.match(key):
        return min(value, max(DEPTH, len(set(vars(config).get("layer_types") or ()))))
    if re.search(r"(num|n)_.*experts$", key):
        return min(value, EXPERTS)
    if key in ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "n_group", "num_expert_group"):
        return min(value, 2)
    if key == "topk_group":
        return 1
    if is_token(key, value) and value >= VOCABULARY:
        return 0 if key.startswith("pad") else VOCABULARY - 1 - sum(map(ord, key)) % 900
    return None


def head_width(config: PreTrainedConfig) -> int | None:
    """Features per head, where they follow from the width of states."""
    heads, width = next(fields(config, *HEADS), None), next(fields(config, *STATE_FIELDS), None)
    if heads is None or width is None or is_whole(vars(config).get("head_dim")):
        return None
    return width[1] // heads[1]


def fit_heads(config: PreTrainedConfig, before: int | None) -> None:
    """Fewer heads, as wide as they were if that is possible, else a multiple of four."""
    if before is None:
        return
    (key, heads), (_, width) = next(fields(config, *HEADS)), next(fields(config, *STATE_FIELDS))
    h = width // before
    if width % before or h < (1 if "rope_parameters" in vars(config) else 2):
        h = heads
        while h > 1 and width % (4 * h):
            h -= 1
    setattr(config, key, h)
    for other, groups in fields(config, *GROUPS):
        g = min(groups, h)
        while h % g:
            g -= 1
        setattr(config, other, g)
    if vars(config).get("head_dim", 0) is None:
        config.head_dim = width // h


def make(name: str) -> hf.PreTrainedModel | None:
    """A small model of an architecture; None where there is no class of models.

    Raises:
        NotMade: the rules do not do for it.
    """
    if name in zoo():
        return zoo()[name].model()
    kind = kind_of(name)
    if kind is None:
        return None
    try:
        config = CONFIG_MAPPING[name]()
        shrink(config)
        config._attn_implementation = "eager"
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in kind(config).parameters())
        if count > MOST:
            raise NotMade(f"{count / 1e6:.0f} million parameters")
        torch.manual_seed(0)
        return far_from_zero(kind(config), 0)
    except (Exception, SystemExit) as error:
        raise NotMade(f"{type(error).__name__}: {error}") from error


def inputs_of(model: hf.PreTrainedModel) -> dict[str, Tensor]:
    """Two examples, by the names of the model's arguments: seven words, and an image or a sound where it
    takes nothing else.

    Raises:
        NotMade: they would be too large.
    """
    if model.config.model_type in zoo():
        return zoo()[model.config.model_type].inputs()
    config, draw = model.config, torch.Generator().manual_seed(0)
    names = inspect.signature(model.forward).parameters
    needed = {name for name, x in names.items() if x.default is x.empty}
    main = model.main_input_name if isinstance(model.main_input_name, str) else model.main_input_name[0]
    special = {x for part in parts(config) for key, x in vars(part).items() if is_token(key, x)}
    size = min([x for part in parts(config) for _, x in fields(part, "vocab_size") if x > 0], default=100)
    words = torch.tensor([k for k in range(5, size) if k not in special][:1000] or [1])

    def texts(n: int) -> Tensor:
        return words[torch.randint(len(words), (2, n), generator=draw)]

    def first(*keys: str, default: object) -> object:
        found = (vars(part).get(key) for part in parts(config) for key in keys)
        return next((x for x in found if x is not None), default)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    def image() -> Tensor:
        sides = first("image_size", "img_size", "input_size", default=224)
        sides = [sides["height"], sides["width"]] if isinstance(sides, dict) else sides
        height, width = (sides, sides) if is_whole(sides) else sides[-2:]
        patch, frames = first("patch_size", default=16), first("num_frames", "frames_per_clip", default=1)
        film = is_whole(patch) and is_whole(frames) and frames > 1
        if film and height * width * frames > PATCHES * patch**2:
            raise NotMade("too many patches")
        channels = first("num_channels", "in_channels", "in_chans", default=3)
        return normal(2, channels if is_whole(channels) else 3, height, width)

    given: dict[str, Tensor] = {}
    placed = any("image_token" in key for part in parts(config) for key in vars(part))
    beside = {"text_config", "vision_config"} <= vars(config).keys() and not placed  # as in CLIP
    if main == "pixel_values" or "pixel_values" in needed or beside:
        frames = first("num_frames", default=None) if main == "pixel_values" else None
        picture = image()
        given["pixel_values"] = torch.stack([picture] * frames, 1) if is_whole(frames) else picture
    elif main == "pixel_values_videos":
        frames = first("num_frames", "frames_per_clip", default=8)
        given[main] = torch.stack([image()] * frames, 1)
    elif main == "input_features":
        bins = first("num_mel_bins", "feature_size", "n_mels", "input_feat_per_channel", default=80)
        conv = next((part for part in model.modules() if isinstance(part, nn.Conv1d)), None)
        bins_first = conv is not None and conv.in_channels == bins  # bins before frames
        frames = 2 * first("max_source_positions", default=50)
        given[main] = normal(2, bins, frames) if bins_first else normal(2, 96, bins)
    elif main in SOUND:
        given[main] = normal(2, 4000)
    if main == "inputs":
        given[main] = normal(2, 7, config.d_model)
    if "input_ids" in names and (not given or "input_ids" in needed or beside):
        given["input_ids"] = texts(7)
        if "attention_mask" in names:
            given["attention_mask"] = torch.ones(2, 7, dtype=torch.long)
    if "decoder_input_ids" in names and config.is_encoder_decoder:
        given["decoder_input_ids"] = texts(4)
    if "bbox" in names:
        given["bbox"] = torch.randint(0, 100, (2, 7, 1), generator=draw).expand(-1, -1, 4).contiguous()
    if needed & {"grid_thw", "image_grid_thw"}:  # patches of two images in a row
        grid = torch.tensor([[1, 4, 4], [1, 4, 8]])
        weights = (x for name, x in model.named_parameters() if "patch_embed" in name and x.dim() > 1)
        features = next((x[0].numel() for x in weights), 1)
        given = {name: normal(48, features) for name in needed & {"hidden_states", "pixel_values"}}
        given |= dict.fromkeys(needed & {"grid_thw", "image_grid_thw"}, grid)
    if "query_embeds" in needed:
        given = {"query_embeds": normal(2, 3, config.hidden_size)}
    return given


def returned(output: object) -> list[Tensor]:
    """The attention weights in a model's output."""
    found: list[Tensor] = []

    def add(x: object) -> None:
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 2:
            found.append(x)
        for part in x if isinstance(x, (list, tuple)) else ():
            add(part)

    for key, value in output.items() if isinstance(output, dict) else ():
        if "attention" in key and "mask" not in key:
            add(value)
        elif isinstance(value, dict):
            found += returned(value)
    return found


def has_attention(model: nn.Module) -> bool:
    return any("Attention" in type(part).__name__ for part in model.modules())


def is_returned(weight: Tensor, graphs: list[Tensor]) -> bool:
    """Whether weights that a model returns are those of one of its graphs, ``(b, h, n, m)``.

    Some return them without a prompt of the model's own (CPM-Ant), before the softmax (SqueezeBERT), with
    windows after heads (Hiera), or as the average of heads (WavLM). Rows of padded queries are 0 in a graph.
    """
    if weight.dim() == 4 and weight.shape[1] > 1 and torch.equal(weight, weight[:, :1].expand_as(weight)):
        graphs = [*graphs, *(graph.mean(1, keepdim=True).expand_as(graph) for graph in graphs)]

    forms = [weight, weight.softmax(-1)]
    if weight.dim() == 5:
        forms.append(weight.transpose(1, 2))
    for graph in graphs:
        for form in forms:
            n, m = form.shape[-2:]
            part = graph[..., -n:, -m:] if form.dim() == 4 else graph
            if part.numel() == form.numel():
                rows = (part.sum(-1, keepdim=True) > 0).reshape(*form.shape[:-1], 1)
                if torch.allclose(part.reshape(form.shape), form * rows, atol=1e-5):
                    return True
    return False
