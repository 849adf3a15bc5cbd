"""Interface of methods: ways to adapt a pre-trained model to a task, and rows of the table.

It is a PEFT configuration (:mod:`attngraph.experiments.methods.peft`), prefix tuning
(:mod:`attngraph.experiments.methods.prefix`), or a rule that selects trainable parameters of the model
(:mod:`attngraph.experiments.methods.own_weights`). The methods of the tables are in
:mod:`attngraph.experiments.methods.rows`; a plugin ends with ``register(...)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.scheme import PAPER_NAMES, SCHEMES
from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.methods.settings import Choice, Settings
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import Answering, ModelFamily
from attngraph.names import spelled

ADAPTERS, ATTRIBUTION, REFERENCE = "GNN adapters", "Attribution", "Reference"  # blocks of the table
OTHERS = "Other small additions"  # LoRA and prefix tuning
VARIANTS = "Variants"  # rows of the small tables: GCN and pGNN with one thing set otherwise
ALIASES = {**PAPER_NAMES, "rotated": "placebo"}  # what papers, or schemes, call them
REMEDY = "change it, or remove it"  # for a setting that is out of range
PREDICTIONS = "predictions.json"  # the answers in a finished run's folder

METHODS: dict[str, Method] = {}


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to adapt a model.

    Args:
        name: short name, as in ``--rows``.
        title: name in printed output.
        group: block of the table.
        note: note under the table.
        trains: whether anything is trained.
        follows: the method whose chosen settings it uses if it does not have settings.
        rates: initial learning rates of ``attngraph search``, in steps of half a power of ten; empty for a
            method that uses the rates of the one that it follows.
        repeats: the method whose runs it repeats in the table, with the seeds of the other rows of the table.
        control: whether it is pGNN without the information of distances; controls are compared with the
            baseline in one family with the GNN adapters.
        default_rate: peak learning rate if none was chosen on validation data.
        hides_image: whether the model gets an empty image, see
            :meth:`attngraph.experiments.models.family.ModelFamily.blank_image`.
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
    hides_image: bool = False

    @property
    def leader(self) -> str:
        """The method whose chosen settings it uses."""
        return self.follows or self.name

    def choice(self, chosen: Settings, task: str) -> Choice | None:
        """The settings chosen on validation data for this method on a task, or for the method that it
        follows; None if there are none.

        Raises:
            UserError: the settings have arguments that neither of the two methods accepts.
        """
        own = chosen.choice(self.name, task)
        if own is not None and own.arguments:  # a leader's are handed on, as far as this one takes them
            known = [*self.argument_names(), *METHODS.get(self.leader, self).argument_names()]
            where = f"argument in the settings of {self.name} on {task}"
            check_known(list(own.arguments), list(dict.fromkeys(known)) or ["none"], where)
        return own or chosen.choice(self.leader, task)

    def argument_names(self) -> list[str]:
        """Names of the arguments that its chosen settings may have."""
        return []

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        """All settings that determine training on a task, as plain values; chosen on validation data."""
        return {}

    def further_settings(self) -> list[str]:
        """Names of optional settings, which have defaults."""
        return self.argument_names()

    def rate(self, chosen: Settings, task: str) -> float:
        """Peak learning rate on a task."""
        choice = self.choice(chosen, task)
        return self.default_rate if choice is None else choice.learning_rate

    @abstractmethod
    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        """Prepare a newly loaded model for training, in place: exactly the parameters to be trained require
        gradients.
        """


class Tuned:
    """A model that a method was applied to."""

    def __init__(self, family: ModelFamily):
        self.family = family

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name; empty for a method without training."""
        return {name: p for name, p in self.family.model.named_parameters() if p.requires_grad}

    def rates(self) -> dict[nn.Module, float]:
        """Modules with a separate peak learning rate; empty if all use the same one."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the trained weights as safetensors into a run's folder."""

    def load(self, folder: Path) -> None:
        """Load the weights written by :meth:`save`.

        Raises:
            UserError: they are missing or damaged, do not fit, or the class does not implement loading.
        """
        if self.parameters():
            raise UserError(
                f"{folder}: its method cannot load the trained weights: implement {type(self).__name__}.load"
            )

    def observe(self, targets: Iterable[str]) -> None:
        """Process the training answers before training; most methods do nothing here."""

    def penalty(self) -> Tensor | None:
        """A term that is added to the loss of every step, if the method has one."""
        return None

    def after_step(self, step: int, steps: int) -> None:
        """Change weights by a rule of the method after a step of the optimizer, whose gradients are still
        there; most methods do nothing here.

        Args:
            step: number of completed steps.
            steps: number of steps in all.
        """

    def state_dict(self) -> dict[str, Any]:
        """The numbers that :meth:`after_step` keeps between steps, for the state of an interrupted run."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the numbers of :meth:`state_dict`."""

    def answer(self, samples: Sequence[Sample], way: Answering) -> list[str]:
        """One text per sample."""
        return self.family.answer(samples, way)

    def effects(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        """Effects of its graph adapters on the attention of samples with answers, ``{layer: {name:
        number}}``, see :class:`attngraph.adapters.effects.Effect`; empty without such adapters.
        """
        return {}

    def scalars(self) -> dict[str, float]:
        """Learned scalars of interest, such as each layer's p."""
        return {}


def peft_types() -> dict[str, str]:
    """Names of rows -> PEFT's types: ``ia3`` for ``IA3``, of all configurations but our own."""
    kinds = PEFT_TYPE_TO_CONFIG_MAPPING.items()
    return {kind.value.lower(): kind.value for kind, config in kinds if config is not GraphAdapterConfig}


def known_methods() -> list[str]:
    """Names of all rows: of methods, of schemes, and of PEFT's types."""
    return list(dict.fromkeys([*METHODS, *SCHEMES, *peft_types()]))


def canonical(name: str) -> str:
    """The name of a row, given one of :data:`ALIASES` or the name, in any spelling
    (:func:`attngraph.names.spelled`).
    """
    name = spelled(name, [*known_methods(), *ALIASES])
    return ALIASES.get(name, name)


def register(method: Method) -> Method:
    """Make a method known by its name; a :class:`~attngraph.UserError` if it is not a method."""
    if not isinstance(method, Method) or not isinstance(method.name, str):
        raise UserError(f"{method!r} is not a method with a name: register an instance of a Method subclass")
    METHODS[method.name] = method
    return method


def check_fit(file: Path, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raise a UserError if saved weights do not have the names and shapes of parameters."""
    saved, due = ({name: tensor.shape for name, tensor in of.items()} for of in (weights, parameters))
    if saved != due:
        wrong = min(name for name in saved.keys() | due.keys() if saved.get(name) != due.get(name))
        raise UserError(
            f"{file} does not fit this model ({wrong}): use the model that the run started from (--model)"
        )
