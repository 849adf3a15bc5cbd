"""A training step of a text decoder of BLIP-base's sizes: p-adapters against vanilla adapters."""

from __future__ import annotations

import torch
from peft import get_peft_model
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from adapters import GraphAdapterConfig
from adapters.peft import optimizer_groups
from experiments.bench.measure import Run

BASELINE = "vanilla adapters"
PGNN = "p-adapters"
TARGETS = {PGNN: 1.2}
SCHEMES = {BASELINE: "gcn", PGNN: "pgnn"}


class _Runs(dict):
    """Makes a run's model when it is asked for, so that the memory of one run holds no other's model."""

    def __init__(self, options: dict):
        super().__init__(dict.fromkeys(SCHEMES))
        self.options = options

    def __getitem__(self, name: str) -> Run:
        if super().__getitem__(name) is None:
            self[name] = _step(SCHEMES[name], self.options)
        return super().__getitem__(name)


def runs(options: dict) -> dict[str, Run]:
    """Forward, backward and an AdamW step.

    Args:
        options: ``b``, ``n`` text tokens, ``m`` image tokens, ``layers``, ``join``, ``seed``, ``tiny``.
    """
    return _Runs(options)


def _step(gnn: str, options: dict) -> Run:
    b, n, m, layers = (1, 4, 5, 1) if options.get("tiny") else (options[x] for x in ("b", "n", "m", "layers"))
    width, heads, words = (16, 2, 50) if options.get("tiny") else (768, 12, 30524)
    torch.manual_seed(options["seed"])
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        is_decoder=True,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
    )
    model = BlipTextLMHeadModel(config)
    adapted = get_peft_model(model, GraphAdapterConfig(gnn=gnn, join=options["join"]))
    optimizer = torch.optim.AdamW(optimizer_groups(adapted, 5e-4, 0.05))
    text, image = torch.randint(3, words, (b, n)), torch.randn(b, m, width)
    adapted.train()

    def step() -> None:
        optimizer.zero_grad()
        adapted(text, encoder_hidden_states=image, labels=text, is_decoder=True).loss.backward()
        optimizer.step()

    return step
