"""Of every architecture of the installed transformers that can be made by rules: is its attention read?"""

import signal
from collections import defaultdict

import pytest
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
        weights = returned(output)
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


@pytest.mark.slow
def test_architectures():
    """Nothing is wrong, nine in ten are read, and whatever is not is refused with a reason."""
    logging.set_verbosity_error()
    results: dict[str, dict[str, str]] = defaultdict(dict)
    before = signal.signal(signal.SIGALRM, slow)
    for name in CONFIG_MAPPING:
        signal.alarm(SECONDS)
        try:
            kind, reason = result_of(name)
        except NotMade as error:
            kind, reason = "not made", str(error)
        finally:
            signal.alarm(0)
        results[kind][name] = reason
    signal.signal(signal.SIGALRM, before)
    counts = {kind: len(found) for kind, found in results.items()}
    for kind in ("refused", "read in part", "wrong", "not run", "not made"):
        for name, reason in results[kind].items():
            print(f"{kind}: {name}: {' '.join(reason.split())[:300]}")
    print(counts)
    assert not results["wrong"]
    read = counts.get("exact", 0) + counts.get("read", 0)
    assert read >= 0.9 * (read + counts.get("refused", 0) + counts.get("read in part", 0)), counts
    assert read > 300
