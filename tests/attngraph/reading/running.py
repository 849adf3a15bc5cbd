"""Running models of the zoo, and what of their graphs is valid."""

import torch

from attngraph import capture

TIGHT = dict(rtol=0, atol=1e-5)


def run(model, inputs, **more):
    torch.manual_seed(3)  # ViLT draws patches
    with torch.no_grad():
        return model(**inputs, **more)


def read(model, inputs, **more):
    torch.manual_seed(3)
    return capture(model, inputs, **more)


def rows(graph) -> torch.Tensor:
    """Which rows of the weights belong to valid queries: ``(b, h, n)``."""
    b, h, n = graph.shape[:3]
    valid = torch.ones(b, n, dtype=torch.bool) if graph.query_mask is None else graph.query_mask
    return valid[:, None].expand(b, h, n)


def prompt(family) -> dict:
    inputs = family.inputs(left=True)
    inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    if "text_decoder" in family.generates:  # BLIP's generate pads wrongly and drops the last token
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return inputs
