"""Of every architecture of the installed transformers that can be made by rules: is its attention read?

::

    python -m tests.attngraph.reading.survey            # all of them: most of an hour
    python -m tests.attngraph.reading.survey swinv2 led

It prints what is not read and why, and how many there are of each kind:

- *exact*: the weights that the model returns (``output_attentions``) are those of its graphs;
- *read*: it returns none to compare with;
- *read in part*, *refused*: some layers or all of them are refused, with a reason;
- *wrong*: other weights;
- *not made*, *not run*: the rules of :mod:`tests.attngraph.reading.architectures` do not serve it;
- *without attention*.
"""

import signal
import sys
from collections import Counter

import torch
from transformers import CONFIG_MAPPING
from transformers.utils import logging

from attngraph import UserError, capture
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.architectures import (
    NotMade,
    has_attention,
    inputs_of,
    is_returned,
    make,
    returned,
)

SECONDS = 90  # for each
# What transformers 5.24 returns as the attentions of these are states of windows.
STATES = ("sam2_hiera_det_model", "sam2", "sam2_vision_model")


def result_of(name: str) -> tuple[str, str]:
    """What became of an architecture, and why."""
    try:
        model = make(name)
        if model is None or not has_attention(model):
            return "without attention", ""
        inputs = inputs_of(model)

        def run(**more):
            torch.manual_seed(1)
            with torch.no_grad():
                return model(**inputs, **more)

        try:
            output = run(output_attentions=True)
        except TypeError:
            output = run()
        weights = [] if name in STATES else returned(output)
        if not all(weight.isfinite().all() for weight in weights):
            raise NotMade("its weights are not finite")
    except NotMade as error:
        return "not made", str(error)
    except Exception as error:
        return "not run", f"{type(error).__name__}: {error}"
    torch.manual_seed(1)
    try:
        graphs = [graph.weight for graph in capture(model, inputs).values()]
    except UserError as error:
        return refused(model, inputs, str(error))
    if not all(is_returned(weight, graphs) for weight in weights):
        return (
            "wrong",
            f"{[tuple(x.shape) for x in weights]} are not among {[tuple(x.shape) for x in graphs]}",
        )
    return ("exact" if weights else "read"), ""


def refused(model, inputs: dict, reason: str) -> tuple[str, str]:
    """Whether some of the layers can be read."""
    handle = instrument(model) if "no attention layer" not in reason else None
    sites = {} if handle is None else handle.sites
    names = {type(site.module): name for name, site in reversed(sites.items())}  # the first of each class
    if handle is not None:
        handle.remove()
    assert reason, "a refusal says why"
    for name in names.values():
        try:
            torch.manual_seed(1)
            if capture(model, inputs, layers=name):
                return "read in part", reason
        except UserError:
            continue
    return "refused", reason


def slow(*args: object) -> None:
    raise NotMade("too slow")


def survey(names: list[str]) -> Counter[str]:
    """How many architectures there are of each kind."""
    logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    before = signal.signal(signal.SIGALRM, slow)
    for name in names:
        signal.alarm(SECONDS)
        try:
            kind, reason = result_of(name)
        except NotMade as error:
            kind, reason = "not made", str(error)
        finally:
            signal.alarm(0)
        counts[kind] += 1
        if reason:
            print(f"{kind}: {name}: {' '.join(reason.split())[:300]}", flush=True)
    signal.signal(signal.SIGALRM, before)
    return counts


def share_read(counts: Counter[str]) -> float:
    """Of the architectures with attention that run, how many are read whole."""
    read = counts["exact"] + counts["read"]
    return read / max(1, read + counts["read in part"] + counts["refused"] + counts["wrong"])


if __name__ == "__main__":
    found = survey(sys.argv[1:] or list(CONFIG_MAPPING))
    print(dict(found), f"{share_read(found):.1%} of those with attention are read")
