"""What a method is: a way to adapt a pre-trained model to a task, and a row of the table.

It is a PEFT configuration (:mod:`attngraph.experiments.methods.peft`), prefix tuning
(:mod:`attngraph.experiments.methods.prefix`), or a rule which of the model's own parameters train
(:mod:`attngraph.experiments.methods.own_weights`). Those of the tables are in
:mod:`attngraph.experiments.methods.rows`; a file of one's own ends with ``register(...)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.scheme import SCHEMES
from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.methods.settings import Choice, Settings
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import Answering, ModelFamily
from attngraph.names import spelled

ADAPTERS, ATTRIBUTION, REFERENCE = "GNN adapters", "Attribution", "Reference"  # blocks of the table
OTHERS = "Other small additions"  # LoRA and prefix tuning
VARIANTS = "Variants"  # rows of the small tables: GCN and pGNN with one thing set otherwise
ALIASES = {"adapter": "gcn", "p_adapter": "pgnn", "rotated": "placebo"}  # what papers, or schemes, call them
REMEDY = "change it, or leave it out"  # where a setting is out of range
Vision = Literal["frozen", "trained", "zero"]

METHODS: dict[str, Method] = {}


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to adapt a model.

    Args:
        name: short name, as in ``--rows``.
        title: as printed.
        group: block of the table.
        note: printed under the table.
        trains: whether anything is trained.
        follows: the method whose chosen settings it uses where it has none of its own.
        rates: learning rates with which ``attngraph search`` begins, in steps of half a power of ten; none
            for a method that takes the rates of the one that it follows.
        repeats: the method whose runs it shows again, for as many seeds as its neighbours have.
        control: whether it is pGNN without what its distances say; controls are compared with the baseline
            in one family with the GNN adapters.
        default_rate: peak learning rate where none was chosen on validation data.
        vision: ``frozen`` image states can be computed once and cached; ``trained`` ones change with every
            step; ``zero`` hides the image.
    """

    name: str
    title: str
    group: str
    note: str = ""
    trains: bool = True
    follows: str | None = None
    repeats: str | None = None
    rates: tuple[float, ...] = ()
    control: bool = False
    default_rate: float = 6e-3
    vision: Vision = "frozen"

    @property
    def leader(self) -> str:
        """The method whose chosen settings it uses."""
        return self.follows or self.name

    def choice(self, chosen: Settings, task: str) -> Choice | None:
        """What was chosen on validation data for it on a task, or for the method that it follows; None where
        nothing was.

        Raises:
            UserError: what was chosen for it has arguments that neither of the two takes.
        """
        own = chosen.choice(self.name, task)
        if own is not None and own.arguments:  # a leader's are handed on, as far as this one takes them
            known = [*self.argument_names(), *METHODS.get(self.leader, self).argument_names()]
            where = f"argument in the settings of {self.name} on {task}"
            check_known(list(own.arguments), list(dict.fromkeys(known)) or ["none"], where)
        return own or chosen.choice(self.leader, task)

    def argument_names(self) -> list[str]:
        """Names of the arguments that a choice for it may hold."""
        return []

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        """All that decides what is trained on a task, as plain values; chosen on validation data."""
        return {}

    def further_settings(self) -> list[str]:
        """Names of settings that it takes too, and that have a default where they are not named."""
        return []

    def rate(self, chosen: Settings, task: str) -> float:
        """Peak learning rate on a task."""
        choice = self.choice(chosen, task)
        return self.default_rate if choice is None else choice.learning_rate

    @abstractmethod
    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        """Prepare a freshly loaded model for training, in place: what is to be trained requires gradients,
        nothing else.
        """


class Tuned:
    """A model that a method was applied to."""

    def __init__(self, family: ModelFamily):
        self.family = family

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; empty for a method without training."""
        return {name: p for name, p in self.family.model.named_parameters() if p.requires_grad}

    def rates(self) -> dict[nn.Module, float]:
        """Modules that are trained with a peak learning rate of their own; empty where one holds for all."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the trained weights as safetensors into a run's folder."""

    def load(self, folder: Path) -> None:
        """Take over the weights that :meth:`save` wrote.

        Raises:
            UserError: they are missing or damaged, do not fit, or the class does not say how they are read.
        """
        if self.parameters():
            raise UserError(
                f"{folder}: its method cannot read what it trained: give {type(self).__name__} a method load"
            )

    def observe(self, targets: Iterable[str]) -> None:
        """Look at the training answers before training; most methods have no use for it."""

    def answer(self, samples: Sequence[Sample], way: Answering) -> list[str]:
        """One text per sample."""
        return self.family.answer(samples, way)

    def effects(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        """What its graph adapters do to the attention of samples with answers, ``{layer: {name: number}}``,
        see :class:`attngraph.adapters.effects.Effect`; empty without such adapters.
        """
        return {}

    def scalars(self) -> dict[str, float]:
        """Learned single numbers worth reading, such as each layer's p."""
        return {}


def peft_types() -> dict[str, str]:
    """Names of rows -> PEFT's types: ``ia3`` for ``IA3``, of all configurations but our own."""
    kinds = PEFT_TYPE_TO_CONFIG_MAPPING.items()
    return {kind.value.lower(): kind.value for kind, config in kinds if config is not GraphAdapterConfig}


def known_methods() -> list[str]:
    """Names of all rows: of methods, of schemes, and of PEFT's types."""
    return list(dict.fromkeys([*METHODS, *SCHEMES, *peft_types()]))


def canonical(name: str) -> str:
    """A row's own name, of one of :data:`ALIASES` or itself, in any spelling
    (:func:`attngraph.names.spelled`).
    """
    name = spelled(name, [*known_methods(), *ALIASES])
    return ALIASES.get(name, name)


def register(method: Method) -> Method:
    """Make a method known by its name; a :class:`~attngraph.UserError` if it is none."""
    if not isinstance(method, Method) or not isinstance(method.name, str):
        raise UserError(f"{method!r} is no method with a name: register an instance of a subclass of Method")
    METHODS[method.name] = method
    return method


def check_fit(file: Path, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raises a UserError where saved weights have not the names and shapes of parameters."""
    saved, due = ({name: tensor.shape for name, tensor in of.items()} for of in (weights, parameters))
    if saved != due:
        wrong = min(name for name in saved.keys() | due.keys() if saved.get(name) != due.get(name))
        raise UserError(
            f"{file} does not fit this model ({wrong}): give the model that the run started from (--model)"
        )
