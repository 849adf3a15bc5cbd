"""The benchmark of transfer methods, at tiny sizes in this process; and what it counts."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BlipForConditionalGeneration

from attngraph.errors import UserError
from experiments.bench import full_size, method_table, method_worker, methods, suite
from experiments.bench.full_size import MODELS
from experiments.bench.method_worker import TASKS, TINY, Flops, Work
from experiments.cli import main
from experiments.models.mini_blip import blip_base
from experiments.models.mplug import MPlugForConditionalGeneration, mplug_base


def options(name: str) -> dict:
    found = suite.BENCHMARKS[name].options | TINY
    return found | dict(seed=0, device="cpu", threads=1, words=methods.WORDS[found["model"]])


BLIP, MPLUG = OF_MODELS = "methods", "methods-mplug"
OPTIONS = options(BLIP)


class Here:
    """A worker without a process of its own."""

    def __init__(self, method, options):
        self.work = Work(method, options | TINY)
        self.about = {"trained": self.work.trained, "base_mb": 1.0}

    def do(self, name, flops=False):
        return self.work.flops(name) if flops else self.work.do(name)

    def kill(self):
        pass


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """A phase begins with a collection of garbage, which takes long in a process that has run many tests."""
    monkeypatch.setattr(method_worker, "gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(methods, "Worker", Here)


def test_products_in_place_count():
    x = torch.randn(2, 3, 5)
    y, out = torch.randn(2, 5, 7), torch.zeros(2, 3, 7)
    with Flops() as counted:
        x @ y
        torch.bmm(x, y, out=out)
        out.baddbmm_(x, y)
        torch.baddbmm(out, x, y)
    assert counted.total == 4 * 2 * (2 * 3 * 5 * 7)


def test_the_count_is_pytorchs_where_nothing_is_in_place():
    work = Work("decoder", OPTIONS)
    with FlopCounterMode(display=False) as counter:
        work.do("train caption")
    assert work.flops("train caption") == counter.get_total_flops() > 1e6
    work.options |= {"batch": 2}
    assert work.flops("train caption") == counter.get_total_flops()  # of one example still


@pytest.mark.parametrize("model, config", [("blip", blip_base), ("mplug", mplug_base)])
def test_full_sizes_are_the_authors(model, config, monkeypatch):
    """Weights of the same names and shapes as in the authors' configurations."""
    kind = {"blip": BlipForConditionalGeneration, "mplug": MPlugForConditionalGeneration}[model]
    words = full_size._tokenizer()
    monkeypatch.setattr(full_size, "_tokenizer", lambda: words)
    with torch.device("meta"):
        mine, theirs = MODELS[model](224, 12, 768, 0).model, kind(config(224))
    shapes, due = ({name: p.shape for name, p in of.named_parameters()} for of in (mine, theirs))
    assert shapes == due


def test_questions_of_mplug_are_fused_and_captions_are_not():
    """The text encoder and the fusion run once for questions, and never for captions."""
    work, ran = Work("full", options(MPLUG)), []
    for part in (work.family.model.text_encoder, work.family.model.fusion_encoder):
        part.register_forward_hook(lambda *_: ran.append(True))
    for task, count in (("vqa", 2), ("caption", 0)):
        for what in ("train", "answer"):
            ran.clear()
            work.do(f"{what} {task}")
            assert len(ran) == count, (what, task)


@pytest.mark.parametrize("of_model", OF_MODELS)
@pytest.mark.parametrize("name", methods.NAMES)
def test_each_method_trains_answers_and_goes_on_from_what_it_saved(name, of_model):
    work = Work(name, options(of_model))
    assert work.family.name == options(of_model)["model"]
    for task in TASKS:
        phases = work.do(f"train {task}")
        assert ("encode" in phases) == (name != "full") and {"forward", "backward", "update"} <= set(phases)
        assert set(work.do(f"answer {task}")) == {"answer"}
    assert work.do("save")["save"]["saved_mb"] > 0
    before = {key: p.detach().clone() for key, p in work.tuned.parameters().items()}
    steps = [state["exp_avg"].clone() for state in work.optimizer.state.values()]
    work.do("train vqa")
    work.do("resume")
    assert before and steps
    for key, parameter in work.tuned.parameters().items():
        assert torch.equal(parameter.detach(), before[key])
    for old, state in zip(steps, work.optimizer.state.values()):
        assert torch.equal(old, state["exp_avg"])


def test_captions_are_written_to_the_last_token():
    """Of whatever has been trained: a model that ends its captions early would seem to be fast."""
    work = Work("gcn", OPTIONS)
    model, passes = work.family.model, []
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[model.config.text_config.sep_token_id] = 1e4
    model.text_decoder.register_forward_hook(lambda *_: passes.append(1))
    work.family.generate(work.samples["caption"][:1], work.ways["caption"])
    assert len(passes) == OPTIONS["tokens"]


def test_what_a_planner_reads(here, tmp_path):
    result = methods.measure(OPTIONS | {"methods": ("gcn", "pgnn")}, 2)
    assert list(result["methods"]) == ["gcn", "pgnn"] and result["form"] == 2
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(result, allow_nan=False))
    for name, method in result["methods"].items():
        for task in TASKS:
            for what in ("train", "answer"):
                found = method["tasks"][task][what]
                assert found["seconds_per_example"] == found["seconds"] / found["examples"] > 0
                assert found["flops_per_example"] > 0
                assert found["extra_mb"] == found["peak_mb"] - found["base_mb"]
            step = method["tasks"][task]["train"]
            parts = sum(phase["seconds"] for phase in step["phases"].values())
            assert parts == pytest.approx(step["seconds"], rel=0.5)
            if name == "gcn":
                assert step["ratio"] == step["text_ratio"] == 1
    assert set(methods.lines(result)) == {"gcn", "pgnn"}
    written = method_table.markdown(result, "A step")
    assert written.count("| pGNN |") == 3 and "### caption" in written


@pytest.mark.slow
def test_the_command_writes_them(here, tmp_path, capsys):
    """Both models, each into files of its own."""
    words = ["bench", "--quick", "--repeats", "1", "--only", *OF_MODELS, "--out", str(tmp_path)]
    assert main(words) == 0
    measured = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    for name, model in zip(OF_MODELS, MODELS, strict=True):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert list(result["methods"]) == list(methods.NAMES) and result["options"]["model"] == model
        assert "detail" not in measured[name]
        about = (tmp_path / f"{name}.md").read_text()
        assert len(about) > 1000 and about.startswith("Transfer methods at ")
    assert "BLIP" in (tmp_path / "methods.md").read_text() and "mPLUG" in about
    shown = capsys.readouterr().out
    assert shown.count("pgnn") == 2 and "methods-mplug.json" in shown


def test_ratios_and_medians_are_those_of_the_repetitions():
    def took(*seconds):
        return [{"x": dict(seconds=s, cpu_seconds=s / 2)} for s in seconds]

    found = methods._whole("x", {"x": took(3, 8, 5)}, {"x": took(1, 4, 10)})
    assert found == {"seconds": 5, "ratio": 2, "cpu_seconds": 2.5, "cpu_ratio": 2}


def test_memory_is_that_of_one_piece_of_work(monkeypatch):
    """In a process of its own, which does it twice; whatever the work took, the process is ended."""
    made = []

    class Counting:
        about = {"base_mb": 50.0}

        def __init__(self, method, options):
            self.did, self.ended = [method], False
            made.append(self)

        def do(self, name):
            self.did.append(name)
            if name == "fail":
                raise UserError("out of memory")
            return {"forward": {"peak_mb": 60.0}, "update": {"peak_mb": 70.0 * len(self.did)}}

        def kill(self):
            self.ended = True

    monkeypatch.setattr(methods, "Worker", Counting)
    assert methods._memory("pgnn", "train vqa", {}) == {"base_mb": 50, "peak_mb": 210, "extra_mb": 160}
    with pytest.raises(UserError):
        methods._memory("gcn", "fail", {})
    assert [each.did for each in made] == [["pgnn", "train vqa", "train vqa"], ["gcn", "fail"]]
    assert all(each.ended for each in made)


@pytest.mark.slow  # two processes
def test_a_worker_answers_and_says_what_went_wrong():
    worker = method_worker.Worker("gcn", OPTIONS)
    try:
        assert worker.about["trained"] > 0 and worker.about["base_mb"] > 100
        assert worker.do("train vqa")["forward"]["peak_mb"] > 100
        with pytest.raises(UserError, match="gcn could not be measured: RuntimeError: KeyError"):
            worker.do("nothing")
    finally:
        worker.kill()
    with pytest.raises(
        UserError, match="nobody could not be measured: RuntimeError: UserError: unknown method"
    ):
        method_worker.Worker("nobody", OPTIONS)
    dead = SimpleNamespace(process=worker.process, method="gcn", pipe=worker.pipe)
    with pytest.raises(UserError, match="the process that measures gcn died"):
        method_worker.Worker._answer(dead)
