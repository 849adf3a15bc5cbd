"""One adapted model in four threads at once computes what it computes in one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from tests.adapters.peft.helpers import put
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import IMAGE

TEXTS = [(6, 2), (6, 1), (9, 3), (5, 0)]  # of each thread: words, and with how many of them padding starts


@pytest.mark.parametrize("family", ["llama", "blip", "mllama"])
def test_four_threads_are_one(family):
    """Catches state of a pass that is kept where threads share it. They meet before every module, so that all
    four have left there what the next step takes."""
    model = put(family, "pgnn")
    barrier = Barrier(len(TEXTS))

    def meet(*args):
        barrier.wait(60)

    def batch(thread):
        words, padding = TEXTS[thread]
        given = FAMILIES[family].batch(n=words, seed=thread)
        given["attention_mask"][1, :padding] = 0
        return given

    def run(thread):
        try:
            with torch.no_grad():
                logits = model(**batch(thread)).logits
                more = dict(num_beams=2, min_new_tokens=4, max_new_tokens=4, suppress_tokens=[IMAGE])
                found = model.generate(
                    **batch(thread), **more, return_dict_in_generate=True, output_scores=True
                )
            return [logits, found.sequences, *found.scores]
        except BaseException:
            barrier.abort()
            raise

    hooks = [module.register_forward_pre_hook(meet) for module in model.modules()]
    with ThreadPoolExecutor(len(TEXTS)) as threads:
        got = list(threads.map(run, range(len(TEXTS))))
    for hook in hooks:
        hook.remove()
    for thread, found in enumerate(got):
        assert all(torch.equal(x, y) for x, y in zip(found, run(thread), strict=True))
