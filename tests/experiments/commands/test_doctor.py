"""The report of ``attngraph doctor``, and clashes in site folders that are laid out as pip would."""

import base64
import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from experiments.commands import doctor

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
    return doctor.adapters_clash(metadata.distributions(path=[str(site)]))


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


def problems_in(site: Path | None = None) -> tuple[str, list[str]]:
    return doctor.report(metadata.distributions(path=[str(site)]) if site else [])


def test_report_names_versions_devices_java_and_adapters(tmp_path):
    install_attngraph(tmp_path)
    text, problems = problems_in(tmp_path)
    for name in (*doctor.REQUIRED, *doctor.OPTIONAL):
        assert f"\n  {name} " in text
    for start in ("versions", "devices", "java ", "adapters "):
        assert any(line.startswith(start) for line in text.splitlines()), start
    assert metadata.version("torch") in text
    assert problems == [] and text.endswith("no problems found"), text


def test_what_is_a_problem(tmp_path, monkeypatch):
    """A package that is missing or too old, a clash, another folder that is imported as adapters."""
    installed = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "easy-vqa" else installed(name))
    monkeypatch.setattr(doctor, "_ranges", lambda: {"numpy": ">=1000"})
    install_attngraph(tmp_path)
    install_adapterhub(tmp_path)
    text, problems = problems_in(tmp_path)
    assert len(problems) == 3 and "3 problem(s)" in text
    assert problems[0].endswith("pip install 'numpy>=1000'")
    assert problems[1] == "easy-vqa is missing: pip install 'easy-vqa'"
    assert "pip uninstall adapters" in problems[2]
    monkeypatch.setattr(doctor, "HOME", Path("/elsewhere"))
    text, problems = problems_in()
    assert "  NOT OURS" in text and "take that folder off PYTHONPATH" in problems[-1]


def test_report_where_torch_is_missing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from experiments.cli import main\n"
        "main(['doctor'])\n"
        "main(['pretrain'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=doctor.HOME, capture_output=True, text=True)
    assert "cpu    unknown without torch" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "attngraph: the package torch is missing; `attngraph doctor` says how to install it"
    )
    assert result.returncode == 2


def test_report_without_java_is_no_problem(monkeypatch):
    monkeypatch.setenv("PATH", "")
    text, problems = problems_in()
    assert not problems and "java      not found" in text


def test_version_ranges_are_read_with_and_without_brackets(monkeypatch):
    lines = ["torch>=2.6", "numpy (>=1.26)", "tqdm", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert doctor._ranges() == {"torch": ">=2.6", "numpy": ">=1.26", "tqdm": ""}
