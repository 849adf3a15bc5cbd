"""A complete custom model family: language models that answer from the question alone.

How well they do without the image says what a task gives away without being looked at. Run it with
``attngraph --plugin example_family.py ablation --model FOLDER`` on a GPT-2 or Llama.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from attngraph.errors import UserError
from attngraph.experiments.models import (
    IGNORED,
    Batch,
    Checkpoint,
    Decoding,
    ModelFamily,
    Sample,
    Text,
    load_weights,
    register,
)


@register
class Blind(ModelFamily):
    """A text is ``start prompt answer end``."""

    name = "blind"  # tasks may have a prompt for it
    takes_images = False

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.start = next(t for t in (tokenizer.bos_token_id, tokenizer.cls_token_id) if t is not None)
        self.end = next(t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None)

    @classmethod
    def accepts(cls, config) -> bool:
        return config.model_type in ("gpt2", "llama")

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Blind:
        model = load_weights(AutoModelForCausalLM, checkpoint)
        return cls(model, AutoTokenizer.from_pretrained(checkpoint.place, **checkpoint.options))

    def check(self, samples: Sequence[Sample]) -> None:
        if any(sample.answer is None for sample in samples):
            raise UserError(f"{self.title} reads texts: give --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """For the analysis commands: inputs of the model, and the tokens that they hold."""
        inputs = self.training_inputs(samples)
        begins = (inputs.pop("labels") != IGNORED).int().argmax(1)  # of the answers
        text = Text.of(self.tokenizer, inputs["input_ids"], inputs["attention_mask"], begins)
        return Batch(list(samples), inputs, text)

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        prompts = [torch.tensor([self.start, *self._ids(sample.prompt)]) for sample in samples]
        answers = [torch.tensor([*self._ids(sample.answer or ""), self.end]) for sample in samples]
        labels = [
            torch.cat([prompt.new_full(prompt.shape, IGNORED), a]) for prompt, a in zip(prompts, answers)
        ]
        return {
            **self._padded([torch.cat(pair) for pair in zip(prompts, answers)], "right"),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        prompts = [torch.tensor([self.start, *self._ids(sample.prompt)]) for sample in samples]
        inputs = self.to_device(self._padded(prompts, "left"))
        settings = decoding.settings(end=self.end, padding=self.end)
        ids = self.model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def language_side(self) -> list[str]:
        return [""]  # all of it

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _padded(self, rows: list[Tensor], side: str) -> dict[str, Tensor]:
        ids = pad_sequence(rows, batch_first=True, padding_value=self.end, padding_side=side)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
        return {"input_ids": ids, "attention_mask": mask}
