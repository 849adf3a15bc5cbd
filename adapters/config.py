"""What an adapter is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.joins import JOINS
from adapters.scheme import SCHEMES, Scheme
from attngraph.edges import BACKENDS
from attngraph.errors import UserError

POSITIONS = ("self", "cross", "ffn")


@dataclass(frozen=True)
class AdapterConfig:
    """A graph adapter for a frozen decoder.

    Args:
        gnn: the scheme's name in ``adapters.SCHEMES``.
        gnn_args: its arguments, e.g. ``{"p": 1.25, "mu": 0.1}``.
        join: how the scheme's output joins the frozen model: ``replace``, ``gated`` or ``blend``.
        reduction: width of the model / width of the bottleneck.
        positions: where adapters sit: after self-attention, after cross-attention, after the feed-forward block (there
            always the vanilla adapter: a feed-forward block has no graph).
        backend: ``dense`` or ``sparse`` message passing.
        top_k: keep only each query's ``top_k`` heaviest edges. Default: all of them.

    Raises:
        UserError: an unknown name or a value out of range; the message says what is allowed.
    """

    gnn: str = "pgnn"
    gnn_args: dict[str, Any] = field(default_factory=dict)
    join: str = "blend"
    reduction: int = 8
    positions: tuple[str, ...] = POSITIONS
    backend: str = "dense"
    top_k: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "positions", tuple(self.positions))
        for name, value, known in (("gnn", self.gnn, SCHEMES), ("join", self.join, JOINS),
                                   ("backend", self.backend, BACKENDS)):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
        if not self.positions or not set(self.positions) <= set(POSITIONS):
            raise UserError(f"positions must be some of {', '.join(POSITIONS)}, got {', '.join(self.positions) or 'none'}")
        if int(self.reduction) != self.reduction or self.reduction < 1:
            raise UserError(f"reduction must be a whole number of at least 1, got {self.reduction}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, got {self.top_k}")
        self.scheme()  # its arguments are checked here, not at the first layer

    def scheme(self) -> Scheme:
        """A new scheme as described."""
        try:
            return SCHEMES[self.gnn](**self.gnn_args)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.gnn}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "positions": list(self.positions)}
