"""The report of ``attngraph doctor``."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from attngraph.experiments.commands import doctor


def test_report_names_versions_devices_and_java(monkeypatch):
    monkeypatch.setenv("PATH", "")
    text, problems = doctor.report()
    for start in ("versions", "  python ", "  torch ", "devices", "java      not found"):
        assert any(line.startswith(start) for line in text.splitlines()), start
    assert metadata.version("torch") in text and len(doctor.required()) > 20
    assert problems == [] and text.endswith("no problems found"), text


def test_what_is_a_problem(monkeypatch):
    """A package that is missing or too old, no metadata."""
    installed = doctor.version_of
    monkeypatch.setattr(
        doctor, "version_of", lambda name: None if name in ("pillow", "easy-vqa") else installed(name)
    )
    lines = ["numpy (>=1000)", "pillow", "easy-vqa; extra == 'experiments'", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "ROOT", Path("/elsewhere"))
    text, problems = doctor.report()
    assert len(problems) == 2 and "2 problem(s)" in text and "(/elsewhere)" in text
    assert problems[0].endswith("pip install 'numpy>=1000'")
    assert problems[1] == "pillow is missing: pip install 'pillow'"
    assert "not installed\n  easy-vqa: pip install 'attngraph[experiments]'\n" in text
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert "pip install -e /elsewhere" in doctor.report()[1][0] and not doctor.required()


def test_report_where_torch_is_missing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from attngraph.experiments.cli import main\n"
        "main(['doctor'])\n"
        "main(['pretrain'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=doctor.ROOT, capture_output=True, text=True)
    assert "cpu    unknown without torch" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "attngraph: the package torch is missing; `attngraph doctor` says how to install it"
    )
    assert result.returncode == 2
