"""The most frequent training answer, whatever the input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from experiments.methods.frozen import Untouched
from experiments.methods.method import Method, Tuned
from experiments.tasks.task import majority


class Majority(Method):
    """Nothing is trained; the training answers are counted."""

    def put_on(self, model: nn.Module) -> Tuned:
        return _Constant()


class _Constant(Untouched):
    def observe(self, targets: Sequence[str]) -> None:
        self.answer = majority(targets)

    def generate(self, model, tokenizer, states, prompts, max_new_tokens, num_beams) -> list[str]:
        return [self.answer] * len(prompts)
