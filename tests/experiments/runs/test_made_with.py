"""With what a run is made."""

import importlib
import sys

from experiments.runs import made_with as module
from experiments.runs.made_with import DIGEST, code_digest, made_with


def test_code_and_packages_are_named():
    about = made_with()
    assert {"attngraph", "code", "python", "torch", "transformers", "peft"} <= set(about["versions"])
    assert about["versions"]["code"] == DIGEST == code_digest() and len(DIGEST) == 12


def test_a_package_without_metadata_is_no_error(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert made_with()["versions"]["no-such-package"] == "unknown"
    monkeypatch.setattr(module, "CODE", ("no_such_package",))
    assert code_digest() == "unknown"


def test_another_line_of_code_is_another_digest(tmp_path, monkeypatch):
    """Names count as well as contents; what is no Python file does not."""
    package = tmp_path / "packaged_here"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "CODE", (package.name,))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()

    found = [code_digest()]
    (package / "notes.txt").write_text("nothing")
    (package / ".#lock.py").symlink_to("nowhere")  # as editors leave them
    assert code_digest() == found[0]
    (package / "inner" / "one.py").write_text("x = 2\n")
    found.append(code_digest())
    (package / "inner" / "one.py").rename(package / "inner" / "two.py")
    found.append(code_digest())
    assert len(set(found)) == 3
