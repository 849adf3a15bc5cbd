"""What the nodes of a running model's attention graphs stand for: words, or parts of an image.

An image encoder's nodes are image nodes, and so are the queries of a Q-Former or resampler, which become image tokens.
A language model's are text, but for those positions of ``input_ids`` (as the model or its embedding layer gets them)
that hold the configuration's image or video token. Cross-attention's values are what the encoder they came from says.
ViLT and LXMERT say it themselves (``attngraph.families``). Whatever is not known this way is None.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attngraph.calls import Call, arguments

Side = str | Tensor | None

IMAGE_NAMES = ("Vision", "QFormer", "Resampler")  # in class names of models or configurations whose nodes are images
IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id")


class Modalities:
    """Follows a model's forward passes with hooks on it and on every model inside it.

    A call belongs to the innermost model that holds its layer; ``now`` is what that model's current nodes stand for,
    and ``whole`` the same for all its tokens so far, those in the key/value cache included.
    """

    KEPT = 8  # encoder outputs remembered

    def __init__(self, model: nn.Module):
        self.models = {name: part for name, part in model.named_modules() if isinstance(part, PreTrainedModel)}
        self.now: dict[str, Side] = {}
        self.whole: dict[str, Side] = {}
        self._outputs: list[tuple] = []  # weak reference to the states, how many, what they stand for
        self._embedded: Tensor | None = None  # the ids that the embedding layer saw last
        self._hooks = [layer.register_forward_pre_hook(self._embed) for layer in self._embeddings()]
        for name, part in self.models.items():
            self._hooks.append(part.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._leave(name)))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def of(self, name: str, call: Call) -> dict[str, Side]:
        """``query_modality`` and ``value_modality`` of a call of the layer ``name``."""
        owner = next(self._around(name), None)
        if call.sides != (None, None) or owner is None:
            query, value = call.sides
        else:
            n, m = call.query.shape[2], call.value.shape[2]
            query = value = self.now.get(owner)
            if isinstance(query, Tensor):
                query = query if query.shape == (call.query.shape[0], n) else None
            if call.kind == "cross":
                value = self._source(call)
            elif isinstance(query, Tensor):
                self.whole[owner] = value = self._continued(owner, query, call.tokens)
                value = None if value is None else value[:, -m:]
        return {"query_modality": _named(query), "value_modality": _named(value)}

    def _embeddings(self) -> set[nn.Module]:
        found = set()
        for part in self.models.values():
            try:
                found.add(part.get_input_embeddings())
            except (NotImplementedError, AttributeError):  # has none
                continue
        return {layer for layer in found if isinstance(layer, nn.Embedding)}

    def _embed(self, layer: nn.Module, args: tuple) -> None:
        self._embedded = args[0] if args else None

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
            given = arguments(part, args, kwargs)
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
        if ids is None and embeds is None:
            return None
        if not tokens:
            return "text"
        if ids is None:
            for outer in around[1:]:
                side = self.now.get(outer)
                if isinstance(side, Tensor) and side.shape == embeds.shape[:2]:
                    return side
            b, n = embeds.shape[:2]
            ids = self._embedded
            if ids is None or ids.shape[1:] != (n,) or b % ids.shape[0]:
                return None
            ids = ids.repeat_interleave(b // ids.shape[0], 0)  # beams copy the embedded prompt
        return torch.isin(ids, torch.tensor(tokens, device=ids.device))

    def _leave(self, name: str):
        def after(part: PreTrainedModel, args: tuple, output) -> None:
            states = output if isinstance(output, Tensor) else next(iter(_values(output)), None)
            if isinstance(states, Tensor) and states.dim() == 3 and self.now.get(name) is not None:
                kept = None if states.is_inference() else weakref.ref(states)
                self._outputs = [*self._outputs[1 - self.KEPT:], (kept, states.shape[1], self.now[name])]

        return after

    def _source(self, call: Call) -> Side:
        """What the states stand for that cross-attention attends to: those very states' encoder says, or else (beams
        copy them) all encoders that gave as many."""
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
