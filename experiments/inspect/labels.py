"""The classes of a graph's nodes, by which its homophily is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, RootModel
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.labels import Labels, SharedClusters, classes_of_tokens, modality
from attngraph.analysis.plots.heterophily import stack
from attngraph.errors import UserError
from attngraph.experiments.base.config import checked
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.inspect.regions import SHAPE_NAMES
from attngraph.experiments.inspect.source import Source
from attngraph.experiments.inspect.words import (
    PATCH_NAMES,
    ROTATED,
    Words,
    patches_of,
    whole_words,
    word_spans,
    words_of,
)
from attngraph.experiments.models.batch import Batch
from attngraph.experiments.scenes.words import parts_of_speech
from attngraph.extras import require

MODALITY, SPECIAL, SPEECH = "modality", "special or word", "part of speech"
BUILT_IN = (MODALITY, SPECIAL, "token", SPEECH, "patch", "named", "named shape", "cluster")
AND_PATCH = " and patch"  # ends the names of labels by a class of tokens on one side, by patch on the other
IN_PARTS = (
    "attends within parts of images (tiles, windows): each part is counted as an example, although parts of "
    "one image are similar: intervals are too narrow"
)
UNTAGGED = (
    f"no labels by {SPEECH}: without --labels spacy:NAME only those of words in synthetic scenes are known, "
    "and these texts are not about synthetic scenes"
)

# universaldependencies.org/u/pos
UNIVERSAL = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
Tagger = Callable[[tuple[str, ...]], tuple[str, ...]]  # of a text's words, to one of UNIVERSAL for each


def load_tagger(name: str) -> Tagger:
    """A tagger that assigns each word of a text its universal part of speech.

    Args:
        name: name of an installed pipeline of spaCy (``en_core_web_sm``), or a folder with one.

    Raises:
        UserError: spaCy is not installed, or there is no such pipeline.
    """
    require("spacy")
    import spacy

    try:
        pipeline = spacy.load(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--labels spacy:{name} cannot be loaded ({first_line(error)}): use a pipeline's folder, or "
            "install one (python -m spacy download en_core_web_sm)"
        ) from None

    @lru_cache(maxsize=4096)  # the same text comes in every layer
    def tag(words: tuple[str, ...]) -> tuple[str, ...]:
        tagged = pipeline(spacy.tokens.Doc(pipeline.vocab, words=list(words)))
        return tuple(word.pos_ if word.pos_ in UNIVERSAL else "X" for word in tagged)

    return tag


class ClassesFile(RootModel):
    """A file of ``--labels``: the class of each token."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    root: Annotated[dict[str, Annotated[str, Field(pattern=r"\S")]], Field(min_length=1)]


def examples_of(batch: Batch, graph: AttentionGraph) -> int | None:
    """Number of examples that a batch's graphs belong to, the same number of graphs each. None if the graphs
    are parts of images that may have different numbers of them."""
    examples, graphs, pixels = len(batch.samples), graph.shape[0], batch.inputs.get("pixel_values")
    one_size = pixels is not None and pixels.dim() == 4 and len(pixels) == examples
    return examples if graphs == examples or (one_size and graphs % examples == 0) else None


class Labeller:
    """Labels of a batch's nodes.

    Args:
        classes: ``{name: {token: class}}``, classes defined by the user.
        clusters: number of clusters of k-means, fitted on a layer's first examples; 0 for none. Adapted
            models share the clusters of the first model.
        seed: seed of k-means.
        tagger: tagger of parts of speech; None for those of the scenes' words, in texts about scenes only.
    """

    def __init__(
        self, classes: dict[str, dict[str, str]], clusters: int, seed: int, tagger: Tagger | None = None
    ):
        self.own, self.tagger = classes, tagger
        self.clusters = SharedClusters(clusters, seed=seed) if clusters else None
        self._too_small: set[str] = set()  # layers with too few nodes for clusters
        self._notes: dict[str, None] = {}

    def fit(self, source: Source) -> None:
        """Fit the clusters of every layer on the first examples of a source, regardless of batch size."""
        if self.clusters is None:
            return
        examples, layers = 0, {}
        for batch, graphs in source.graphs():
            for name, graph in graphs.items():
                self.clusters.gather(name, Bipartite.of(graph))
            examples, layers = examples + len(batch.samples), layers | graphs
            if examples >= self.clusters.examples:
                break
        for name in layers:
            try:
                self.clusters.fit(name)
            except ValueError as error:
                self._too_small.add(name)
                self._notes[f"{stack(name)}: no labels by cluster: {error}"] = None

    def notes(self) -> list[str]:
        """Limitations of the labels: a line for each stack of layers without clusters, with attention within
        parts of images or with rotated queries, and one if parts of speech are not known."""
        return list(self._notes)

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Labels]:
        """Labels of a graph's nodes.

        Returns:
            ``{name: labels}``: modality (text, image or special token), or, if all nodes are text, special
            token or word; within text: token, part of speech (by the tagger, or in texts about scenes) and
            the user's classes; within images: patch; if text attends to an image: named (the shape named by a
            word, the shape in a patch), and each class of tokens against patch; cluster.
        """
        device = graph.query.device
        if examples_of(batch, graph) is None:
            self._notes[f"{stack(name)}: {IN_PARTS}"] = None
        if graph.rotated:
            self._notes[f"{stack(name)}: {ROTATED}"] = None
        words, patches = ([of(batch, graph, side) for side in (0, 1)] for of in (words_of, patches_of))
        patches = [None if shown is None else shown.to(device) for shown in patches]
        special = (None if side is None else side.special.to(device) for side in words)
        is_text = not any(True if image is None else bool(image.any()) for image in graph.is_image())
        labels = {SPECIAL if is_text else MODALITY: modality(graph, *special)}
        if None not in words:
            labels["token"] = Labels(*(side.token_ids.to(device) for side in words))
            classes = [self._classes(batch, side) for side in words]
            labels |= {kind: Labels(*(side[kind].to(device) for side in classes)) for kind in classes[0]}
        if patches[0] is not None and patches[1] is not None:
            labels["patch"] = Labels(*patches)
        if words[0] is not None and patches[1] is not None:
            named = [side and _classified(side, SHAPE_NAMES, PATCH_NAMES).to(device) for side in words]
            labels["named shape"] = Labels(*map(_either, named, patches))
            if words[1] is None:
                for kind, known in self._classes(batch, words[0]).items():
                    labels[kind + AND_PATCH] = Labels(known.to(device), patches[1], shared=False)
        if self.clusters is not None and name not in self._too_small:
            labels["cluster"] = self.clusters(name, Bipartite.of(graph))
        return {kind: known for kind, known in labels.items() if known is not None}

    def _classes(self, batch: Batch, words: Words) -> dict[str, Tensor]:
        """The classes of a side's words, ``(b, nodes)``: part of speech, if it is known, and the user's
        classes."""
        own = {kind: _classified(words, classes, own=True) for kind, classes in self.own.items()}
        if self.tagger is not None:
            return {SPEECH: _tagged(words, self.tagger)} | own
        if all(sample.scene is not None for sample in batch.samples):
            return {SPEECH: _classified(words, parts_of_speech())} | own
        self._notes[UNTAGGED] = None
        return own


def read_own_classes(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """The user's classes of tokens, ``{name: {token: class}}``; a file's name is the labels' name.

    Raises:
        UserError: a file cannot be read, or its name is already in use.
    """
    classes: dict[str, dict[str, str]] = {}
    for file in files:
        if file.stem in (*BUILT_IN, *classes) or file.stem.endswith(AND_PATCH):
            raise UserError(f"--labels {file}: labels named {file.stem!r} already exist: rename the file")
        content, place = read_json(file), str(file)
        classes[file.stem] = checked(
            content, ClassesFile, lambda _, place=place: place, "use a JSON file {token: class}"
        ).root
    return classes


def _classified(
    words: Words, classes: dict[str, str], names: tuple[str, ...] | None = None, own: bool = False
) -> Tensor:
    """Classes of words; the user's may also list tokens in the form of the vocabulary."""

    def key(token: str, word: str) -> str:
        return next((form for form in (token, word) if own and form in classes), word.lower())

    keys = [[key(*pair) for pair in zip(line[0], whole_words(*line))] for line in words.lines()]
    return classes_of_tokens(keys, classes, names)


def _tagged(words: Words, tagger: Tagger) -> Tensor:
    """Indices in ``UNIVERSAL``; all pieces of a word have the word's index, tokens outside words have -1."""
    tags = torch.full(words.is_token.shape, -1)
    for line, classes in zip(words.lines(), tags):
        spans = word_spans(*line)
        for (span, _), tag in zip(spans, tagger(tuple(word for _, word in spans))):
            classes[span.start : span.stop] = UNIVERSAL.index(tag)
    return tags


def _either(named: Tensor | None, shown: Tensor | None) -> Tensor:
    """The classes of a side's words and of its patches."""
    return shown if named is None else named if shown is None else torch.where(shown < 0, named, shown)
