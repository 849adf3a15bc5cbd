"""The modules that PEFT puts in the place of output projections."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from attngraph.adapters.adapter import GraphAdapter
from attngraph.adapters.config import GraphAdapterConfig
from attngraph.adapters.joins import Bottleneck
from attngraph.adapters.peft.other_methods import find_base, refuse_left_out, refuse_turned
from attngraph.adapters.rescale import rescaled
from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import Scheme
from attngraph.errors import UserError
from attngraph.reading.calls import Call
from attngraph.reading.heads import merge_heads
from attngraph.reading.outputs import apply, place, widths
from attngraph.reading.per_thread import PerThread

ADAPTERS = "gnn_adapter"
"""The attribute of every layer that holds its adapters by name; part of the names of saved weights."""

BASE = "__base__"
"""PEFT's name for no adapter, for an example of a mixed batch."""

FROZEN = (
    "the graph adapters learn nothing: they were frozen after they were added (prompt tuning and prefix "
    "tuning freeze the whole model below them); call set_requires_grad(adapter name) on the model with the "
    "graph adapters to train them too, or set_requires_grad(adapter name, False) to keep them frozen"
)
NO_GRADIENT = "torch.ao.nn.quantized"  # where the classes of such layers are
NOT_MERGED = (
    "a graph adapter depends on the attention of each input, so it can't be merged into the weights: remove "
    "it with delete_adapter(adapter name) to merge LoRA; unload() removes both"
)
NEVER_MERGED = "graph adapters are never merged into weights: there is nothing to unmerge"


@dataclass(frozen=True)
class MixedBatch:
    """Which adapter each example of a batch runs (PEFT's ``adapter_names``).

    Attributes:
        names: an adapter's name, or :data:`BASE`, for each example.
        copies: how often each example may be in a batch, one after the other: once, and in a decoder with
            beams as often as there are beams.
    """

    names: tuple[str, ...]
    copies: Collection[int] = (1,)

    def expanded(self, batch: int, any_number: bool = False) -> list[str]:
        """The names for each row of a batch.

        Args:
            batch: number of rows.
            any_number: whether an example may have any number of rows, for instance a row per token.

        Raises:
            UserError: a number of rows that does not fit the names.
        """
        copies, rest = divmod(batch, len(self.names))
        if rest or not (any_number or copies in self.copies):
            raise UserError(
                f"adapter_names has {len(self.names)} names for a batch of {batch}: use one for each "
                "example (and call generate with num_beams or num_return_sequences, if it uses several)"
            )
        return [name for name in self.names for _ in range(copies)]


class Part(NamedTuple):
    """An adapter and the rows of the batch that it is for; None: all of them."""

    adapter: Any
    rows: list[int] | None = None


class GraphLayer(nn.Module, BaseTunerLayer):
    """A frozen output projection with named adapters, of which at most one is active (several in a mixed
    batch, each for its examples).

    Args:
        base_layer: the projection.
        name: its path in the model.
    """

    adapter_layer_names = (ADAPTERS,)
    base_layer: nn.Module

    def __init__(self, base_layer: nn.Module, name: str):
        super().__init__()
        self.base_layer = base_layer
        self.training = base_layer.training
        self.name = name
        self.gnn_adapter = nn.ModuleDict()
        self._learning: set[str] = set()  # adapters that are to be trained, as set through PEFT
        # what holds it, under which name, and a hook; in a tuple, as that module is not part of this one
        self._watched: tuple[nn.Module, str, Any] | None = None
        self._ran: set[int] = set()  # threads in which the layer ran in the holder's present pass
        self._compiled = False
        self._mixed: dict[int, MixedBatch] = {}  # by thread
        self.in_features, self.out_features = widths(self.projection)

    def add(self, adapter_name: str, config: GraphAdapterConfig, scheme: Scheme) -> None:
        """Add a new adapter.

        Args:
            adapter_name: its name.
            config: its configuration.
            scheme: its message-passing scheme.
        """
        adapter = self.make(config, scheme)
        if not config.init_weights:
            for name, module in adapter.named_modules():
                if name.endswith("share"):
                    module.set(0.5)
                elif name.partition(".")[0] != "scheme":
                    for parameter in module.parameters(recurse=False):
                        nn.init.normal_(parameter, std=0.3)
        self._adopt(adapter)
        self.gnn_adapter[adapter_name] = adapter

    def make(self, config: GraphAdapterConfig, scheme: Scheme) -> nn.Module:
        """A new adapter for this kind of layer."""
        raise NotImplementedError

    def _adopt(self, adapter: nn.Module) -> None:
        """Give a new adapter the layer's mode (training or evaluation), and its base layer's device and
        precision (float32 for quantised weights).

        Scalars (p, μ, the weight of a join) stay in single precision. Parameters on ``meta`` stay there:
        their values are loaded later, or the model is only built to count its parameters.
        """
        adapter.train(self.training)
        device, precision = place(self.projection)
        if device.type == "meta":
            adapter.to("meta")
        for module in adapter.modules():
            for parameter in module.parameters(recurse=False):
                if not parameter.is_meta:
                    dtype = torch.float32 if isinstance(module, Scalar) else precision
                    parameter.data = parameter.data.to(device, dtype)

    @property
    def projection(self) -> Any:
        """The innermost projection, an ``nn.Linear``, transformers' ``Conv1D`` or a quantised layer."""
        return self.get_base_layer()

    @property
    def active_module(self) -> Any:
        """The adapter that PEFT's ``set_adapter`` chose, also while adapters are disabled; None if it is not
        on this layer."""
        ours: Any = self._modules[ADAPTERS]  # asked for several times in each pass
        active = self.active_adapter
        for name in [active] if isinstance(active, str) else active:
            if name in ours._modules:
                return ours._modules[name]
        return None

    @property
    def enabled_module(self) -> Any:
        """:attr:`active_module`, or None while adapters are disabled."""
        return None if self.disable_adapters else self.active_module

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        ours = [name for name in names if name in self.gnn_adapter]
        if len(ours) > 1:
            raise UserError(
                f"{' and '.join(ours)} can't run together: choose one graph adapter with set_adapter"
            )
        super().set_adapter(adapter_names, inference_mode)
        self._learning = set() if inference_mode else set(ours)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
        self._learning = self._learning | names if requires_grad else self._learning - names

    def set_mixed_batch(self, mixed: MixedBatch | None) -> None:
        """Say which adapters the examples of the calling thread's next passes run; None: the active one."""
        self._mixed.pop(threading.get_ident(), None)
        if mixed is not None:
            self._mixed[threading.get_ident()] = mixed

    def _parts(self, batch: int, tokens: bool = False) -> list[Part]:
        """The adapters that run in this pass; see :meth:`MixedBatch.expanded`."""
        mixed = self._mixed.get(threading.get_ident()) if self._mixed else None
        if mixed is None or self.disable_adapters:
            adapter = self.enabled_module
            return [] if adapter is None else [Part(adapter)]
        names = mixed.expanded(batch, tokens)
        return [
            Part(self.gnn_adapter[name], [k for k, other in enumerate(names) if other == name])
            for name in dict.fromkeys(names)
            if name in self.gnn_adapter
        ]

    def _check_learning(self) -> None:
        """Warn if the adapter is to be trained and something else froze it.

        Raises:
            UserError: it is to be trained on a projection that lets no gradient pass.
        """
        if not (self.training and self._learning and torch.is_grad_enabled()):
            return
        adapter = self.enabled_module
        if adapter is None:
            return
        if not any(parameter.requires_grad for parameter in adapter.parameters()):
            warnings.warn(FROZEN, stacklevel=2)
        elif type(self.projection).__module__.startswith(NO_GRADIENT):
            raise UserError(
                f"{self.name} was quantised by torch.ao.quantization, and no gradient passes through such "
                "layers: train the adapters on the model before it is quantised, and load them here to run"
            )

    def watch(self, holder: nn.Module, path: str) -> None:
        """Check after each pass of a module that the layer took part in it.

        PEFT methods and kernels that read the frozen weight instead of calling the layer would silently skip
        the adapter.

        Args:
            holder: the smallest module that cannot run without the layer.
            path: the name of the layer, or of its wrapper, within ``holder``.
        """
        self.unwatch()
        parent, _, name = path.rpartition(".")
        hook = holder.register_forward_hook(self._check_ran)
        self._watched = holder.get_submodule(parent), name, hook

    def unwatch(self) -> None:
        """The opposite of :meth:`watch`."""
        if self._watched is not None:
            self._watched[2].remove()
            self._watched = None

    def around(self) -> list[Any]:
        """The layers of other methods of PEFT around this one, the outermost first."""
        module: Any = self if self._watched is None else self._watched[0]._modules[self._watched[1]]
        layers: list[Any] = []
        while module is not None and module is not self:
            layers.append(module)
            module = find_base(module)
        return layers

    def _note_run(self) -> None:
        if torch.compiler.is_compiling():  # threads cannot be distinguished: nothing is checked then
            self._compiled = True
        else:
            self._ran.add(threading.get_ident())

    def _left_out(self) -> bool:
        """Whether the layer had no part in the pass of its holder that ends now."""
        thread = threading.get_ident()
        left_out = thread not in self._ran
        self._ran.discard(thread)
        return left_out

    def _check_ran(self, holder: nn.Module, args: tuple, output: object) -> None:
        compiled, self._compiled = self._compiled, False
        if torch.compiler.is_compiling():
            return
        left_out = self._left_out()
        others = self.around()
        if compiled or not (left_out or others) or self.enabled_module is None:
            return
        if others and find_base(others[-1]) is not self:  # the unload() of another method took it out
            self.unwatch()
            return
        if left_out and not others:
            raise UserError(
                f"the adapter on {self.name} was not used in a pass of {type(holder).__name__}, which reads "
                "the weight of that projection instead of calling it: exclude it with exclude_modules=[...]"
            )
        refuse_left_out(self.name, others, left_out)

    def merge(self, *args: Any, **options: Any) -> None:
        """Called by PEFT when another method in the same model is merged.

        Raises:
            UserError: always.
        """
        raise UserError(NOT_MERGED)

    def unmerge(self) -> None:
        """Called by PEFT when another method in the same model is unmerged; warns, as PEFT's own layers do if
        nothing is merged."""
        warnings.warn(NEVER_MERGED, stacklevel=2)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Called by PEFT after loading; loaded numbers keep their precision."""
        if adapter_name in self.gnn_adapter:
            self.gnn_adapter[adapter_name].to(device or place(self.projection)[0])


def find_layer(module: nn.Module) -> GraphLayer | None:
    """The :class:`GraphLayer` in what PEFT has made of a projection, also below LoRA's layer; or None."""
    layer: nn.Module | None = module
    while layer is not None and not isinstance(layer, GraphLayer):
        layer = find_base(layer)
    return layer


def working_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The precision in which an adapter works: that of its weights, or of its input where autocast chooses
    the precision of each operation.
    """
    return x.dtype if not x.is_meta and torch.is_autocast_enabled(x.device.type) else weight.dtype


class FeedForwardLayer(GraphLayer):
    r"""The output projection of a feed-forward block with the vanilla adapter.

    .. math:: x + \sigma(x W_{down}) W_{up}

    A dropout of the model after the projection acts on this sum.

    Args:
        base_layer, name: as for :class:`GraphLayer`.
    """

    def make(self, config: GraphAdapterConfig, scheme: Scheme) -> Bottleneck:
        return Bottleneck(self.out_features, max(1, self.out_features // config.reduction))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The projection of ``(..., inner width)`` and the adapter's update, ``(..., width)``."""
        self._note_run()
        self._check_learning()
        output = self.base_layer(hidden_states)
        for adapter, rows in self._parts(len(output), tokens=output.dim() == 2):
            projected = output if rows is None else output[rows]
            wide = projected.to(working_dtype(projected, adapter.down.weight))
            output = _with_rows(output, rows, wide + adapter(wide))
        return output


class Pending:
    """Results that :meth:`OutputLayer.listen` leaves for :meth:`OutputLayer.forward`, separate in each
    thread.

    Attributes:
        result: the attention output, if it is to be checked, and the output of each active adapter's scheme;
            None before and after.
    """

    def __init__(self):
        self.result: tuple[Tensor | None, list[tuple[Part, Tensor]]] | None = None


class OutputLayer(GraphLayer):
    r"""The output projection :math:`W_o` of an attention layer with a graph adapter.

    The attention layer calls :meth:`listen`, where the scheme runs on the layer's graph; then the model calls
    :meth:`forward` with the attention output, and the adapter joins both. The metric of the graph is that of
    the frozen :math:`W_o`.

    Order of operations: the adapter follows :math:`W_o` and its bias directly. A dropout that the model has
    after :math:`W_o` acts on the adapter's output; it is never between :math:`W_o` and the adapter.
    Residual connection and LayerNorm follow. Where LoRA is on the same projection, its update of the
    attention output is added to the adapter's output.

    Args:
        base_layer, name: as for :class:`GraphLayer`.
    """

    def __init__(self, base_layer: nn.Module, name: str):
        super().__init__(base_layer, name)
        self._own = PerThread(Pending)
        self._checked: tuple | None = None  # the layers around it when its input was checked

    def make(self, config: GraphAdapterConfig, scheme: Scheme) -> GraphAdapter:
        return GraphAdapter(config, self.out_features, scheme)

    def _left_out(self) -> bool:
        pending = self._own.get()
        left_out, pending.result = pending.result is not None, None
        return left_out

    def listen(self, call: Call) -> None:
        """Run the scheme on an attention call and keep its result, ``(b, n, h·d)``, for :meth:`forward`. In a
        mixed batch each adapter's scheme runs on the whole batch.

        The first time, the attention output is kept too, and again when another method of PEFT was put
        around the layer, to check that the projection gets it unchanged.
        """
        self._check_learning()
        parts = self._parts(call.query.shape[0])
        if parts:
            graphs: dict | None = {} if len(parts) > 1 else None
            results = [(part, part.adapter.aggregate(call, graphs)) for part in parts]
            checked = self._checked == tuple(self.around())
            self._own.get().result = None if checked else merge_heads(call.context), results

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Project the attention output ``(b, n, h·d)`` and join the scheme's, ``(b, n, width)``.

        Raises:
            UserError: the attention layer did not call :meth:`listen`, or its output was changed on the way.
        """
        parts, own = self._parts(len(hidden_states)), self._own.get()
        pending, own.result = own.result, None
        if not parts:
            return self.base_layer(hidden_states)
        if pending is None:
            raise UserError(
                f"the attention before {self.name} was not captured: its implementation was changed after "
                "the adapters were added (set it before), or it cannot be read, and capture(model, inputs) "
                "says why (exclude it with exclude_modules=[...])"
            )
        plain, results = pending
        self._check_input(plain, hidden_states)
        if results[0][0].rows is None:
            return self._joined(results[0][0].adapter, hidden_states, results[0][1])
        output = self.base_layer(hidden_states)
        for (adapter, rows), aggregated in results:
            output = _with_rows(output, rows, self._joined(adapter, hidden_states[rows], aggregated[rows]))
        return output

    def _check_input(self, plain: Tensor | None, hidden_states: Tensor) -> None:
        """Raise an error if the attention output was changed before the projection.

        Args:
            plain: output of attention; None if it is known to arrive unchanged.
            hidden_states: input of the projection.
        """
        others, turned = self.around(), False
        if plain is not None:
            same = plain.shape == hidden_states.shape
            turned = not (same and bool(((plain == hidden_states) | plain.isnan()).all()))
        refuse_turned(self.name, others, turned)
        if turned:
            raise UserError(
                f"the model changes the attention output before {self.name} (with a gate or a norm) or "
                "its layout (windows, or time first), so that messages of a graph cannot replace it: "
                "exclude the layer with exclude_modules=[...]"
            )
        self._checked = tuple(others)

    def _joined(self, adapter: GraphAdapter, plain: Tensor, aggregated: Tensor) -> Tensor:
        """The layer's output ``(b, n, width)``, from the attention output and the scheme's,
        ``(b, n, h·d)``."""
        join: Any = adapter.join
        weight = join.bottleneck.down.weight
        aggregated = aggregated.to(plain.dtype)
        if adapter.rescale:
            aggregated = rescaled(aggregated, plain, partial(apply, self.projection))

        def project(x: Tensor) -> Tensor:
            projected = self.base_layer(x)
            return projected.to(working_dtype(projected, weight))

        return join(plain, aggregated, project, adapter.scheme).to(plain.dtype)


def _with_rows(output: Tensor, rows: list[int] | None, new: Tensor) -> Tensor:
    """An output with other rows, in its precision."""
    new = new.to(output.dtype)
    return new if rows is None else output.index_copy(0, torch.tensor(rows, device=output.device), new)
