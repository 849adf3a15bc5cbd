"""Create the virtual environment of a checkout and install attngraph into it.

    python .ci/setup_env.py [VENV]                (what `make setup` runs; standard library only)

1. VENV (default .venv) is created, or recreated if an earlier installation was interrupted.
2. attngraph is installed in it (editable, with the packages for tests, lint and docs; without UMAP, spaCy and
   playwright if these are not available).
   LOWEST=1 in the environment installs the lowest versions that setup.py allows.
3. With SCATTER=1 in the environment, torch-scatter is compiled against the torch that step 2 installed.
VENV/.attngraph-ready is written last. Running it again repairs an interrupted installation.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".attngraph-ready"  # written when all is done; the Makefile looks for it
UNFINISHED = ".attngraph-unfinished"  # there from the start until pip has installed everything
OWN = ".attngraph-venv"  # this script made the environment, so it may delete it
COMMANDS = "experiments,tsne,captions"  # the extras that all commands together need
SCATTER = "torch-scatter>=2.1.2"


class SetupError(Exception):
    """A step failed; the message says which, why and where its output is."""


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(what: str, command: list, log: Path) -> None:
    """Runs a long command with its output in `log`, and says every 30 s that it is still at work.

    Raises:
        SetupError: the command failed; the message ends with its last lines.
    """
    done = threading.Event()
    start = time.monotonic()

    def heartbeat() -> None:
        while not done.wait(30):
            say(f"... still running ({time.monotonic() - start:.0f} s)")

    threading.Thread(target=heartbeat, daemon=True).start()
    try:
        with open(log, "w", encoding="utf-8") as output:
            code = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            ).returncode
    finally:
        done.set()
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        raise SetupError("\n    ".join([f"{what} failed, its output is in {log}:", *tail]))


def ask(python: Path, code: str) -> str | None:
    """Output of `code` under `python`, or None if it fails."""
    try:
        answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=python.parent)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def create_venv(venv: Path) -> Path:
    """Makes sure that `venv` is a sound environment of the running Python; returns its interpreter."""
    python = venv / "bin" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = ask(python, "import sys, pip; print('%d.%d' % sys.version_info[:2])")
    own = (venv / OWN).exists()
    if found == version and not (own and (venv / UNFINISHED).exists()):
        return python
    if venv.exists() and any(venv.iterdir()):
        if not own:
            what = f"an environment of Python {found}" if found else "no sound environment"
            raise SetupError(f"{venv} is {what}, and not one made here: move it away, or make VENV=elsewhere")
        say(f"{venv} is incomplete or not of Python {version}: creating it again")
        shutil.rmtree(venv.rename(tempfile.mkdtemp(prefix=f"{venv.name}-old-", dir=venv.parent)))
    say(f"creating {venv} with Python {version} ({sys.executable})")
    venv.mkdir(parents=True, exist_ok=True)
    (venv / OWN).touch()
    (venv / UNFINISHED).touch()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    return python


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def lower_bounds() -> list[str]:
    """Every requirement of setup.py at its lowest version, as pip's constraints."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = re.search(r"\nCORE = (.*?)\nTEST = ", text, re.DOTALL)
    assert required is not None
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', required[1])]


def install_package(python: Path, venv: Path) -> None:
    say("installing attngraph and its dependencies: 1 to 5 minutes the first time, mostly for torch ...")
    (venv / UNFINISHED).touch()
    command = [python, "-m", "pip", "install", "setuptools>=77", "wheel>=0.43", "-e"]
    if switched_on("LOWEST"):
        lowest = venv / "lowest.txt"
        lowest.write_text("\n".join(lower_bounds()), encoding="utf-8")
        run("installing attngraph", [*command, f".[{COMMANDS},test]", "-c", lowest], venv / "install.log")
        (venv / UNFINISHED).unlink()
        return
    try:
        extras = f".[{COMMANDS},test,lint,docs,slurm,umap,tagger,browser,hub]"
        run("installing attngraph", [*command, extras], venv / "install.log")
    except SetupError:  # numba, spaCy and playwright come later to new Pythons and rare platforms
        say("trying again without UMAP, spaCy, playwright and datasets, whose tests will be skipped ...")
        run("installing attngraph", [*command, f".[{COMMANDS},test,lint,docs,slurm]"], venv / "install.log")
    (venv / UNFINISHED).unlink()


def install_scatter(python: Path, venv: Path) -> None:
    """Compiles torch-scatter against the installed torch; a wheel in pip's cache may be for another one."""
    say("compiling torch-scatter: 5 to 10 minutes on 2 cores ...")
    command = [python, "-m", "pip", "install", "--no-build-isolation", "--no-cache-dir"]
    command += ["--force-reinstall", "--no-deps", SCATTER]
    run("compiling torch-scatter", command, venv / "torch-scatter.log")


def main() -> int:
    if any(word.startswith("-") for word in sys.argv[1:]) or len(sys.argv) > 2:
        print(__doc__)
        return 0 if {"-h", "--help"} & set(sys.argv[1:]) else 2
    venv = (ROOT / (sys.argv[1] if len(sys.argv) > 1 else ".venv")).absolute()
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as for Ctrl-C: stop the step, clear away, say so
    try:
        python = create_venv(venv)
        (venv / STAMP).unlink(missing_ok=True)
        install_package(python, venv)
        if switched_on("SCATTER"):
            install_scatter(python, venv)
    except KeyboardInterrupt:
        say("interrupted. Run the same command again to continue.")
        return 130
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        say(f"{error}\n[setup] not finished. Fix the cause and run the same command again to continue.")
        return 1
    (venv / STAMP).touch()
    say(f"ready: {venv}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
