"""Ctrl-C, SIGTERM, SIGHUP and SIGKILL: a command ends with one line, and its workers end with it."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from attngraph.experiments import cli
from attngraph.experiments.base.files import published
from attngraph.experiments.base.lock import LOCK, sole_use
from attngraph.experiments.base.stopping import SIGNALS, exit_code, stopped_by_signals
from tests.experiments.runs.commands import Command

PRESET = """
about: one cell
seeds: {majority: 1}
runs: {recipe: {steps: 1}, train_examples: 4, eval_examples: 4}
scenes: {questions: [2, 2, 2], hypotheses: [2, 2, 2], captions: [2, 2, 2]}
"""
SLEEPER = '''
import os, time
from pathlib import Path
from attngraph.experiments.tasks import TASKS, Column, Task, register

class Sleeper(Task):
    """Its scores take as long as they like."""
    name, title, columns = "sleeper", "Sleeper", (Column("sleeper.accuracy", "acc"),)
    def examples(self, data, split):
        return TASKS["easy_vqa"].examples(data, split)[:4]
    def score(self, predictions, examples):
        (Path(__file__).parent / "asleep").write_text(str(os.getpid()))
        time.sleep(600)

register(Sleeper())
'''
CASES = [(number, group) for number in (signal.SIGKILL, *SIGNALS) for group in (False, True)]


@pytest.mark.usefixtures("handled_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_the_work_and_the_second_does_as_before(number, monkeypatch):
    handlers = [signal.getsignal(other) for other in SIGNALS]
    with pytest.raises(KeyboardInterrupt) as stop, stopped_by_signals():
        try:
            signal.raise_signal(number)
        finally:
            assert [signal.getsignal(other) for other in SIGNALS] == handlers
    assert exit_code(stop.value) == 128 + number
    assert [signal.getsignal(other) for other in SIGNALS] == handlers
    assert exit_code(KeyboardInterrupt()) == 130
    signal.signal(number, signal.SIG_IGN)  # as `nohup` wants it
    with stopped_by_signals():
        signal.raise_signal(number)
    monkeypatch.setenv("WORLD_SIZE", "2")  # under torchrun, signals do what they do without us
    before = signal.getsignal(SIGNALS[1])
    with stopped_by_signals():
        assert signal.getsignal(SIGNALS[1]) is before


@pytest.mark.usefixtures("handled_signals")
def test_a_process_that_is_forked_ends_as_it_would_have():
    """A pool's workers are ended by SIGTERM: no traceback of theirs, and nothing of the command's is done."""
    with stopped_by_signals():
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(tell, b"!")  # a signal that comes during the fork is forgotten
                while True:
                    time.sleep(0.01)
            finally:
                os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


@pytest.mark.usefixtures("handled_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_every_command_tidies_up_when_a_signal_ends_it(number, tmp_path, monkeypatch, capsys):
    """The lock and the files that are half-written."""
    out = tmp_path / "out"

    def run(args):
        with sole_use(out), published(out) as part:
            (part / "half").write_text("")
            signal.raise_signal(number)
        return 0

    monkeypatch.setattr(cli, "_imported", lambda name: SimpleNamespace(run=run))
    assert cli.main(["doctor"]) == 128 + number
    assert capsys.readouterr().err == "\nstopped\n" and not out.exists()


def check_stops(cases, folder):
    """Commands with a worker that is asleep, all at the same time; each gets its signal."""
    (folder / "one.yaml").write_text(PRESET)
    commands = {}
    for number, group in cases:
        own = folder / f"{number}-{group}"
        own.mkdir()
        (own / "sleeper.py").write_text(SLEEPER)
        words = ["--plugin", own / "sleeper.py", "ablation", "--preset", folder / "one.yaml"]
        words += ["--tasks", "sleeper", "--out", own / "out"]
        commands[number, group] = Command(words, own / "said")
    for (number, group), command in commands.items():
        own = command.said.parent
        assert command.wait_until((own / "asleep").exists), command.said.read_text()
        command.kill(number, group)
        code = command.wait(30)
        assert code == (-number if number == signal.SIGKILL else 128 + number), command.said.read_text()
        assert command.rest() == [], "workers end with the command"
        said = command.said.read_text().splitlines()
        assert "Traceback" not in "\n".join(said)
        if number != signal.SIGKILL:
            assert said[-1] == "stopped" and not (own / "out" / LOCK).exists()
        with sole_use(own / "out"):
            assert not list((own / "out").rglob(".attngraph-*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")
def test_whatever_the_signal_and_whether_workers_get_it_too(tmp_path):
    check_stops(CASES, tmp_path)
