"""The report of ``attngraph doctor``, and clashes in site folders that are laid out as pip would."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from attngraph.experiments.commands import doctor


@pytest.mark.parametrize(
    "name, package, top_level, clashes",
    [
        ("adapters", "adapters", "adapters\n", True),
        ("Some_Fork", "adapters", None, True),  # as tools other than setuptools write it
        ("attngraph", "adapters", "adapters\nattngraph\n", False),
        ("peft", "peft", "peft\n", False),
    ],
)
def test_another_distribution_with_a_package_adapters_is_found(
    name, package, top_level, clashes, tmp_path, monkeypatch
):
    info = tmp_path / f"{name}-1.2.dist-info"
    for folder in (info, tmp_path / package, tmp_path / "broken-1.0.dist-info"):
        folder.mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n")
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        known = metadata.packages_distributions()
    monkeypatch.setattr(metadata, "packages_distributions", lambda: known)
    message = doctor.adapters_clash()
    assert bool(message) == clashes
    if message is not None:
        assert f"pip uninstall {name}" in message and message in doctor.report()[1]


def test_report_names_versions_devices_java_and_adapters(monkeypatch):
    monkeypatch.setenv("PATH", "")
    text, problems = doctor.report()
    for start in ("versions", "  python ", "  torch ", "devices", "java      not found", "adapters "):
        assert any(line.startswith(start) for line in text.splitlines()), start
    assert metadata.version("torch") in text and len(doctor.required()) > 20
    assert problems == [] and text.endswith("no problems found"), text


def test_what_is_a_problem(monkeypatch):
    """A package that is missing or too old, another folder that is imported as adapters, no metadata."""
    installed = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "easy-vqa" else installed(name))
    lines = ["numpy (>=1000)", "easy-vqa", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "HOME", Path("/elsewhere"))
    text, problems = doctor.report()
    assert len(problems) == 3 and "3 problem(s)" in text and "  NOT OURS" in text
    assert problems[0].endswith("pip install 'numpy>=1000'")
    assert problems[1] == "easy-vqa is missing: pip install 'easy-vqa'"
    assert "take that folder off PYTHONPATH" in problems[2]
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert "pip install -e /elsewhere" in doctor.report()[1][0] and not doctor.required()


def test_report_where_torch_is_missing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from attngraph.experiments.cli import main\n"
        "main(['doctor'])\n"
        "main(['pretrain'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=doctor.HOME, capture_output=True, text=True)
    assert "cpu    unknown without torch" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "attngraph: the package torch is missing; `attngraph doctor` says how to install it"
    )
    assert result.returncode == 2
