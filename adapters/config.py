"""The settings of a graph adapter: scheme, join, bottleneck, backend."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.joins import JOINS
from adapters.query_rows import QUERY_ROWS
from adapters.scheme import RENAMED, SCHEMES, Scheme
from attngraph.backends import BACKENDS
from attngraph.errors import UserError

POSITIONS = ("self", "cross", "ffn")
SWITCHES = ("shared", "rescale")


@dataclass(frozen=True)
class AdapterConfig:
    """A graph adapter for a frozen decoder.

    Args:
        gnn: the scheme's name in ``adapters.SCHEMES``.
        gnn_args: its arguments, e.g. ``{"p": 1.25, "mu": 0.1}``; for others see :meth:`scheme_args`.
        join: how the scheme's output joins the frozen model: ``replace``, ``gated`` or ``blend``.
        reduction: width of the model / width of the bottleneck.
        positions: where adapters sit: after self-attention, after cross-attention, after the feed-forward
            block (there always the vanilla adapter: a feed-forward block has no graph).
        backend: ``dense``, ``sparse`` or ``tiled`` message passing.
        shared: one scheme for all layers, so that they learn one p together. Default: one per layer.
        top_k: keep only each query's ``top_k`` heaviest edges. Default: all of them.
        rescale: give each query's aggregated features the length of its attention output, so that only their
            direction differs; see :func:`adapters.rescale.rescaled`.
        query_rows: what stands at the query nodes: ``query`` (the projected queries), ``zero`` or ``noise``;
            see :func:`adapters.query_rows.with_query_rows`.

    Raises:
        UserError: an unknown name or a value out of range; the message says what is allowed.
    """

    gnn: str = "pgnn"
    gnn_args: dict[str, Any] = field(default_factory=dict)
    join: str = "blend"
    reduction: int = 8
    positions: tuple[str, ...] = POSITIONS
    backend: str = "dense"
    shared: bool = False
    top_k: int | None = None
    rescale: bool = False
    query_rows: str = "query"

    def __post_init__(self):
        several = isinstance(self.positions, (tuple, list, set))
        object.__setattr__(self, "positions", tuple(self.positions) if several else (self.positions,))
        if isinstance(self.gnn, str):
            object.__setattr__(self, "gnn", RENAMED.get(self.gnn, self.gnn))
        for name in SWITCHES:
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for name, value, known in (
            ("gnn", self.gnn, SCHEMES),
            ("join", self.join, JOINS),
            ("backend", self.backend, BACKENDS),
            ("query_rows", self.query_rows, QUERY_ROWS),
        ):
            if not isinstance(value, str) or value not in known:
                raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
        if not self.positions or not all(position in POSITIONS for position in self.positions):
            got = ", ".join(map(str, self.positions)) or "none"
            raise UserError(f"positions must be one or more of {', '.join(POSITIONS)}, got {got}")
        for name in ("reduction", "top_k"):
            number = _plain(getattr(self, name))
            object.__setattr__(self, name, number)
            if name == "top_k" and number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise UserError(f"{name} must be a whole number of at least 1, got {number!r}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.gnn_args, dict):
            raise UserError(f"gnn_args must be a dict such as {{'alpha': 0.1}}, got {self.gnn_args!r}")
        object.__setattr__(self, "gnn_args", {name: _plain(value) for name, value in self.gnn_args.items()})
        self.scheme()  # its arguments are checked here, not at the first layer

    def scheme_args(self) -> dict[str, Any]:
        """All arguments of the scheme: those given, and its own defaults for the others."""
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(SCHEMES[self.gnn]).parameters.items()
            if isinstance(parameter.default, (bool, int, float, str))
        }
        return defaults | self.gnn_args

    def scheme(self) -> Scheme:
        """A new scheme as described."""
        known = inspect.signature(SCHEMES[self.gnn]).parameters
        unknown = [name for name in self.gnn_args if name not in known]
        if unknown:
            raise UserError(
                f"{self.gnn} has no argument {unknown[0]!r}: it takes {', '.join(known) or 'none'}"
            )
        try:
            return SCHEMES[self.gnn](**self.scheme_args())
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.gnn}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the scheme's defaults."""
        return {**asdict(self), "gnn_args": self.scheme_args(), "positions": list(self.positions)}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON can save; anything else as it is."""
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
