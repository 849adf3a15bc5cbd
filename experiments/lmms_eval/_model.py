"""The model that lmms-eval calls: a finished run, or any model that ``attngraph.evaluate`` takes by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from attngraph.errors import UserError
from attngraph.experiments.base.options import from_hub
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.models import Decoding, load_family
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.runs.device import check_device
from attngraph.experiments.runs.experiment import EXPERIMENT
from attngraph.experiments.runs.saved import finished
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import DEFAULT

TOKENS = 20  # of an answer, where a task names no limit


class AttngraphModel(lmms):
    """Answers by greedy or beam search.

    Args:
        pretrained: the folder of a finished run, a shipped name, a folder, or a name of the hub (``hub:NAME``
            fetches it).
        device: ``cpu``, ``cuda`` ...
        batch_size: requests that are answered together.

    Raises:
        UserError: it cannot be loaded.
    """

    is_simple = True

    def __init__(self, pretrained: str = "mini-blip", device: str = "cpu", batch_size: int | str = 1):
        super().__init__()
        check_device(device)
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"batch_size={batch_size}: use the number of requests that are answered together")
        self.batch_size = int(batch_size)
        if (Path(pretrained) / EXPERIMENT).is_file():
            run = finished(Path(pretrained))
            self.tuned = run.tuned(None, device)
        else:
            name, download = from_hub(pretrained)
            self.tuned = Tuned(load_family(name, download))
            self.tuned.family.model.to(device).eval()

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """A text for each request. An empty context is the model family's own prompt for a caption."""
        texts: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            part = [request.args for request in requests[start : start + self.batch_size]]
            ways = [decoding(options) for _, options, *_ in part]
            groups = (
                [(part, ways[0])] if len(set(ways)) == 1 else [([one], way) for one, way in zip(part, ways)]
            )
            for group, way in groups:
                texts += self.tuned.answer([self._sample(*one) for one in group], way)
        return texts

    def _sample(
        self, context: str, options: Any, doc_to_visual: Any, doc_id: Any, task: str, split: str
    ) -> Sample:
        images = doc_to_visual(self.task_dict[task][split][doc_id])
        if len(images) != 1:
            raise UserError(f"task {task} has {len(images)} images for a request, the model takes one")
        if not context:
            prompts = TASKS["vizwiz_caps"].prompts
            context = prompts.get(self.tuned.family.name, prompts[DEFAULT])
        return Sample(str(doc_id), images[0], context)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("attngraph answers tasks with output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("attngraph answers tasks with output_type generate_until")


def decoding(options: dict[str, Any]) -> Decoding:
    """lmms-eval's ``generation_kwargs`` as a way to answer.

    Raises:
        UserError: they ask for sampling.
    """
    if options.get("do_sample") or options.get("temperature"):
        raise UserError("attngraph samples no answers: set do_sample to false and temperature to 0")
    return Decoding(options.get("max_new_tokens") or TOKENS, options.get("num_beams") or 1)
