"""The package description, the wheel that comes of it, and the set-up tools."""

import ast
import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from attngraph.extras import EXTRA_OF
from tests.docs.pages import NOTEBOOKS

setuptools = pytest.importorskip("setuptools")

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["adapters", "analysis", "experiments"]
NOT_IN_WHEEL = ("experiments/results/", "experiments/checkpoints/mini-mplug/")
BUILT_WITH = [Path(name) for name in ("setup.py", "pyproject.toml", "LICENSE", "MANIFEST.in", "README.md")]


def package_files() -> list[Path]:
    """Every file of the packages that a wheel holds, relative to the root."""
    found = (path for name in ("attngraph", *FOLDERS) for path in (ROOT / name).rglob("*") if path.is_file())
    built = (".pyc", ".pt", ".so", ".sha256")
    files = [path.relative_to(ROOT) for path in found if path.suffix not in built]
    return [path for path in files if not path.as_posix().startswith(NOT_IN_WHEEL)]


def installed(path: Path) -> Path:
    """Where a file of a package is in a wheel."""
    return path if path.parts[0] == "attngraph" else Path("attngraph", path)


def copy_source(source: Path) -> None:
    """The packages, and files that belong into no wheel."""
    for path in [*package_files(), *BUILT_WITH]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    for name in ("checkpoints/mini-blip/state.pt", "checkpoints/mini-mplug/config.json", "results/a/b.json"):
        (source / "experiments" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "experiments" / name).touch()


@pytest.fixture(scope="module")
def description() -> dict:
    """The arguments of setup()."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", seen.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return seen


def test_what_is_described(description):
    folders = {".".join(installed(path).parent.parts) for path in package_files() if path.suffix == ".py"}
    assert set(description["packages"]) == folders
    assert {name.split(".")[0] for name in folders} == {"attngraph"}
    assert description["entry_points"] == {
        "console_scripts": ["attngraph = attngraph.experiments.cli:main"],
        "lmms_eval.models": ["attngraph = attngraph.experiments.lmms_eval:manifest"],
    }
    required, extras = description["install_requires"], description["extras_require"]
    assert any(line.startswith("torch-scatter") for line in extras["scatter"])
    assert not any(line.startswith("torch-scatter") for line in required)
    everything = required + [line for lines in extras.values() for line in lines]
    assert not any("==" in line.partition(";")[0] for line in everything), "nothing is pinned"


def test_links_of_the_description_lead_to_the_repository():
    """An index shows the README without the files that it links to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **settings: None)
        patch.chdir(ROOT)
        text = runpy.run_path("setup.py")["long_description"]("https://example.org/a")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert all(re.match("https?://", target) for target in targets) and len(targets) > 20
    (viewer,) = (target for target in targets if target.endswith("viewer.gif"))
    assert viewer == "https://example.org/a/raw/v0.1.0/docs/figures/viewer.gif"


def name_of(requirement: str) -> str:
    """The distribution's name, in the form that all its spellings share."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub("[-_.]+", "-", found[0]).lower()


def test_errors_name_the_extra_that_brings_a_package(description):
    distributions = {"sklearn": "scikit-learn", "yaml": "pyyaml", "umap": "umap-learn"}
    extras = description["extras_require"]
    brought = {(name_of(line), extra) for extra in set(EXTRA_OF.values()) for line in extras[extra]}
    named = {(name_of(distributions.get(package, package)), extra) for package, extra in EXTRA_OF.items()}
    assert named == brought


def test_the_notebook_extra_brings_what_notebooks_import(description):
    lines = description["install_requires"] + description["extras_require"]["notebook"]
    brought, providers = {name_of(line) for line in lines}, metadata.packages_distributions()
    own = {*sys.stdlib_module_names, "attngraph", "IPython"}  # IPython runs every notebook
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        steps = ast.walk(ast.parse(code))
        names = {name for step in steps for name in imported(step)} - own
        assert names and all(brought & {*map(name_of, providers[name])} for name in names), notebook


def imported(step: ast.AST) -> list[str]:
    """Packages that a statement imports from."""
    if isinstance(step, ast.ImportFrom):
        return [str(step.module).partition(".")[0]]
    return [one.name.partition(".")[0] for one in step.names] if isinstance(step, ast.Import) else []


@pytest.fixture(scope="module")
def core(description, tmp_path_factory) -> Path:
    """A folder of packages as after ``pip install attngraph`` without an extra: links to those here."""
    folder, left, done = tmp_path_factory.mktemp("core"), [*description["install_requires"]], set()
    while left:
        name = name_of(left.pop())
        if name in done:
            continue
        done.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform
            continue
        left += [line for line in distribution.requires or [] if "extra ==" not in line]
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def run_with(core: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Python with the core's packages and ours, and no others."""
    env = {**os.environ, "PYTHONPATH": f"{core}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-S", *words], cwd=folder, env=env, capture_output=True, text=True)


MISSING = r"the package \w+ is missing: pip install 'attngraph\[experiments\]'\n"
WITHOUT_EXTRAS = """
import attngraph, torch
from peft import get_peft_model
from PIL import Image
from attngraph.adapters import GraphAdapterConfig
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.closed_form import closed_form
from attngraph.analysis.energy import energies
from attngraph.analysis.heterophily import heterophily
from attngraph.analysis.homophily import adjusted_of_edges
from attngraph.experiments.models import Sample, load_family

image = Image.new("RGB", (64, 64), "white")
family = load_family()
batch = family.batch([Sample("one", image, "what color is it ?", "blue")])
graphs = attngraph.capture(family.model, batch.inputs)
attngraph.show(graphs, image=image, tokens=batch.text.tokens).save("page.html")
graph = [graph for graph in graphs.values() if graph.kind == "cross"][-1]
edges = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 3]])
print(
    bool(energies(Bipartite.of(graph)).dirichlet.isfinite().all()),
    bool(closed_form(graph).r.isfinite().all()),
    adjusted_of_edges(edges, torch.tensor([0, 0, 0, 1])) <= 1,
)
model = get_peft_model(family.model, GraphAdapterConfig(gnn="pgnn"))
model(**batch.inputs, labels=batch.inputs["input_ids"]).loss.backward()
model.save_pretrained("adapter")
try:
    heterophily(graphs)
except attngraph.UserError as error:
    print(error)
"""


def test_the_core_works_without_extras(core, tmp_path):
    done = run_with(core, tmp_path, "-c", WITHOUT_EXTRAS)
    assert re.fullmatch(f"True True True\n{MISSING}", done.stdout), done.stderr


def test_a_command_without_its_extra_ends_in_one_line(core, tmp_path):
    done = run_with(core, tmp_path, "-m", "attngraph", "heterophily")
    assert re.fullmatch(f"attngraph: {MISSING}", done.stderr)
    assert done.returncode == 2 and not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("wheel")
    folder = tmp_path_factory.mktemp("wheel")
    copy_source(folder / "source")
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        digests = {
            name: (hashlib.sha256(archive.read(name)).hexdigest(), archive.read(f"{name}.sha256").decode())
            for name in names
            if name.endswith(".so")
        }
    assert len(digests) == (2 if platform.machine() == "x86_64" else 1) or not shutil.which("cc")
    assert all(found == told for found, told in digests.values())
    metadata = {name for name in names if name.startswith("attngraph-0.1.0.dist-info/")}
    built = {*digests, *(f"{name}.sha256" for name in digests)}
    assert names - metadata - built == {installed(path).as_posix() for path in package_files()}
    assert any(name.endswith("LICENSE") for name in metadata)
    assert wheel.stat().st_size < 12e6


def make_adapterhub(site: Path) -> None:
    """What AdapterHub's distribution ``adapters`` puts beside us."""
    (site / "adapters").mkdir()
    (site / "adapters" / "__init__.py").write_text("whose = 'AdapterHub'\n")


CHECK = """
import sys, warnings
warnings.simplefilter("error", DeprecationWarning)
import adapters, experiments
import attngraph.analysis, attngraph.experiments.cli
from attngraph.experiments.base.shipped import names_of, shipped_folder
assert (shipped_folder(None) / "model.safetensors").is_file() and "quick" in names_of("preset")
print(adapters.whose, experiments.whose, sep="\\n")
print(attngraph.analysis.__file__, attngraph.experiments.cli.__file__, sep="\\n")
"""


def make_project(folder: Path) -> None:
    """Somebody's project, with a package that is named as one of our folders."""
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "__init__.py").write_text("whose = 'mine'\n")
    (folder / "run.py").write_text(CHECK)


def test_an_unpacked_wheel_next_to_adapterhub(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    make_adapterhub(tmp_path / "site")
    make_project(tmp_path / "project")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path / "project", env=env, capture_output=True, text=True
    )
    ours = tmp_path / "site" / "attngraph"
    expected = ["AdapterHub", "mine", f"{ours / 'analysis/__init__.py'}", f"{ours / 'experiments/cli.py'}"]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel", "sdist"])
def test_installed_by_pip_into_a_new_environment(kind, tmp_path):
    """Our package, its command and its model, in a project with names like ours, next to AdapterHub's."""
    pytest.importorskip("pip")
    copy_source(source := tmp_path / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # what we need; not us: no finder
    make_adapterhub(site)
    make_project(project := tmp_path / "project")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"CC": "false"}

    def run(*command: str | Path, cwd: Path = project) -> str:
        done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    what: list[str | Path] = [source]
    if kind == "editable":
        what = ["-e", source]
    elif kind == "sdist":
        run(sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path / "dist", cwd=source)
        what = list((tmp_path / "dist").glob("*.tar.gz"))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", *what)
    ours = source if kind == "editable" else site / "attngraph"
    files = [f"{ours / 'analysis/__init__.py'}", f"{ours / 'experiments/cli.py'}"]
    assert run(python, "run.py").splitlines() == ["AdapterHub", "mine", *files]
    version = "attngraph 0.1.0\n"
    assert (
        run(python.with_name("attngraph"), "--version")
        == run(python, "-m", "attngraph", "--version")
        == version
    )


def find_python(argument: str) -> subprocess.CompletedProcess:
    command = ["sh", str(ROOT / ".ci" / "find_python.sh"), argument]
    return subprocess.run(command, capture_output=True, text=True)


def fake_python(folder: Path, version: tuple[int, int, int], without: str = "") -> Path:
    """A `python3` that claims another version, or lacks a module."""
    code = f"import sys; sys.version_info = {version}; sys.modules.update(dict.fromkeys({without.split()}))"
    script = folder / "python3"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}\n$2"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("version", "without", "message"),
    [
        ((3, 10, 4), "", "python3 is Python 3.10.4"),
        ((3, 14, 0), "", "python3 is Python 3.14.0"),
        ((3, 12, 1), "ensurepip", "has no venv module (Debian, Ubuntu: apt install python3.12-venv)"),
        (None, "", "python3 is not there"),
    ],
)
def test_find_python_takes_a_good_one_or_says_what_is_missing(tmp_path, version, without, message):
    place = tmp_path / "python3" if version is None else fake_python(tmp_path, version, without)
    answer = find_python(str(place))
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert message in answer.stderr
    answer = find_python(sys.executable)
    assert answer.returncode == 0 and Path(answer.stdout.strip()).exists(), answer.stderr


@pytest.fixture
def setup_env(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    import setup_env

    return setup_env


@pytest.mark.parametrize(("asked", "compiled"), [(None, 0), ("0", 0), ("1", 1)])
def test_torch_scatter_is_compiled_only_if_asked_for(setup_env, monkeypatch, tmp_path, asked, compiled):
    steps = []
    monkeypatch.setattr(setup_env, "create_venv", lambda venv: Path(sys.executable))
    monkeypatch.setattr(setup_env, "run", lambda what, command, log: steps.append(what))
    monkeypatch.setattr(sys, "argv", ["setup_env.py", str(tmp_path)])
    monkeypatch.delenv("SCATTER", raising=False)
    if asked is not None:
        monkeypatch.setenv("SCATTER", asked)
    assert setup_env.main() == 0 and (tmp_path / setup_env.STAMP).exists()
    assert steps.count("compiling torch-scatter") == compiled


def test_an_environment_made_by_someone_else_is_never_deleted(setup_env, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(setup_env.SetupError, match="not one made here"):
        setup_env.create_venv(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failing_step_shows_its_last_lines(setup_env, tmp_path):
    command = [sys.executable, "-c", "print('the cause'); raise SystemExit(3)"]
    with pytest.raises(setup_env.SetupError, match="(?s)that failed.*step.log.*the cause"):
        setup_env.run("that", command, tmp_path / "step.log")
