"""A graph adapter for one attention layer: a message-passing scheme, a join and a bottleneck."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.config import AdapterConfig
from adapters.joins import JOINS
from adapters.scheme import Scheme, attention
from attngraph.errors import UserError
from attngraph.reading.calls import Call
from attngraph.reading.heads import merge_heads


class GraphAdapter(nn.Module):
    """A scheme and a join for one attention layer.

    Args:
        config: what the adapter is made of.
        width: feature width after the output projection.
        scheme: the scheme to use; layers may share one.
    """

    def __init__(self, config: AdapterConfig, width: int, scheme: Scheme):
        super().__init__()
        self.scheme = scheme
        self.join = JOINS[config.join](width, max(1, width // config.reduction))
        self.backend = config.backend
        self.top_k = config.top_k
        self._warned = False

    def aggregate(self, call: Call) -> Tensor:
        """Run the scheme on the graph of an attention call.

        In training, the scheme starts from the attention scores where it can
        (:meth:`~adapters.scheme.Scheme.attend`): there it has faster ways, which also give the attention
        output if all queries are valid. In evaluation it starts from the model's own attention weights, so
        that a new adapter changes nothing, to the last bit. The tiled backend always starts from the scores.
        When a model decodes with a key/value cache, adapters that see the same edges share the running
        degrees kept there.

        Args:
            call: what the attention layer computed. Its ``context`` is set where the scheme computes it
                anyway.

        Returns:
            Aggregated features with merged heads, ``(b, n, h·d)``.
        """
        metric = call.site.metric(*call.query.shape[1::2])
        tiled = self.backend == "tiled"
        from_scores = self.top_k is None and (tiled or (self.training and self.backend == "dense"))
        scores = call.scores(metric) if from_scores else None
        if scores is not None:
            aggregated, context = self.scheme.attend(scores, self.backend, context=call.whole)
            if not call.whole and tiled:
                context = attention(replace(scores, query_mask=None))
            if context is not None:
                call.context = context
            return merge_heads(aggregated)
        if tiled and not self._warned:
            self._warned = True
            warnings.warn(
                f"{call.site.name} holds its attention weights for now, in spite of the tiled backend: dropout, "
                "a key/value cache, top_k or attention that is more than a softmax of masked scores",
                stacklevel=2,
            )
        graph = call.graph(dropped=True, metric=metric)
        owner = "adapter"
        if self.top_k is not None:
            graph, owner = graph.sparsify(top_k=self.top_k), f"adapter top {self.top_k}"
        return merge_heads(self.scheme(call.remember(graph, owner), self.backend))


# ---- leaving together with adapters/blip.py ----

CONFIG_KEY = "attngraph_adapter"
SCALAR_SPEED = 10


def move(module: nn.Module, to: nn.Module, like: Tensor) -> None:
    """Into the mode (training or evaluation) of the module it is put into, onto the device and into the
    precision of a weight. Single numbers (a share, p, μ) stay in single precision, since half precision would
    swallow their steps; what is still to be loaded (on ``meta``) stays there."""
    module.train(to.training)
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(like.device, like.dtype if parameter.dim() else torch.float32)


def parameter_groups(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> list[dict]:
    """Groups for an optimiser: matrices, which are decayed; biases; and single numbers (a join's share, p,
    μ).

    Adam moves every parameter by about the learning rate per step. That suits matrices, but a share has the
    whole way from 0 to 1 to go, so single numbers step :data:`10` times as far.
    """
    return [
        {"params": [p for p in parameters if p.dim() > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "lr": learning_rate, "weight_decay": 0.0},
        {
            "params": [p for p in parameters if p.dim() == 0],
            "lr": 10 * learning_rate,
            "weight_decay": 0.0,
        },
    ]


class AdapterSet:
    """All adapters in one model.

    Attributes:
        config: what they are made of.
        modules: ``{place: module}``; the modules also belong to the model's own module tree.
        layers: ``{name of the attention layer: adapter}`` for those after attention, named as
            :func:`attngraph.capture` names the layers of the adapted model's text decoder.
        enabled: whether the adapters run; use :meth:`disabled`.
    """

    def __init__(
        self, config: AdapterConfig, modules: dict[str, nn.Module], layers: dict[str, GraphAdapter], detach
    ):
        self.config, self.modules, self.layers, self.enabled = config, modules, layers, True
        self._detach = detach

    def parameters(self) -> list[nn.Parameter]:
        """Every trainable parameter of the adapters."""
        return list(dict.fromkeys(p for module in self.modules.values() for p in module.parameters()))

    def optimizer_groups(self, learning_rate: float, weight_decay: float) -> list[dict]:
        """See :func:`parameter_groups`."""
        return parameter_groups(self.parameters(), learning_rate, weight_decay)

    def count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """``{place.parameter: tensor}``."""
        return {
            f"{place}.{name}": tensor
            for place, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy tensors in.

        Raises:
            UserError: names or shapes do not fit; nothing is loaded then.
        """
        own = self.state_dict()
        wrong = sorted(set(own) ^ set(state)) or sorted(k for k in own if own[k].shape != state[k].shape)
        if wrong:
            raise UserError(
                f"the adapter weights do not fit this model: {wrong[0]} and {len(wrong) - 1} more differ; "
                "use the same base model and adapter settings as when they were saved"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def save(self, path: str | Path) -> None:
        """Write weights and configuration to one safetensors file (complete or not at all).

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {k: v.detach().cpu().clone().contiguous() for k, v in self.state_dict().items()},
                part,
                metadata={CONFIG_KEY: json.dumps(self.config.to_dict())},
            )
            part.replace(path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f"{path} cannot be written ({error}): give the name of a file in a folder you may write to"
            ) from error

    def load(self, path: str | Path) -> None:
        """Read weights written by :meth:`save` for the same configuration.

        Raises:
            UserError: no such file, a damaged one, or weights of another adapter.
        """
        config, state = read_adapter(path)
        if config != self.config:
            raise UserError(
                f"{path} holds a {config.gnn}/{config.join} adapter with other settings than this "
                f"{self.config.gnn}/{self.config.join} one; make one with adapters.adapter.read_adapter's config"
            )
        self.load_state_dict(state)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model is exactly the frozen one."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def detach(self) -> None:
        """Take the adapters out; the model's modules, and which of its parameters are trainable, are as before."""
        self._detach()


def read_adapter(path: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Configuration and weights from a file written by :meth:`AdapterSet.save`.

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        with safe_open(str(path), "pt") as file:
            config = json.loads((file.metadata() or {})[CONFIG_KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}
        return AdapterConfig(**config), state
    except UserError as error:  # settings that this version does not know
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such adapter file") from None
    except (SafetensorError, KeyError, json.JSONDecodeError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is not a readable adapter file ({type(error).__name__}): train it again or take a backup"
        ) from None
