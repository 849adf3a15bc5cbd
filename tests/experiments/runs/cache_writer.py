"""Fills a cache of image states in a process of its own: ``python cache_writer.py PICTURES CACHE [KILL]``.

With a number as third argument the process kills itself, by SIGKILL, before it encodes for that time.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from experiments.runs import data
from experiments.runs.data import FeatureCache
from tests.experiments.runs.small import small_examples, small_family

if __name__ == "__main__":
    torch.set_num_threads(1)
    pictures, folder = map(Path, sys.argv[1:3])
    data.CHUNK = 3
    family = small_family()
    if len(sys.argv) > 3:
        encode, left = family.encode_images, [int(sys.argv[3])]

        def dying(images):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(images)

        family.encode_images = dying
    paths = data.pictures(small_examples(pictures, 40))
    print("ready", flush=True)
    sys.stdin.readline()
    states = FeatureCache(folder).features(family, paths)
    print(sum(states[path].double().sum().item() for path in paths))
