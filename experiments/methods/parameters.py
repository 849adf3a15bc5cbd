"""Numbers of parameters trained by a method, their place in the model, and their fraction."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from attngraph.adapters.peft.layer import ADAPTERS
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.methods.prefix import ATTRIBUTE as PREFIX
from attngraph.experiments.methods.prompt import ATTRIBUTE as PROMPT

#: Parts of the names of parameters that methods add, besides the prefixes of PEFT's methods; the last ones
#: are AdaLoRA's ranks, and PEFT's trained copies of modules of the model.
ADDED = (ADAPTERS, PREFIX, PROMPT, "ranknum", "modules_to_save")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class ParameterCount:
    """The parameters that a method trains.

    Attributes:
        trained: number of trained parameters.
        model: number of parameters of the model, without those added by the method.
        language_side: the same for the modules that read and write text.
        trained_there: number of trained parameters in these modules.
        parts: name of a module with trained parameters, with ``*`` for numbers of layers -> number of such
            modules, and number of parameters in all of them.
    """

    trained: int
    model: int
    language_side: int
    trained_there: int
    parts: dict[str, tuple[int, int]]

    @property
    def shares(self) -> dict[str, float]:
        """Trained parameters as a fraction of the model's, and those in its language side as a fraction of
        that side's.
        """
        return {
            "model": self.trained / max(1, self.model),
            "language_side": self.trained_there / max(1, self.language_side),
        }

    def lines(self, method: str, model: str | None = None) -> list[str]:
        """The numbers as text, with a method's title, and a model's for a heading."""
        heading = [
            f"{model}: {self.model:,} parameters, {self.language_side:,} of them on the language side",
            "",
            f"{'method and module':<64} {'trained':>18} {'of the model':>13} {'of that side':>13}",
        ]
        shares = "".join(f" {100 * share:>11.2f} %" for share in self.shares.values())
        lines = [*(heading if model else []), f"{method:<64} {self.trained:>18,}{shares}"]
        for name, (places, parameters) in self.parts.items():
            each, left = divmod(parameters, places)
            number = f"{places} × {each:,}" if places > 1 and not left else f"{parameters:,}"
            lines.append(f"  {name:<62} {number:>18}")
        return lines


def count_parameters(tuned: Tuned) -> ParameterCount:
    """Count what a method trains in a model, which may be on PyTorch's ``meta`` device."""
    own = {
        name.replace(".base_layer", ""): p.numel()
        for name, p in tuned.family.model.named_parameters()
        if not any(map(_is_added, name.split(".")))
    }

    def there(counts: dict[str, int]) -> int:
        return sum(counts[name] for name in tuned.family.on_language_side(counts))

    trained = {name: p.numel() for name, p in tuned.parameters().items()}
    places, sums = Counter[str](), Counter[str]()
    for place in dict.fromkeys(map(_place, trained)):
        places[NUMBER.sub("*", place)] += 1
    for name, n in trained.items():
        sums[NUMBER.sub("*", _place(name))] += n
    parts = {name: (places[name], n) for name, n in sums.items()}
    return ParameterCount(sum(trained.values()), sum(own.values()), there(own), there(trained), parts)


def _is_added(part: str) -> bool:
    return part in ADDED or part.startswith(tuple(PEFT_TYPE_TO_PREFIX_MAPPING.values()))


def _place(name: str) -> str:
    """The module that a parameter was added to; for parameters of the model, their layer or block."""
    parts = name.split(".")
    for k, part in enumerate(parts):
        if _is_added(part):
            return ".".join(x for x in parts[:k] if x != "base_layer")
    layer = re.match(r".*?\.\d+(?=\.)", name)
    return layer[0] if layer else ".".join(parts[: min(3, len(parts) - 1)])
