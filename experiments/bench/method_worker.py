"""One method on a model of full size, in a process of its own: what :mod:`experiments.bench.methods` asks it
to do, timed, with the peak of memory."""

from __future__ import annotations

import gc
import multiprocessing
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from adapters.peft import optimizer_groups
from attngraph.errors import UserError
from experiments.bench.answers import made_answers, words_of
from experiments.bench.full_size import MODELS
from experiments.configs.settings import Settings
from experiments.methods import method_named
from experiments.models import Decoding, Ranking, Sample
from experiments.models.batch import IGNORED, token_losses
from experiments.training.device import mixed_precision
from experiments.training.memory import PeakMemory, give_back_freed_memory, keep_freed_memory

TRAIN, ANSWER, SAVE, RESUME = "train", "answer", "save", "resume"
TASKS = ("vqa", "caption")
TINY = dict(side=32, width=64, layers=1, batch=1, answered=1, answers=5, k=2, tokens=4)
OPTIMIZER = "optimizer.pt"
CLIP = 1.0  # of the gradient's norm, as in training


class Flops(TorchDispatchMode):
    """Counts what PyTorch's ``FlopCounterMode`` counts, and products in place, too; without the hooks on
    modules of that one, which not every model bears.

    Attributes:
        total: so far.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if packet not in flop_registry and packet.__name__.endswith("_"):
            packet = getattr(torch.ops.aten, packet.__name__.rstrip("_"), packet)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


class Work:
    """A model that a method was applied to, its optimiser, and examples of two tasks.

    Args:
        method: its name.
        options: see :func:`experiments.bench.methods.measure`.
    """

    def __init__(self, method: str, options: dict[str, Any]):
        self.options, self.device = options, torch.device(options["device"])
        family = MODELS[options["model"]](*(options[name] for name in ("side", "layers", "width", "seed")))
        family.model.to(self.device)
        how = method_named(method)
        self.trained_encoder = how.vision == "trained"
        self.tuned = how.apply(family, how.settings(Settings(reduction=options["reduction"]), "vqa"))
        self.family = family
        self.trained = sum(parameter.numel() for parameter in self.tuned.parameters().values())
        self.optimizer = torch.optim.AdamW(optimizer_groups(family.model, 1e-4, 0.05))
        self.folder = tempfile.TemporaryDirectory(prefix="attngraph-bench-")
        self.phases: dict[str, dict[str, float]] = {}
        draw = random.Random(options["seed"])
        words = words_of(family)
        side, count = options["side"], max(options["batch"], options["answered"])
        noise = np.random.default_rng(options["seed"])
        pictures = [
            Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)
        ]
        self.samples = {
            task: [
                Sample(str(k), picture, *(" ".join(draw.choices(words, k=n)) for n in options["words"][task]))
                for k, picture in enumerate(pictures)
            ]
            for task in TASKS
        }
        self.ways = {
            "vqa": Ranking(made_answers(words, options["answers"], draw), options["k"]),
            # to the last token: what was trained a few steps would end earlier than what was not
            "caption": Decoding(options["tokens"], options["beams"], min_new_tokens=options["tokens"]),
        }

    def do(self, name: str) -> dict[str, dict[str, float]]:
        """``train vqa``, ``answer vqa``, ``train caption``, ``answer caption``, ``save`` or ``resume``, once.

        Returns:
            Of each phase ``seconds``, ``cpu_seconds`` (of all threads) and ``peak_mb`` (10⁶ bytes); of saving
            also ``saved_mb``, what lies on the disk.
        """
        self.phases = {}
        what, _, task = name.partition(" ")
        {TRAIN: self._train, ANSWER: self._answer, SAVE: self._save, RESUME: self._resume}[what](task)
        return self.phases

    def flops(self, name: str) -> int:
        """Floating-point operations of a piece of work on one example, a multiplication and an addition being
        two; those of matrix products and attention."""
        options, self.options = self.options, {**self.options, "batch": 1, "answered": 1}
        with Flops() as counted:
            self.do(name)
        self.options = options
        return counted.total

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._wait()
        gc.collect()
        peak = PeakMemory(str(self.device))
        start, cpu = time.perf_counter(), time.process_time()
        yield
        self._wait()
        self.phases[name] = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": peak.megabytes(),
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(self, task: str) -> None:
        """An optimiser step. Pictures are read and resized before, as a loader does it."""
        family = self.family
        inputs = family.to_device(family.training_inputs(self.samples[task][: self.options["batch"]]))
        labels = inputs.pop("labels")
        family.model.train()
        if not self.trained_encoder:
            with self._phase("encode"):
                inputs["image_states"] = family.image_states(inputs)
        with self._phase("forward"), mixed_precision(self.device):
            losses = token_losses(family.logits(inputs), labels, 0.1)
            loss = losses.sum() / (labels[:, 1:] != IGNORED).sum()
        with self._phase("backward"):
            loss.backward()
        with self._phase("update"):
            torch.nn.utils.clip_grad_norm_(self.tuned.parameters().values(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
        family.model.eval()

    def _answer(self, task: str) -> None:
        with self._phase("answer"):
            self.tuned.answer(self.samples[task][: self.options["answered"]], self.ways[task])

    def _save(self, _: str) -> None:
        """Trained weights and the optimiser's state."""
        folder = Path(self.folder.name)
        with self._phase("save"):
            self.tuned.save(folder)
            torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        files = [file for file in folder.rglob("*") if file.is_file()]
        self.phases["save"]["saved_mb"] = sum(file.stat().st_size for file in files) / 1e6

    def _resume(self, _: str) -> None:
        folder = Path(self.folder.name)
        with self._phase("resume"):
            self.tuned.load(folder)
            self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))


class Worker:
    """A process with a :class:`Work`, which does one thing after another.

    Args:
        method, options: see :class:`Work`.

    Raises:
        UserError: the process could not make the model, or died; the message says why.
    """

    def __init__(self, method: str, options: dict[str, Any]):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.method = method
        self.process = context.Process(target=_serve, args=(method, options, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.about: dict[str, float] = self._answer()

    def do(self, name: str, flops: bool = False) -> Any:
        """:meth:`Work.do`, or :meth:`Work.flops`."""
        self.pipe.send((name, flops))
        return self._answer()

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    def _answer(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f"the process that measures {self.method} died (exit code {self.process.exitcode}; out of "
                "memory?)"
            ) from None
        if isinstance(answer, Exception):
            raise UserError(f"{self.method} could not be measured: {type(answer).__name__}: {answer}")
        return answer


def _serve(method: str, options: dict[str, Any], pipe: Any) -> None:
    """What the process does: one answer for the model, and one for each question."""
    try:
        for answer in _answers(method, options, pipe.recv):
            pipe.send(answer)
    except EOFError:  # nobody asks any more
        pass
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _answers(method: str, options: dict[str, Any], ask: Callable[[], Any]) -> Iterator[Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options["threads"])
    torch.set_flush_denormal(True)  # as in training, like the next line
    keep_freed_memory()
    tiny = Work(method, options | TINY)  # loads what is loaded at first use
    for task in TASKS:
        tiny.do(f"{TRAIN} {task}")
        tiny.do(f"{ANSWER} {task}")
    del tiny
    gc.collect()
    work = Work(method, options)
    yield {"trained": work.trained, "base_mb": _resident(options["device"])}
    while True:
        name, flops = ask()
        yield work.flops(name) if flops else work.do(name)


def _resident(device: str) -> float:
    """Memory in use now, in MB, without what was freed while the model was made."""
    gc.collect()
    give_back_freed_memory()
    return PeakMemory(device).megabytes()
