"""What the nodes of a running model's attention graphs stand for: words, or parts of an image.

An image encoder's nodes are image nodes, and so are the queries of a Q-Former or resampler, which become image tokens. A
language model's are text, but for those positions of ``input_ids`` that the configuration's image (or video) token
holds. Cross-attention's values are what the encoder they came from says. ViLT and LXMERT say it themselves
(``attngraph.families``). Whatever is not known this way is None.
"""

from __future__ import annotations

import inspect
import weakref
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attngraph.calls import Call

Side = str | Tensor | None

IMAGE_NAMES = ("Vision", "QFormer", "Resampler")  # in the class names of models or configurations whose nodes are images
IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id")


class Modalities:
    """Follows a model's forward passes with hooks on it and on every model inside it.

    A call belongs to the innermost model that holds its layer; ``now`` is what that model's current nodes stand for, and
    ``whole`` the same for all its tokens so far, those in the key/value cache included.
    """

    KEPT = 8  # encoder outputs remembered

    def __init__(self, model: nn.Module):
        self.models = {name: part for name, part in model.named_modules() if isinstance(part, PreTrainedModel)}
        self.now: dict[str, Side] = {}
        self.whole: dict[str, Side] = {}
        self._outputs: list[tuple] = []  # weak reference to the states, how many, what they stand for
        self._hooks = []
        for name, part in self.models.items():
            self._hooks.append(part.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._leave(name)))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def of(self, name: str, call: Call) -> dict[str, Side]:
        """``query_modality`` and ``value_modality`` of a call of the layer ``name``."""
        owner = next((k for k in self._around(name)), None)
        if call.sides != (None, None) or owner is None:
            query, value = call.sides
        else:
            n, m = call.query.shape[2], call.value.shape[2]
            query = value = self.now[owner] if owner in self.now else None
            if isinstance(query, Tensor):
                query = query if query.shape == (call.query.shape[0], n) else None
            if call.kind == "cross":
                value = self._source(call)
            elif isinstance(query, Tensor):
                self.whole[owner] = value = self._continued(owner, query, call.tokens)
                value = None if value is None else value[:, -m:]
        return {"query_modality": _named(query), "value_modality": _named(value)}

    def _around(self, name: str):
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
        if whole is None or whole.shape[0] != now.shape[0] or whole.shape[1] < earlier:
            return None
        return torch.cat([whole[:, :earlier], now], 1)

    def _enter(self, name: str):
        def before(part: PreTrainedModel, args: tuple, kwargs: dict) -> None:
            bound = _signature(type(part)).bind_partial(part, *args, **kwargs).arguments
            given = bound | bound.get("kwargs", {})
            self.now[name] = self._tell(name, part, given.get("input_ids"), given.get("inputs_embeds"))

        return before

    def _tell(self, name: str, part: PreTrainedModel, ids: Tensor | None, embeds: Tensor | None) -> Side:
        kinds = type(part).__name__, type(part.config).__name__
        if part.main_input_name.startswith("pixel") or any(word in kind for word in IMAGE_NAMES for kind in kinds):
            if ids is None:
                return "image"
        around = list(self._around(name))
        tokens = [getattr(self.models[k].config, token, None) for k in around for token in IMAGE_TOKENS]
        tokens = [token for token in tokens if token is not None]
        if ids is not None:
            return torch.isin(ids, torch.tensor(tokens, device=ids.device)) if tokens else "text"
        if embeds is None:
            return None
        for outer in around[1:]:
            side = self.now.get(outer)
            if isinstance(side, Tensor) and side.shape == embeds.shape[:2]:
                return side
        return None if tokens else "text"

    def _leave(self, name: str):
        def after(part: PreTrainedModel, args: tuple, output) -> None:
            states = output if isinstance(output, Tensor) else next((x for x in _values(output)), None)
            if isinstance(states, Tensor) and states.dim() == 3 and self.now.get(name) is not None:
                kept = None if states.is_inference() else weakref.ref(states)
                self._outputs = [*self._outputs[1 - self.KEPT:], (kept, states.shape[1], self.now[name])]

        return after

    def _source(self, call: Call) -> Side:
        """What the states stand for that cross-attention attends to: those very states' encoder, or else (beams copy them)
        what all encoders say that gave as many."""
        b, m = call.value.shape[0], call.value.shape[2]
        found = [side for kept, _, side in self._outputs if kept is not None and call.source is not None
                 and kept() is call.source][-1:]
        found = found or [side for _, many, side in self._outputs if many == m]
        if any(isinstance(side, Tensor) for side in found):
            side = found[-1]
            if len(found) > 1 or side.shape[1] != m or b % side.shape[0]:
                return None
            return side.repeat_interleave(b // side.shape[0], 0)
        return found[0] if len(set(found)) == 1 else None


def _values(output):
    return output.values() if isinstance(output, dict) else output


def _named(side: Side) -> Side:
    """A mask under the modality's name if it holds only one."""
    if not isinstance(side, Tensor):
        return side
    images = int(side.sum())
    return "text" if images == 0 else "image" if images == side.numel() else side


@lru_cache(maxsize=None)
def _signature(kind: type) -> inspect.Signature:
    return inspect.signature(kind.forward)
