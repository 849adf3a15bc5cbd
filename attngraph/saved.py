"""Attention graphs in safetensors files, which hold tensors and text and run no code when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attngraph.degrees import PastDegree
from attngraph.errors import UserError
from attngraph.sparsify import KeptWeight, NonZeros, Totals

KEY = "attention graph"  # of the metadata of the file: fields that are not tensors, as JSON
REMEDY = "restore it, or save the graph again"
NOT_SAVED = "kept_norms"  # is computed again


def write(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a graph. Masks, degrees and the non-zero weights of a compact graph are separate
    tensors; names, flags and the shape of compact weights are JSON in the file's metadata.

    Raises:
        UserError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for name, x in fields.items():
        name = name.removeprefix("_")  # of the weights
        if isinstance(x, Tensor):
            tensors[name] = x
        elif isinstance(x, PastDegree):
            tensors |= {f"{name}.{part}": tensor for part, tensor in x._asdict().items()}
        elif isinstance(x, NonZeros):
            tensors |= {f"{name}.index": x.index, f"{name}.values": x.values}
            rest[f"{name}.shape"] = list(x.shape)
            if x.totals is not None:
                tensors |= {f"{name}.totals.{part}": tensor for part, tensor in x.totals._asdict().items()}
        elif isinstance(x, KeptWeight):
            raise UserError(
                f"{path} is not written: the graph's weights are computed from scores whenever they are "
                "read; keep some of its edges, with sparsify(top_k=...)"
            )
        elif name != NOT_SAVED:
            rest[name] = x
    # copies, since graphs share tensors (a mask on both sides) and safetensors takes none that are shared
    copies = {
        name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()
    }
    try:
        save_file(copies, path, {KEY: json.dumps(rest)})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}): choose another place") from None


def read(path: str | Path) -> dict[str, Any]:
    """The fields of a graph that :func:`write` wrote.

    Raises:
        UserError: the file is missing or damaged, or was not written by it.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            fields: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): {REMEDY}") from None
    try:
        fields |= json.loads(metadata[KEY])
        if "past_degree.total" in fields:
            fields["past_degree"] = PastDegree(*(fields.pop(f"past_degree.{x}") for x in PastDegree._fields))
        if "weight.shape" in fields:
            index, values = fields.pop("weight.index"), fields.pop("weight.values")
            totals = None
            if "weight.totals.entropy" in fields:
                totals = Totals(*(fields.pop(f"weight.totals.{x}") for x in Totals._fields))
            fields["weight"] = NonZeros(index, values, torch.Size(fields.pop("weight.shape")), totals)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no attention graph (no {error}): {REMEDY}") from None
    return fields
