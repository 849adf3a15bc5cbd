"""Summary of ``attngraph heterophily`` in three sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from attngraph.analysis.plots.heterophily import number, stack


def verdict(table: pd.DataFrame) -> str:
    """Whether connected nodes are similar, whether queries and values are separate clusters, and which labels
    are most informative, each compared with permuted nodes.

    Numbers are means over heads and examples of M, before training if there are weights before and after
    training. Layers are counted if the interval of the difference from the null excludes 0. Sentences without
    numbers are omitted.

    Args:
        table: table of :class:`attngraph.analysis.heterophily.Heterophily`.
    """
    lines = table[(table["head"] == "all") & (table.weights == table.weights.iloc[0])]
    lines = lines[lines.value.notna() & lines.null_permuted.notna()]
    lines = lines.assign(place=lines.layer.map(_places(lines)))
    lines = lines.assign(above=lines.excess_low > 0, below=lines.excess_high < 0)
    parts = (_similarity, _clusters, _labels)
    return " ".join(sentence for part in parts for sentence in part(lines))


def _similarity(lines: pd.DataFrame) -> Iterator[str]:
    found = []
    for place, part in _by_place(lines, "cosine"):
        counts = {"more similar": part.above.sum(), "less similar": part.below.sum()}
        said = " and ".join(f"{word} in {count}" for word, count in counts.items() if count)
        said = f"{said} of {len(part)}" if said else f"as similar in all {len(part)}"
        numbers = f"mean cosine {_mean(part.value)}, null {_mean(part.null_permuted)}"
        found.append(f"{said} layers of {place} ({numbers})")
    if found:
        yield f"Compared with permuted nodes (null), connected nodes are {_listed(found)}."


def _clusters(lines: pd.DataFrame) -> Iterator[str]:
    found = [f"{_mean(part.value)} in {place}" for place, part in _by_place(lines, "probe_auc")]
    if found:
        null = _mean(lines[lines.statistic == "probe_auc"].null_permuted)
        yield f"A linear probe separates queries from values with AUC {_listed(found)} (null {null})."


def _labels(lines: pd.DataFrame) -> Iterator[str]:
    lines = lines[lines.statistic == "adjusted"]
    found = lines[lines.above | lines.below]
    if len(found):
        most = found.loc[found.excess.abs().idxmax()]
        yield (
            f"Adjusted homophily differs most from its null by {most.labels}, in layer {number(most.layer)} "
            f"of {most.place} ({_mean(most.value)}, null {_mean(most.null_permuted)})."
        )
    elif len(lines):
        yield "Adjusted homophily does not differ from its null for any of the labels."


def _places(lines: pd.DataFrame) -> dict[str, str]:
    """Layer → its model part and kind, such as "text_decoder cross-attention", or the name of its stack if
    two stacks would have the same name.
    """
    kinds = dict(zip(lines.layer, lines.kind))
    short = {layer: f"{layer.partition('.')[0]} {kind}-attention" for layer, kind in kinds.items()}
    stacks: dict[str, set[str]] = {}
    for layer, name in short.items():
        stacks.setdefault(name, set()).add(stack(layer))
    return {
        layer: name if kinds[layer] and len(stacks[name]) == 1 else stack(layer)
        for layer, name in short.items()
    }


def _by_place(lines: pd.DataFrame, statistic: str) -> Iterator[tuple[str, pd.DataFrame]]:
    return iter(lines[lines.statistic == statistic].groupby("place", sort=False))


def _mean(values: pd.Series | float) -> str:
    return f"{pd.Series(values).mean():.2f}".replace("-0.00", "0.00").replace("-", "−")


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
