"""The configuration of graph adapters, and the type under which PEFT knows it.

PEFT registers a method only under a name that its ``PeftType`` enum holds, and that enum is closed: a member
is added here at run time. A checkpoint names its method in ``adapter_config.json``; PEFT looks that name up
and raises ``KeyError`` with it when it does not know it. So the name that we write there says what to do, and
:mod:`attngraph.adapters.peft` registers it as a second name of the same configuration.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType

from attngraph.adapters.card import NAME, add_code
from attngraph.adapters.joins import JOINS
from attngraph.adapters.query_rows import QUERY_ROWS
from attngraph.adapters.scheme import PAPER_NAMES, SCHEMES, Scheme
from attngraph.backends import BACKENDS
from attngraph.errors import UserError
from attngraph.names import did_you_mean, spelled

SAVED_NAME = (
    "GRAPH_ADAPTER (of the Python package attngraph: install it and `import attngraph.adapters` before "
    "loading)"
)
POSITIONS = ("self", "cross", "ffn")
ALL_LINEAR = "all-linear"
SCHEME_ARGS = ("p", "mu", "steps", "alpha", "theta", "degree", "learn_p", "learn_mu", "normalize", "seed")
SWITCHES = ("shared", "rescale", "init_weights", "inference_mode")
CHOICES = ("target_modules", "ffn_modules")  # an empty list would leave nothing
MODULE_LISTS = (*CHOICES, "exclude_modules", "layers_pattern", "modules_to_save")
FORMAT = 2
"""Version of the file format in which adapters are saved."""


def add_member(kind: Any, name: str) -> Any:
    """The member ``name`` of a string enum, with the value ``name``; added if the enum lacks it."""
    if name in kind.__members__:
        return kind[name]
    member: Any = str.__new__(kind, name)
    member._name_ = member._value_ = name
    member.__objclass__ = kind
    member._sort_order_ = len(kind)
    type.__setattr__(kind, name, member)
    kind._member_map_[name] = member
    kind._member_names_.append(name)
    kind._value2member_map_[name] = member
    return member


PEFT_TYPE = add_member(PeftType, NAME.upper())


@dataclass
class GraphAdapterConfig(PeftConfig):
    r"""Graph adapters for ``peft.get_peft_model``.

    By default they follow every attention layer and feed-forward block of the model; in a vision-language
    model, those of its language side, since the image encoder is frozen. See
    :mod:`attngraph.adapters.peft.places` for how they are found.

    With ``gnn="gcn"`` this **is** the bottleneck adapter of Houlsby et al. (2019), as implemented in
    AdapterHub and requested for PEFT in `PEFT #244 <https://github.com/huggingface/peft/issues/244>`_,

    .. math:: \sigma(U W_{down}) W_{up} + U ,

    after attention and after the feed-forward block, before dropout and residual connection:

    >>> config = GraphAdapterConfig(gnn="gcn", join="replace", reduction=16)
    >>> model = get_peft_model(AutoModelForCausalLM.from_pretrained("openai-community/gpt2"), config)
    >>> model.print_trainable_parameters()
    >>> model.save_pretrained("bottleneck-adapter")

    Args:
        gnn: the scheme's name in ``attngraph.adapters.SCHEMES``.
        p, mu, steps, alpha, theta, degree, learn_p, learn_mu, normalize, seed: arguments of the scheme, where
            it takes them. Default: the scheme's own, which is saved with the adapter.
        gnn_args: other arguments of the scheme, e.g. ``{"epsilon": 0.2}``, with the same defaults.
        join: how the scheme's output joins the frozen model: ``replace``, ``gated`` or ``blend``. Default:
            ``blend``, which does not change the model until it is trained.
        reduction: width of the model / width of the bottleneck.
        positions: after ``self``-attention, ``cross``-attention and the feed-forward block (``ffn``; there
            always the bottleneck adapter, since a feed-forward block has no graph). Positions that a model
            does not have are skipped. With all three, the default, modules that no adapter can follow are
            skipped with a warning if an attention layer remains; otherwise they raise an error. Attention
            that cannot be read is skipped with a warning for any positions.
        backend: ``dense``, ``sparse`` or ``tiled`` message passing.
        shared: one scheme for all layers, so that they learn one p together. Default: one per layer.
        top_k: keep only each query's ``top_k`` heaviest edges. Default: all of them.
        rescale: give each query's aggregated features the length of its attention output, so that only their
            direction differs; see :func:`attngraph.adapters.rescale.rescaled`.
        query_rows: features of the query nodes: ``query`` (the projected queries), ``zero`` or ``noise``;
            see :func:`attngraph.adapters.query_rows.with_query_rows`.
        target_modules: which attention layers: names of attention modules or of their output projections. In
            a list, full names or their ends (``"layers.3.self_attn"``); a string is a regular expression for
            the whole name. ``"all-linear"`` means all attention layers, including those of an image encoder.
        ffn_modules: names of output projections of feed-forward blocks, in the same form. Default: those in
            the layers of the chosen attention modules.
        exclude_modules: names of modules to exclude from both, in the same form.
        layers_to_transform: number of a layer, or a list of numbers, counted as in PEFT: only these layers
            get adapters. Not available with a regular expression.
        layers_pattern: names of the lists that hold the numbered layers (``"layers"``, ``"h"``), where a
            model has several kinds. Default: any.
        modules_to_save: other modules to train and save, a classification head for instance.
        init_weights: ``False`` samples random weights where a new adapter would start at zero (for tests).
        format_version: version of the saved adapter; see :data:`FORMAT`.

    Raises:
        UserError: an unknown name or a value out of range; the message lists the allowed values.
    """

    gnn: str = "pgnn"
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
    join: str = "blend"
    reduction: int = 8
    positions: tuple[str, ...] = POSITIONS
    backend: str = "dense"
    shared: bool = False
    top_k: int | None = None
    rescale: bool = False
    query_rows: str = "query"
    target_modules: list[str] | str | None = None
    ffn_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    format_version: int = FORMAT

    def __post_init__(self):
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
        self._check_format()
        self._check_parts()
        self._check_numbers()
        self._check_modules()
        self.scheme()  # its arguments are checked here, not at the first layer

    def _check_format(self) -> None:
        if type(self.format_version) is not int:
            raise UserError(f"format_version must be an integer, got {self.format_version!r}")
        if self.format_version != FORMAT:
            remedy = "update attngraph" if self.format_version > FORMAT else "train the adapter again"
            raise UserError(
                f"the adapter was saved in format {self.format_version!r}, and this version of attngraph "
                f"reads format {FORMAT}: {remedy}"
            )

    def _check_parts(self) -> None:
        """Check the parts that are chosen by name."""
        if isinstance(self.gnn, str) and self.gnn not in SCHEMES:
            name = spelled(self.gnn, [*SCHEMES, *PAPER_NAMES])
            self.gnn = PAPER_NAMES.get(name, name)
        for name, known in (
            ("gnn", SCHEMES),
            ("join", JOINS),
            ("backend", BACKENDS),
            ("query_rows", QUERY_ROWS),
        ):
            value = getattr(self, name)
            if isinstance(value, str):
                value = spelled(value, known)
                setattr(self, name, value)
            if not isinstance(value, str) or value not in known:
                near = did_you_mean(str(value), known)
                raise UserError(f"unknown {name} {value!r}{near}: choose one of {', '.join(known)}")
        several = isinstance(self.positions, (tuple, list, set))
        self.positions = tuple(self.positions) if several else (self.positions,)  # type: ignore[assignment]
        if not self.positions or not all(position in POSITIONS for position in self.positions):
            got = ", ".join(map(str, self.positions)) or "none"
            raise UserError(f"positions must be one or more of {', '.join(POSITIONS)}, got {got}")

    def _check_numbers(self) -> None:
        """Numbers, switches and arguments; NumPy's become Python's, which JSON can save."""
        for name in ("reduction", "top_k", *SWITCHES, *SCHEME_ARGS):
            setattr(self, name, _plain(getattr(self, name)))
        for name in ("reduction", "top_k"):
            number = getattr(self, name)
            if name == "top_k" and number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise UserError(f"{name} must be an integer of at least 1, got {number!r}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.gnn_args, dict):
            raise UserError(f"gnn_args must be a dict such as {{'alpha': 0.1}}, got {self.gnn_args!r}")
        self.gnn_args = {name: _plain(value) for name, value in self.gnn_args.items()}

    def _check_modules(self) -> None:
        """Which modules and layers."""
        for name in MODULE_LISTS:
            setattr(self, name, _names(name, getattr(self, name)))
        if self.ffn_modules is not None and "ffn" not in self.positions:
            raise UserError("ffn_modules names feed-forward blocks: add ffn to positions, or remove it")
        given = self.layers_to_transform
        numbers = [_plain(x) for x in (given if isinstance(given, (list, tuple, set)) else [given])]
        if given is None:
            if self.layers_pattern is not None:
                raise UserError("layers_pattern says how layers are counted: pass layers_to_transform too")
            return
        if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
            raise UserError(
                f"layers_to_transform must be the number of a layer, or a list of them, got {given!r}"
            )
        self.layers_to_transform = sorted(numbers)  # one number becomes a list
        for name in CHOICES:
            value = getattr(self, name)
            if isinstance(value, str) and not is_all_linear(value):
                raise UserError(
                    f"layers_to_transform cannot be used with {name}={value!r}, a regular expression: say "
                    "in one of them which layers"
                )

    def scheme_args(self) -> dict[str, Any]:
        """All arguments of the scheme: those given, and its own defaults for the others.

        Raises:
            UserError: one is given twice.
        """
        given = {name: getattr(self, name) for name in SCHEME_ARGS if getattr(self, name) is not None}
        twice = sorted(set(given) & set(self.gnn_args))
        if twice:
            raise UserError(f"{twice[0]} is given twice, by itself and in gnn_args")
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(SCHEMES[self.gnn]).parameters.items()
            if isinstance(parameter.default, (bool, int, float, str))
        }
        return {**defaults, **self.gnn_args, **given}

    def scheme(self) -> Scheme:
        """A new scheme as described.

        Raises:
            UserError: it has no such argument, or one is out of range.
        """
        known = inspect.signature(SCHEMES[self.gnn]).parameters
        args = self.scheme_args()
        unknown = [name for name in args if name not in known]
        if unknown:
            raise UserError(
                f"{self.gnn} has no argument {unknown[0]!r}: it takes {', '.join(known) or 'none'}"
            )
        try:
            return SCHEMES[self.gnn](**args)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.gnn}: {error}") from None

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the configuration into a folder, and how to load the adapter into PEFT's model card."""
        super().save_pretrained(save_directory, **kwargs)
        add_code(Path(save_directory))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the scheme's defaults, so that later ones change no saved adapter; the
        type says what to import."""
        saved = {**super().to_dict(), "peft_type": SAVED_NAME}
        for name, value in self.scheme_args().items():
            by_name = name in SCHEME_ARGS and name not in self.gnn_args
            (saved if by_name else saved["gnn_args"])[name] = value
        return saved


def is_all_linear(names: list[str] | str | None) -> bool:
    """Whether names of modules are PEFT's short form for all of them."""
    return isinstance(names, str) and names.lower() == ALL_LINEAR


def _plain(value: Any) -> Any:
    """NumPy scalars as Python numbers; any other value unchanged."""
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value


def _names(field_name: str, value: Any) -> list[str] | str | None:
    """A list of names of modules in order, a regular expression, or None.

    Raises:
        UserError: another type, or a value that matches nothing.
    """
    if value is None:
        return None
    if isinstance(value, str) and field_name != "modules_to_save":
        try:
            re.compile(value)
        except (re.error, RecursionError) as error:
            raise UserError(f"{field_name}={value!r} is not a valid regular expression: {error}") from None
        names = [value]
    elif isinstance(value, (list, tuple, set)) and all(isinstance(x, str) for x in value):
        names, value = sorted(value), sorted(value)
    else:
        raise UserError(f"{field_name} must be a list of names of modules, got {value!r}")
    if not all(names) or (not names and field_name in CHOICES):
        raise UserError(f"{field_name}={value!r} names no module: remove it to use the default")
    return value
