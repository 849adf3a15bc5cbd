"""The report of ``attngraph doctor``, and clashes in site folders that are laid out as pip would."""

import base64
import hashlib
import io
import shutil
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import pytest

from attngraph.errors import UserError
from experiments import installation
from experiments.commands import doctor
from experiments.configs import presets, settings

ROOT = Path(__file__).parents[3]

OURS = b'"""Adapters of attngraph."""\n'
THEIRS = b'"""Adapters of AdapterHub."""\n'


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def install(site: Path, name: str, files: dict[str, bytes], top_level: str | None = None) -> None:
    """Writes files and metadata as pip does: files of another distribution are overwritten without a word."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(record_line(path, content) for path, content in files.items()))
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)


def install_attngraph(site: Path) -> None:
    files = {"attngraph/__init__.py": b"", "adapters/__init__.py": OURS, "adapters/pgnn.py": b"p = 2\n"}
    install(site, "attngraph", files, "adapters\nanalysis\nattngraph\nexperiments\n")


def install_adapterhub(site: Path) -> None:
    install(site, "adapters", {"adapters/__init__.py": THEIRS, "adapters/hub.py": b""}, "adapters\n")


def clash_in(site: Path) -> str | None:
    return installation.check_adapters_clash(metadata.distributions(path=[str(site)]))


def test_attngraph_alone_is_no_clash(tmp_path):
    install_attngraph(tmp_path)
    install(tmp_path, "peft", {"peft/__init__.py": b"", "peft/adapters/__init__.py": b""}, "peft\n")
    assert clash_in(tmp_path) is None


@pytest.mark.parametrize("last", ["attngraph", "adapterhub"])
def test_clash_is_found_whichever_came_last(tmp_path, last):
    first, second = install_attngraph, install_adapterhub
    if last == "attngraph":
        first, second = second, first
    first(tmp_path)
    second(tmp_path)
    message = clash_in(tmp_path)
    assert "adapters 1.2 brings" in message and "pip uninstall adapters" in message
    assert "\n" not in message
    assert ("overwritten" in message) == (last == "adapterhub")


def test_clash_is_found_beside_an_editable_installation(tmp_path):
    install(tmp_path, "attngraph", {"__editable___attngraph_finder.py": b""}, "adapters\nattngraph\n")
    install_adapterhub(tmp_path)
    assert "pip uninstall adapters" in clash_in(tmp_path)


@pytest.mark.parametrize("top_level", ["adapters\n", None])
def test_clash_with_a_distribution_of_another_name(tmp_path, top_level):
    install_attngraph(tmp_path)
    install(tmp_path, "Some_Fork", {"adapters/__init__.py": THEIRS}, top_level)
    assert "pip uninstall some-fork" in clash_in(tmp_path)


def test_traces_of_a_removed_distribution_are_found(tmp_path):
    install_attngraph(tmp_path)
    (tmp_path / "adapters" / "__init__.py").unlink()  # as `pip uninstall adapters` does after a clash
    message = clash_in(tmp_path)
    assert "adapters/__init__.py" in message and "install attngraph again" in message


def test_a_folder_with_broken_metadata_does_no_harm(tmp_path):
    install_attngraph(tmp_path)
    (tmp_path / "broken-1.0.dist-info").mkdir()
    assert clash_in(tmp_path) is None


def report(**arguments) -> tuple[int, str]:
    out = io.StringIO()
    code = doctor.report(out, **arguments)
    return code, out.getvalue()


def test_report_names_versions_devices_java_and_adapters(tmp_path):
    install_attngraph(tmp_path)
    distributions = list(metadata.distributions(path=[str(tmp_path)]))
    code, text = report(distributions=distributions)
    for name in (*installation.REQUIRED, *installation.OPTIONAL):
        assert f"\n  {name} " in text
    for start in ("versions", "devices", "java ", "files ", "adapters "):
        assert any(line.startswith(start) for line in text.splitlines()), start
    assert metadata.version("torch") in text
    assert code == 0 and text.endswith("no problems found\n"), text


def test_report_of_a_clash_ends_with_exit_code_1(tmp_path):
    install_attngraph(tmp_path)
    install_adapterhub(tmp_path)
    code, text = report(distributions=list(metadata.distributions(path=[str(tmp_path)])))
    assert code == 1
    assert "1 problem(s)" in text and "pip uninstall adapters" in text


def test_report_of_a_missing_package_ends_with_exit_code_1(monkeypatch):
    installed = installation.version_of
    monkeypatch.setattr(
        installation, "version_of", lambda name: None if name == "easy-vqa" else installed(name)
    )
    code, text = report(distributions=[])
    assert code == 1
    assert "easy-vqa is missing: pip install 'easy-vqa" in text


def test_report_of_an_old_package_ends_with_exit_code_1(monkeypatch):
    monkeypatch.setattr(installation, "_needs", lambda: {"numpy": ">=1000"})
    code, text = report(distributions=[])
    assert code == 1
    assert "pip install 'numpy>=1000'" in text


def test_report_of_a_package_that_does_not_import(monkeypatch):
    error = installation._import_error
    monkeypatch.setattr(
        installation, "_import_error", lambda name: "no GLIBC" if name == "torch" else error(name)
    )
    code, text = report(distributions=[])
    assert code == 1
    assert "does not import (no GLIBC)" in text


def test_report_tells_when_another_folder_is_imported_as_adapters(monkeypatch):
    monkeypatch.setattr(installation, "adapters_origin", lambda: ("/elsewhere/adapters", False))
    code, text = report(distributions=[])
    assert code == 1
    assert "/elsewhere/adapters  NOT OURS" in text


def test_the_checkpoint_and_its_checksums_belong_together():
    """After a new pre-training: ``cd experiments/checkpoints``, ``sha256sum */*.json */*.safetensors >
    SHA256SUMS``.
    """
    folder = ROOT / "experiments" / "checkpoints"
    listed = {}
    for line in (folder / installation.CHECKSUMS).read_text().splitlines():
        digest, name = line.split()
        listed[name] = digest
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    read = [*folder.glob("*/*.json"), *folder.glob("*/*.safetensors")]
    assert listed.keys() == {str(file.relative_to(folder)) for file in read}


@pytest.fixture
def checkpoints(monkeypatch, tmp_path):
    """A copy of the shipped checkpoint that the report takes for it."""
    shutil.copytree(ROOT / "experiments" / "checkpoints", tmp_path / "experiments" / "checkpoints")
    monkeypatch.setattr(installation, "HOME", tmp_path)
    return tmp_path / "experiments" / "checkpoints"


def test_report_of_a_whole_checkpoint(checkpoints):
    assert installation.damaged_files() == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "scores.json"])
@pytest.mark.parametrize(
    "damage, said",
    [
        (Path.unlink, "is missing"),
        (lambda file: file.write_bytes(b""), "is not as it was shipped"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "is not as it was shipped"),
    ],
)
def test_report_of_a_damaged_checkpoint(checkpoints, name, damage, said):
    damage(checkpoints / "mini-blip" / name)
    code, text = report(distributions=[])
    assert code == 1 and "files     checkpoint, presets and settings are NOT usable" in text
    (line,) = [line for line in text.splitlines() if said in line]
    assert f"mini-blip/{name}" in line and "install attngraph again" in line


@pytest.mark.parametrize("content", [None, "", "one-word", "\udcff"])
def test_report_of_damaged_checksums(checkpoints, content):
    file = checkpoints / installation.CHECKSUMS
    file.unlink()
    if content is not None:
        file.write_text(content, errors="surrogateescape")
    (line,) = installation.damaged_files()
    assert "SHA256SUMS cannot be read" in line and "install attngraph again" in line


def test_report_of_a_checkpoint_that_does_not_load(monkeypatch):
    """As with versions of transformers that read it otherwise; without PyTorch nothing is said of it."""
    load = "experiments.models.load_family"
    monkeypatch.setattr(load, Mock(side_effect=UserError("no such layer")))
    line, *_ = installation.damaged_files()
    assert line.startswith("the shipped mini-blip cannot be loaded (UserError: no such layer)")
    monkeypatch.setattr(load, Mock(side_effect=ImportError("no torch")))
    assert installation.damaged_files() == []


@pytest.mark.parametrize(
    "content", [None, "", "null", "[]", "join: [", "join: glue", "join: blend", "arguments: {}", "\udcff"]
)
def test_report_of_damaged_settings(monkeypatch, tmp_path, content):
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_text(content, errors="surrogateescape")
    monkeypatch.setattr(settings, "chosen_settings", partial(settings.chosen_settings, file))
    problems = installation.damaged_files()
    assert problems and all("\n" not in line for line in problems)
    assert all("settings" in line or "join" in line for line in problems)


@pytest.mark.parametrize("content", [None, "", "null", "seeds: [", "about: x", "about: x\nseeds: {gcm: 1}"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "quick")) for name in installation.PRESETS],
)
def test_report_of_damaged_presets(monkeypatch, tmp_path, name, content):
    shutil.copytree(presets.PRESETS_FOLDER, tmp_path / "presets")
    monkeypatch.setattr(presets, "PRESETS_FOLDER", tmp_path / "presets")
    file = tmp_path / "presets" / f"{name}.yaml"
    file.unlink()
    if content is not None:
        file.write_text(content)
    (line,) = installation.damaged_files()
    fault = "is missing" if content is None else "cannot be used"
    assert line.startswith(f"preset {name} {fault}") and line.endswith("install attngraph again")


def test_report_where_torch_is_missing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from experiments.cli import main\n"
        "from experiments import installation\n"
        "installation.REQUIRED = ('torch', 'numpy')\n"  # others take seconds to import
        "print(main(['doctor']))\n"
        "main(['pretrain'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=installation.HOME, capture_output=True, text=True
    )
    assert "cpu    unknown without torch" in result.stdout and result.stdout.endswith("\n1\n")
    assert result.stderr.splitlines()[-1] == (
        "attngraph: the package torch is missing; `attngraph doctor` says how to install it"
    )
    assert result.returncode == 2


def test_report_without_java_is_no_problem(monkeypatch):
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)
    code, text = report(distributions=[])
    assert code == 0
    assert "java      not found" in text


def test_version_ranges_are_read_with_and_without_brackets(monkeypatch):
    lines = ["torch>=2.6", "numpy (>=1.26)", "tqdm", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(installation.metadata, "requires", lambda name: lines)
    assert installation._needs() == {"torch": ">=2.6", "numpy": ">=1.26", "tqdm": ""}
