"""Folders next to ``attngraph`` are its packages; a bare name gives the same modules, or somebody else's."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from attngraph.adapters import GraphAdapterConfig
from tests.adapters.peft_models import FAMILIES

ROOT = Path(__file__).parents[2]


def python(*words: str, cwd: Path, path: Path | str = ROOT) -> str:
    """What Python prints in a folder, with ``path`` on its path."""
    command = [sys.executable, "-W", "always::DeprecationWarning:__main__", *words]
    env = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_bare_name_is_the_same_module_and_warns_once(tmp_path):
    """Two copies of a module would have two registries and classes that are no instances of each other."""
    code = """
import importlib.util, sys
import experiments.cli, experiments.base.types
from experiments.commands import options
import analysis
import attngraph
bare = {name for name in sys.modules if name.partition(".")[0] in ("experiments", "analysis")}
assert {"experiments", "experiments.cli", "experiments.base", "experiments.base.types", "analysis"} <= bare
for name in bare:
    module = sys.modules[name]
    assert module is sys.modules[f"attngraph.{name}"]
    assert module.__name__ == module.__spec__.name == f"attngraph.{name}"
assert attngraph.experiments is experiments and attngraph.analysis is analysis
assert experiments.cli.options is options
assert importlib.util.find_spec("experiments.nothing") is None
try: import experiments.nothing
except ModuleNotFoundError: print("not found")
"""
    for first in ("", "import attngraph.experiments.cli, attngraph.analysis\n"):
        lines = python("-c", first + code, cwd=tmp_path).splitlines()
        assert lines.count("not found") == 1
        assert (
            sum("`import experiments` is `import attngraph.experiments` now" in line for line in lines) == 1
        )
        assert sum("DeprecationWarning" in line for line in lines) == 2


def test_the_folders_of_a_checkout_are_its_own(tmp_path):
    """Another checkout may be installed as editable, and its finder knows the same names."""
    (tmp_path / "__init__.py").write_text("")
    code = f"""
import sys
from importlib.util import spec_from_file_location
class Editable:
    def find_spec(name, path=None, target=None):
        return spec_from_file_location(name, {str(tmp_path / "__init__.py")!r}) if "." in name else None
sys.meta_path.append(Editable)
import attngraph.analysis
print(attngraph.analysis.__file__)
"""
    assert python("-c", code, cwd=tmp_path) == f"{ROOT / 'analysis' / '__init__.py'}\n"


def test_the_earlier_command_still_runs():
    assert python("-m", "experiments.cli", "--version", cwd=ROOT).startswith("attngraph ")


@pytest.mark.parametrize("ours_first", [True, False])
def test_modules_of_the_same_name_are_left_alone(ours_first, tmp_path):
    """A project with its own ``adapters.py`` and ``experiments/``, and AdapterHub's package on the path."""
    (tmp_path / "site" / "analysis").mkdir(parents=True)
    (tmp_path / "site" / "analysis" / "__init__.py").write_text("whose = 'a package of the site'\n")
    project = tmp_path / "project"
    (project / "experiments").mkdir(parents=True)
    (project / "adapters.py").write_text("whose = 'mine'\n")
    (project / "experiments" / "__init__.py").write_text("")
    (project / "experiments" / "cli.py").write_text("whose = 'mine'\n")
    ours = "import attngraph.analysis\nfrom attngraph.experiments.cli import COMMANDS\n"
    theirs = "import adapters, analysis, experiments.cli as mine\n"
    theirs += "print(adapters.whose, mine.whose, analysis.whose)\n"
    (project / "run.py").write_text(ours + theirs if ours_first else theirs + ours)
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    assert python("run.py", cwd=project, path=paths) == "mine mine a package of the site\n"


def test_pickled_models_are_read_in_another_process_also_with_bare_names(tmp_path):
    model = get_peft_model(FAMILIES["gpt2"].make(), GraphAdapterConfig(p=1.25)).eval()
    (tmp_path / "now.pkl").write_bytes(now := pickle.dumps(model, protocol=0))
    (tmp_path / "earlier.pkl").write_bytes(earlier := now.replace(b"cattngraph.adapters", b"cadapters"))
    assert earlier.count(b"cadapters") > 2
    code = """
import pickle, torch
for name in ("earlier", "now"):
    model = pickle.load(open(f"{name}.pkl", "rb"))
    kind = type(model.peft_config["default"])
    print(kind.__module__, float(model(torch.arange(5)[None]).logits.detach().double().sum()).hex())
"""
    found = float(model(torch.arange(5)[None]).logits.detach().double().sum()).hex()
    lines = python("-W", "ignore", "-c", code, cwd=tmp_path).splitlines()
    assert [line for line in lines if "config" in line] == [f"attngraph.adapters.config {found}"] * 2
