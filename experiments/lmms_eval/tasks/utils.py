"""Functions for the task files of lmms-eval; scores are those of :mod:`attngraph.experiments.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attngraph.experiments.metrics.captions import caption_scores
from attngraph.experiments.metrics.exact import entailment_scores


def image(doc: Mapping[str, Any]) -> list[Any]:
    """The one image of a record."""
    return [doc["image"]]


def hypothesis(doc: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """The hypothesis between two texts, without its full stop."""
    return texts["pre_prompt"] + doc["text"].rstrip(" .") + texts["post_prompt"]


def description(doc: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """The same prompt for each image."""
    return texts["prompt"]


def entailment(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 where the answer names the gold label."""
    return {"acc": float(entailment_scores({"": results[0]}, {"": doc["answer"]})[0])}


def caption(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Records for :func:`bleu4` and :func:`cider`."""
    record = {"id": doc["id"], "caption": results[0], "references": doc["answer"]}
    return {"bleu4": record, "cider": record}


def bleu4(records: Sequence[Mapping[str, Any]]) -> float:
    """BLEU@4 of a corpus, a fraction."""
    return float(_scores(records).bleu4)


def cider(records: Sequence[Mapping[str, Any]]) -> float:
    """CIDEr of a corpus, from 0 to 10."""
    return float(_scores(records).cider)


def _scores(records: Sequence[Mapping[str, Any]]) -> Any:
    captions = {record["id"]: record["caption"] for record in records}
    return caption_scores(captions, {record["id"]: tuple(record["references"]) for record in records})
