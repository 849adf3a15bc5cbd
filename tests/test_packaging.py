"""The package description, the wheel that comes of it, and the set-up tools."""

import hashlib
import platform
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = ["attngraph", "adapters", "analysis", "experiments"]


def package_files() -> list[Path]:
    """Every file under the four packages that belongs to them, relative to the root."""
    found = (path for name in TOP_LEVEL for path in (ROOT / name).rglob("*") if path.is_file())
    built = (".pyc", ".pt", ".so", ".sha256")
    return [path.relative_to(ROOT) for path in found if path.suffix not in built]


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
    folders = {".".join(path.parent.parts) for path in package_files() if path.suffix == ".py"}
    assert set(description["packages"]) == folders
    assert {name.split(".")[0] for name in folders} == set(TOP_LEVEL)
    assert description["entry_points"] == {"console_scripts": ["attngraph = experiments.cli:main"]}
    required, extras = description["install_requires"], description["extras_require"]
    assert any(line.startswith("torch-scatter") for line in extras["scatter"])
    assert not any(line.startswith("torch-scatter") for line in required)
    everything = required + [line for lines in extras.values() for line in lines]
    assert not any("==" in line.partition(";")[0] for line in everything), "nothing is pinned"


def test_wheel_holds_every_file_of_the_packages(tmp_path):
    pytest.importorskip("wheel")
    source = tmp_path / "source"
    (source / "experiments" / "checkpoints" / "mini").mkdir(parents=True)
    (source / "experiments" / "checkpoints" / "mini" / "state.pt").touch()
    for path in [*package_files(), *map(Path, ("setup.py", "pyproject.toml", "LICENSE", "MANIFEST.in"))]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        digests = {
            name: (hashlib.sha256(archive.read(name)).hexdigest(), archive.read(f"{name}.sha256").decode())
            for name in names
            if name.endswith(".so")
        }
    assert len(digests) == (2 if platform.machine() == "x86_64" else 1) or not shutil.which("cc")
    assert all(found == told for found, told in digests.values())
    assert {path.as_posix() for path in package_files()} <= names
    assert not any(name.startswith(("tests/", ".ci/")) for name in names)
    assert not any(name.endswith(".pt") for name in names)
    assert any(name.endswith("LICENSE") for name in names)


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
