"""The report of ``attngraph doctor``, and clashes in site folders that are laid out as pip would."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from experiments.commands import doctor


def install(site: Path, name: str, package: str, top_level: str | None = None) -> None:
    """Writes a package and the metadata of its distribution, as pip does."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (site / package).mkdir(exist_ok=True)
    (site / package / "__init__.py").write_text("")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n")
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)


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
    install(tmp_path, name, package, top_level)
    (tmp_path / "broken-1.0.dist-info").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        known = metadata.packages_distributions()
    monkeypatch.setattr(metadata, "packages_distributions", lambda: known)
    message = doctor.adapters_clash()
    assert bool(message) == clashes
    if message is not None:
        assert message.startswith(f"{name} brings a package") and f"pip uninstall {name}" in message
        assert "\n" not in message and message in doctor.report()[1]


def test_report_names_versions_devices_java_and_adapters():
    text, problems = doctor.report()
    for name in (*doctor.REQUIRED, *doctor.OPTIONAL):
        assert f"\n  {name} " in text
    for start in ("versions", "devices", "java ", "adapters "):
        assert any(line.startswith(start) for line in text.splitlines()), start
    assert metadata.version("torch") in text
    assert problems == [] and text.endswith("no problems found"), text


def test_what_is_a_problem(monkeypatch):
    """A package that is missing or too old, and another folder that is imported as adapters."""
    installed = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "easy-vqa" else installed(name))
    monkeypatch.setattr(doctor, "_ranges", lambda: {"numpy": ">=1000"})
    monkeypatch.setattr(doctor, "HOME", Path("/elsewhere"))
    text, problems = doctor.report()
    assert len(problems) == 3 and "3 problem(s)" in text and "  NOT OURS" in text
    assert problems[0].endswith("pip install 'numpy>=1000'")
    assert problems[1] == "easy-vqa is missing: pip install 'easy-vqa'"
    assert "take that folder off PYTHONPATH" in problems[2]


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
    text, problems = doctor.report()
    assert not problems and "java      not found" in text


def test_version_ranges_are_read_with_and_without_brackets(monkeypatch):
    lines = ["torch>=2.6", "numpy (>=1.26)", "tqdm", "pytest>=8 ; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert doctor._ranges() == {"torch": ">=2.6", "numpy": ">=1.26", "tqdm": ""}
