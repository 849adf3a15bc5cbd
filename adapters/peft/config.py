"""The configuration of graph adapters as a PEFT method."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from adapters.config import AdapterConfig
from adapters.peft.shim import PEFT_TYPE, SAVED_NAME
from attngraph.errors import UserError

SCHEME_ARGS = ("p", "mu", "steps", "alpha", "theta", "degree", "learn_p", "learn_mu", "normalize", "seed")
CHOICES = ("target_modules", "ffn_modules")  # an empty list would leave nothing
MODULE_LISTS = (*CHOICES, "exclude", "modules_to_save")
SWITCHES = ("init_weights", "inference_mode")
FORMAT = 1
"""The version of saved adapters that is written; files from before versions have none, and are read too."""


@dataclass
class GraphAdapterConfig(PeftConfig):
    """Graph adapters for ``peft.get_peft_model``.

    By default they sit in every attention layer and feed-forward block of the model, of a vision-language
    model in those of its language side: the image encoder is frozen and left alone. See
    :mod:`adapters.peft.places` for how they are found.

    Args:
        gnn: the scheme's name in ``adapters.SCHEMES``.
        p, mu, steps, alpha, theta, degree, learn_p, learn_mu, normalize, seed: arguments of the scheme, where
            it takes them. Default: the scheme's own, which is saved with the adapter.
        gnn_args: arguments of schemes that have others; likewise.
        join: how the scheme's output joins the frozen model: ``replace``, ``gated`` or ``blend``. Default:
            ``blend``, which leaves the model as it is until it is trained.
        reduction: width of the model / width of the bottleneck.
        positions: after ``self``-attention, ``cross``-attention and the feed-forward block (``ffn``). Those
            that a model does not have are skipped. With all three, the default, so is what no adapter can
            follow, with a warning, if some attention layer is left; otherwise that is an error.
        backend: ``dense``, ``sparse`` or ``tiled`` message passing.
        shared: one scheme for all layers, so that they learn one p together.
        top_k: keep only each query's ``top_k`` heaviest edges.
        rescale: give each query's aggregated features the length of its attention output, so that only their
            direction differs; see :func:`adapters.rescale.rescaled`.
        query_rows: what stands at the query nodes: ``query`` (the projected queries), ``zero`` or ``noise``;
            see :func:`adapters.query_rows.with_query_rows`.
        target_modules: which attention layers: names of attention modules or of their output projections. In
            a list, full names or their ends (``"layers.3.self_attn"``); a string is a regular expression for
            the whole name.
        ffn_modules: likewise the output projections of feed-forward blocks.
        exclude: likewise what is left out of both.
        modules_to_save: other modules to train and save, a classification head for instance.
        init_weights: ``False`` draws random weights where a new adapter would start at zero (for tests).
        format_version: of the saved adapter; see :data:`FORMAT`.

    Raises:
        UserError: an unknown name or a value out of range; the message says what is allowed.
    """

    gnn: str = AdapterConfig.gnn
    p: float | None = None
    mu: float | None = None
    steps: int | None = None
    alpha: float | None = None
    theta: float | None = None
    degree: str | None = None
    learn_p: bool | None = None
    learn_mu: bool | None = None
    normalize: bool | None = None
    seed: int | None = None
    gnn_args: dict[str, Any] = field(default_factory=dict)
    join: str = AdapterConfig.join
    reduction: int = AdapterConfig.reduction
    positions: tuple[str, ...] = AdapterConfig.positions
    backend: str = AdapterConfig.backend
    shared: bool = AdapterConfig.shared
    top_k: int | None = AdapterConfig.top_k
    rescale: bool = AdapterConfig.rescale
    query_rows: str = AdapterConfig.query_rows
    target_modules: list[str] | str | None = None
    ffn_modules: list[str] | str | None = None
    exclude: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    format_version: int = FORMAT

    def __post_init__(self):
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
        if type(self.format_version) is not int:
            raise UserError(f"format_version must be a whole number, got {self.format_version!r}")
        if self.format_version not in range(1, FORMAT + 1):
            raise UserError(
                f"the adapter was saved in format {self.format_version!r}, and this version of attngraph "
                f"reads formats up to {FORMAT}: update attngraph"
            )
        settings = self.settings()
        self.gnn = settings.gnn
        self.positions, self.shared, self.rescale = settings.positions, settings.shared, settings.rescale
        self.reduction, self.top_k = settings.reduction, settings.top_k
        args = settings.gnn_args
        self.gnn_args = {name: args[name] for name in self.gnn_args}
        for name in args.keys() - self.gnn_args.keys():
            setattr(self, name, args[name])
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in MODULE_LISTS:
            setattr(self, name, _names(name, getattr(self, name)))

    def settings(self) -> AdapterConfig:
        """What the adapters are made of, without where they sit."""
        args = self.gnn_args
        if isinstance(args, dict):
            given = {name: getattr(self, name) for name in SCHEME_ARGS if getattr(self, name) is not None}
            twice = sorted(set(given) & set(args))
            if twice:
                raise UserError(f"{twice[0]} is given twice, by itself and in gnn_args")
            args = {**args, **given}
        return AdapterConfig(
            gnn=self.gnn,
            gnn_args=args,
            join=self.join,
            reduction=self.reduction,
            positions=self.positions,
            backend=self.backend,
            shared=self.shared,
            top_k=self.top_k,
            rescale=self.rescale,
            query_rows=self.query_rows,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the scheme's defaults, so that later ones change no saved adapter; the
        type says what to import (see :mod:`adapters.peft.shim`)."""
        saved = {**super().to_dict(), "peft_type": SAVED_NAME}
        for name, value in self.settings().scheme_args().items():
            by_name = name in SCHEME_ARGS and name not in self.gnn_args
            (saved if by_name else saved["gnn_args"])[name] = value
        return saved


def _names(field_name: str, value: Any) -> list[str] | str | None:
    """A list of names of modules in order, a regular expression, or None.

    Raises:
        UserError: it is none of them, or chooses nothing.
    """
    if value is None:
        return None
    if isinstance(value, str) and field_name != "modules_to_save":
        try:
            re.compile(value)
        except (re.error, RecursionError) as error:
            raise UserError(f"{field_name}={value!r} is no regular expression: {error}") from None
        names = [value]
    elif isinstance(value, (list, tuple, set)) and all(isinstance(x, str) for x in value):
        names, value = sorted(value), sorted(value)
    else:
        raise UserError(f"{field_name} must be a list of names of modules, got {value!r}")
    if not all(names) or (not names and field_name in CHOICES):
        raise UserError(f"{field_name}={value!r} names no module: leave it out for the default")
    return value
