"""Modality of the nodes of a running model's attention graphs: words, or parts of an image.

An image encoder's nodes are image nodes, and so are the queries of a Q-Former or resampler, which become
image tokens (an instruction after them is text). A language model's are text, but for those positions of
``input_ids`` (as the model or its embedding layer gets them) that hold the configuration's image or video
token, or that an argument marks for an image. The values of cross-attention have the modality of their
encoder. Layers that need more than these rules are listed in :data:`KNOWN`, and families may declare it
(``attngraph.reading.families``). Otherwise the modality is None, for instance in a model that
takes images and text and does not mark where the images are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from attngraph.reading.calls import Call
from attngraph.reading.state import arguments

Side = str | Tensor | None
"""The modality of one side's nodes; see :class:`attngraph.AttentionGraph`."""

IMAGE_NAMES = ("Vision", "QFormer", "Resampler")
"""In class names of models or configurations whose nodes are images."""
IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id")
"""Fields of configurations."""
WORDS = ("input_ids", "inputs_embeds")
"""Names of arguments that hold words."""
IMAGE_INPUTS = ("pixel_values", "flattened_patches", "visual_embeds", "visual_feats")
"""How names of arguments start that hold images."""


class KnownLayers(NamedTuple):
    """Layers whose modalities no general rule gives."""

    model: str  # pattern for the class of the innermost model
    layers: str  # pattern for names of layers in it
    query: str | None
    value: str | None


KNOWN = (
    KnownLayers("BridgeTowerTextModel", "*", "text", "text"),
    KnownLayers("BridgeTowerVisionModel", "*", "image", "image"),
    KnownLayers("BridgeTowerModel", "cross_modal_text_layers.*.crossattention.*", "text", "image"),
    KnownLayers("BridgeTowerModel", "cross_modal_image_layers.*.crossattention.*", "image", "text"),
    KnownLayers("BridgeTowerModel", "cross_modal_text_layers.*", "text", "text"),
    KnownLayers("BridgeTowerModel", "cross_modal_image_layers.*", "image", "image"),
    KnownLayers("Florence2VisionBackbone", "*.channel_attn", None, None),  # nodes are channels
    KnownLayers("Kosmos2*", "image_to_text_projection.x_attn", "image", "image"),
    KnownLayers("LxmertModel", "encoder.layer.*", "text", "text"),
    KnownLayers("LxmertModel", "*.lang_self_att.*", "text", "text"),
    KnownLayers("LxmertModel", "encoder.r_layers.*", "image", "image"),
    KnownLayers("LxmertModel", "*.visn_self_att.*", "image", "image"),
    KnownLayers("MllamaTextModel", "*.cross_attn", "text", "image"),
    KnownLayers("MllamaTextModel", "*", "text", "text"),  # its image token says where the image belongs
)


MIXED = {
    "FlavaMultimodalModel": "image first",
    "GitModel": "image first",
    "ViltModel": "words first",
    "VisualBertModel": "words first",
}
"""``{class of the innermost model: which nodes come first}`` where its nodes are words and an image, and the
words are those that it, or the model around it, is given."""


class Words(NamedTuple):
    """Number of words among a model's nodes of image and text, and which come first."""

    words: int
    order: str

    def images(self, b: int, n: int, device: torch.device) -> Tensor:
        """Bool ``(b, n)``, which nodes are of the image."""
        place = torch.arange(n, device=device)
        image = place < n - self.words if self.order == "image first" else place >= self.words
        return image.expand(b, -1)


class Output(NamedTuple):
    """Output states of a model."""

    states: weakref.ref[Tensor] | None
    length: int
    side: Side  # what they stand for


class Modalities:
    """Follows a model's forward passes with hooks on it and on every model inside it.

    A call belongs to the innermost model that holds its layer; ``now`` is what that model's current nodes
    stand for, and ``whole`` the same for all its tokens so far, those in the key/value cache included.
    """

    KEPT = 8  # encoder outputs remembered

    def __init__(self, model: nn.Module):
        self.models = {
            name: part for name, part in model.named_modules() if isinstance(part, PreTrainedModel)
        }
        self.now: dict[str, Side | Words] = {}
        self.whole: dict[str, Side] = {}
        self.has_image: dict[str, bool] = {}  # whether a model was given an image
        self.words: dict[str, int | None] = {}  # how many words it was given
        self._outputs: list[Output] = []
        self._embedded: Tensor | None = None  # the ids that the embedding layer saw last
        self._hooks: list[Any] = [
            layer.register_forward_pre_hook(self._embed) for layer in self._embeddings()
        ]
        for name, part in self.models.items():
            self._hooks.append(part.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._leave(name)))

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def of(self, name: str, call: Call) -> tuple[Side, Side]:
        """The modalities of queries and values in a call of the layer ``name``."""
        owner = next(self._around(name), None)
        if call.sides != (None, None) or owner is None:
            query, value = call.sides
        elif (known := self._known(owner, name)) is not None:
            query, value = known
        else:
            b, _, n, _ = call.query.shape
            m = call.value.shape[2]
            now = self.now.get(owner)
            query = now.images(b, n, call.query.device) if isinstance(now, Words) else now
            queries = _is(self.models[owner], "QFormer")
            if isinstance(query, Tensor):
                if call.kind == "cross" and queries:
                    query = query[:, :n]  # words take no part in it
                query = query if query.shape == (b, n) else None
            value = query
            if call.kind == "cross":
                value = self._source(call, inside=isinstance(query, str) and query == "image" and not queries)
            elif isinstance(query, Tensor):
                self.whole[owner] = value = self._continued(owner, query, call.tokens)
                value = None if value is None else value[:, -m:]
        return _named(query), _named(value)

    def _known(self, owner: str, name: str) -> tuple[Side, Side] | None:
        """Entry of a layer in :data:`KNOWN`."""
        model, layer = type(self.models[owner]).__name__, name[len(owner) :].removeprefix(".")
        for known in KNOWN:
            if fnmatchcase(model, known.model) and fnmatchcase(layer, known.layers):
                return known.query, known.value
        return None

    def _embeddings(self) -> set[nn.Embedding]:
        embeddings: set[Any] = set()
        for part in self.models.values():
            try:
                embeddings.add(part.get_input_embeddings())
            except (NotImplementedError, AttributeError):  # there is none
                continue
        return {layer for layer in embeddings if isinstance(layer, nn.Embedding)}

    def _embed(self, layer: nn.Module, args: tuple) -> None:
        self._embedded = args[0] if args else None

    def _around(self, name: str) -> Iterator[str]:
        """The models that hold a module or are it, innermost first."""
        while True:
            if name in self.models:
                yield name
            if not name:
                return
            name = name.rpartition(".")[0]

    def _continued(self, owner: str, now: Tensor, tokens: int) -> Tensor | None:
        """All tokens so far: those of earlier calls, as many as the cache holds, and those of this one."""
        earlier = tokens - now.shape[1]
        if earlier == 0:
            return now
        whole = self.whole.get(owner)
        if not isinstance(whole, Tensor) or whole.shape[0] != now.shape[0] or whole.shape[1] < earlier:
            return None
        return torch.cat([whole[:, :earlier], now], 1)

    def _enter(self, name: str) -> Callable[[PreTrainedModel, tuple, dict], None]:
        """Hook that notes the modality of a model's nodes before it runs."""

        def before(part: PreTrainedModel, args: tuple, kwargs: dict) -> None:
            given = arguments(part, args, kwargs)
            self.has_image[name] = any(
                key.startswith(IMAGE_INPUTS) and value is not None for key, value in given.items()
            )
            states = next((given[x] for x in WORDS if isinstance(given.get(x), Tensor)), None)
            self.words[name] = None if states is None else states.shape[1]
            self.now[name] = self._inputs(name, part, given)

        return before

    def _inputs(self, name: str, part: PreTrainedModel, given: dict[str, Any]) -> Side | Words:
        """Modality of the nodes that a model makes from its arguments."""
        if type(part).__name__ in MIXED:
            counts = (self.words.get(outer) for outer in self._around(name))
            count = next((x for x in counts if x is not None), None)
            return None if count is None else Words(count, MIXED[type(part).__name__])
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        if isinstance(given.get("query_embeds"), Tensor):
            return _queries_first(given["query_embeds"], given.get("query_length"), ids)
        if ids is None and (part.main_input_name.startswith("pixel") or _is(part, *IMAGE_NAMES)):
            return "image"
        if ids is None and embeds is None:
            return None
        if _is(part, "Kosmos2"):
            tokens = ids if embeds is None else embeds[..., 0]
            return None if tokens is None else _filled(given, tokens)
        around = list(self._around(name))
        fields = [getattr(self.models[k].config, field, None) for k in around for field in IMAGE_TOKENS]
        image_tokens = [token for token in fields if token is not None]
        if not image_tokens:
            mixed = self.has_image[name] or (
                ids is None and any(self.has_image.get(outer) for outer in around)
            )
            return None if mixed else "text"
        if ids is None:
            assert isinstance(embeds, Tensor)
            for outer in around[1:]:
                side = self.now.get(outer)
                if isinstance(side, Tensor) and side.shape == embeds.shape[:2]:
                    return side
            b, n = embeds.shape[:2]
            ids = self._embedded
            if ids is None or ids.shape[1:] != (n,) or b % ids.shape[0]:
                return None
            ids = ids.repeat_interleave(b // ids.shape[0], 0)  # beams copy the embedded prompt
        return torch.isin(ids, torch.tensor(image_tokens, device=ids.device))

    def _leave(self, name: str) -> Callable[[PreTrainedModel, tuple, Any], None]:
        """Hook that notes a model's output after it ran."""

        def after(part: PreTrainedModel, args: tuple, output: Any) -> None:
            states = output if isinstance(output, Tensor) else next(iter(_values(output)), None)
            said = getattr(output, "image_nodes", None)  # a custom model may declare it
            side = self.now.get(name) if said is None else said
            if isinstance(states, Tensor) and states.dim() == 3 and side is not None:
                if isinstance(side, Words):
                    side = side.images(states.shape[0], states.shape[1], states.device)
                kept = None if states.is_inference() else weakref.ref(states)
                entry = Output(kept, states.shape[1], side)
                self._outputs = [*self._outputs[1 - self.KEPT :], entry]

        return after

    def _source(self, call: Call, inside: bool) -> Side:
        """Modality of the states that cross-attention attends to.

        It is that of their encoder, or else (beams copy states) that of all encoders with as many outputs.

        Args:
            inside: whether the layer is part of an image encoder, which attends to images only.
        """
        b, m = call.value.shape[0], call.value.shape[2]
        sides = [
            output.side
            for output in self._outputs
            if output.states is not None and call.source is not None and output.states() is call.source
        ][-1:]
        if inside:
            return sides[0] if sides else "image"
        sides = sides or [output.side for output in self._outputs if output.length == m]
        if any(isinstance(side, Tensor) for side in sides):
            side = sides[-1]
            if len(sides) > 1 or not isinstance(side, Tensor) or side.shape[1] != m or b % side.shape[0]:
                return None
            return side.repeat_interleave(b // side.shape[0], 0)
        return sides[0] if len(set(sides)) == 1 else None


def _is(part: PreTrainedModel, *words: str) -> bool:
    """Whether the class name of a model or of its configuration holds one of the words."""
    return any(word in kind for word in words for kind in (type(part).__name__, type(part.config).__name__))


def _queries_first(queries: Tensor, count: int | None, ids: Tensor | None) -> Side:
    """A Q-Former's nodes: ``count`` queries (default: all that are embedded as such) and then words."""
    n = queries.shape[1] + (0 if ids is None else ids.shape[1])
    count = queries.shape[1] if count is None else count
    if count in (0, n):
        return "image" if count else "text"
    return (torch.arange(n, device=queries.device) < count).expand(len(queries if ids is None else ids), -1)


def _filled(given: dict, tokens: Tensor) -> Side:
    """The places that Kosmos-2 fills with the image; it fills none once its cache holds something."""
    mask = given.get("image_embeds_position_mask")
    decoding = any(isinstance(value, Cache) and value.get_seq_length() for value in given.values())
    if mask is None or decoding:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return mask.bool() if mask.shape == tokens.shape else None


def _values(output: Any) -> Any:
    return output.values() if isinstance(output, dict) else output


def _named(side: Side) -> Side:
    """A mask under the modality's name if it holds only one."""
    if not isinstance(side, Tensor):
        return side
    images = int(side.sum())
    return "text" if images == 0 else "image" if images == side.numel() else side
