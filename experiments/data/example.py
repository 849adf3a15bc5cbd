"""The common type of examples of all datasets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attngraph.experiments.scenes.scene import Scene


@dataclass(frozen=True)
class Example:
    """One image with a prompt and its reference answers.

    Args:
        id: id in the official file (question id, pair id, image id).
        image: path of the image file.
        prompt: the text before the answer: a question, a hypothesis, or "" for captions.
        references: accepted answers. VQA: the ten annotators' answers; entailment: the one gold label
            ("entailment", "contradiction", "neutral"); captions: the reference captions.
            Empty in splits without annotations.
        kind: question type ("existence", "count", ...), hypothesis type, or "caption"; scores are broken down
            by it.
        scene: description of the scene, if it is known and the task scores answers with it.
        groups: further ways to break scores down: name -> this example's group, such as
            ``{"answer type": "yes/no"}``.
    """

    id: str
    image: Path
    prompt: str
    references: tuple[str, ...]
    kind: str
    scene: Scene | None = None
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
