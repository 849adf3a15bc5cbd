"""Relevance weighted by gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from analysis.relevance.nodes import Graphs, Nodes
from analysis.relevance.propagation import NodeMaps, Relevance, exact, propagate


def relevance(graphs: Graphs, gradients: Mapping[str, Tensor]) -> Relevance:
    r"""Relevance weighted by gradients.

    With a score :math:`y`, and over the heads of a layer with weights :math:`A`, for every node set
    :math:`c`,

    .. math::
        \bar A &= E_h\big[ (\nabla A \odot A)^+ \big], \quad \nabla A = \partial y / \partial A && (5) \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{ac} && \text{self-attention of } a \text{ (6, 7)} \\
        \bar R &= I + \hat R / \textstyle\sum_k \hat R_{\cdot k}, \quad \hat R = R - I
            && \text{rows normalised (8, 9)} \\
        R^{ab} &\leftarrow R^{ab} + (\bar R^{aa})^\top \bar A \bar R^{bb}
            && a \text{ looks at } b \text{ (10)} \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{bc}, \quad c \neq b && \text{(11)}

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. A row of :math:`\hat R` that is 0 stays 0. The paper has
    two node sets, and (11) for :math:`c = a` alone; here it also hands on what :math:`b` received from
    others. Two directions of cross-attention by one module (LXMERT) look at the same states, so both are read
    before either changes. Numbers are at least 0 and have no upper bound; compare shares of their sum.

    Args:
        graphs: as :func:`analysis.relevance.capture_with_gradients` returns them.
        gradients: of the score with respect to the weights, from the same function. Weights other than those
            that were differentiated (an adapter's :math:`\bar M`, say) have no gradients of their own.

    Raises:
        ValueError: a layer without gradients, gradients of another shape, or see
            :func:`analysis.relevance.route`.

    Source:
        Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
        Encoder-Decoder Transformers", ICCV 2021, equations 5 to 11.
    """

    def rule(name: str, a: Nodes, b: Nodes, maps: NodeMaps) -> dict[tuple[Nodes, Nodes], Tensor]:
        weight = _positive(name, graphs, gradients)
        changes = {(a, c): maps[a, c] + weight @ maps[b, c] for c in maps.sources(a, b)}
        if a != b:
            own, other = _normalised(maps[a, a]), _normalised(maps[b, b])
            changes[a, b] = maps[a, b] + own.transpose(1, 2) @ weight @ other
        return changes

    return propagate(graphs, rule)


def _positive(name: str, graphs: Graphs, gradients: Mapping[str, Tensor]) -> Tensor:
    """Equation (5)."""
    weight = graphs[name].weight
    if name not in gradients or gradients[name].shape != weight.shape:
        shape = tuple(gradients[name].shape) if name in gradients else "none"
        raise ValueError(f"gradients must hold {name} with shape {tuple(weight.shape)}, got {shape}")
    return (exact(gradients[name]) * exact(weight)).clamp(min=0).mean(1)


def _normalised(maps: Tensor) -> Tensor:
    """Equations (8) and (9)."""
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    gained = maps - identity
    total = gained.sum(-1, keepdim=True)
    return identity + gained / torch.where(total > 0, total, torch.ones_like(total))
