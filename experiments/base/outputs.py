"""The folder that ``--out`` names: whose it is, and a run replaces only what a run like it wrote.

A folder that another command made is refused (:func:`check_folder`, which every command calls first).

Beside its results a run leaves a manifest, ``run.json``: the command, the settings that decide the numbers,
and the names of the files that it wrote. The same command with the same settings may replace these files; any
other is refused. Files that no manifest names are somebody else's: they stay, and a run that needs one of
their names is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attngraph
from attngraph.errors import UserError
from experiments.base.files import check_files, check_out, published, write_json
from experiments.base.lock import sole_use

MANIFEST = "run.json"

#: A command, and patterns of files and folders that only its folders hold all of. The first that fits counts.
MARKS = (
    ("scenes", ("manifest.json", "vqa_v2")),
    ("data make", ("manifest.json", "vqa2")),
    ("ablation", ("cells/*/*/seed*",)),
    ("ablation", ("results.json", "ablation.csv")),
    ("ablation", ("config.json", "scores.json", "predictions.json")),  # one of its cells
    ("pretrain", ("config.json", "scores.json", "tokenizer.json")),
)


def owner(folder: Path) -> str | None:
    """The command that made a folder, by its manifest or else by what it holds; None where nothing tells."""
    try:
        return _read_manifest(folder / MANIFEST)[0]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    for command, patterns in MARKS:
        if all(any(folder.glob(pattern)) for pattern in patterns):
            return command
    return None


def check_folder(out: Path, command: str) -> None:
    """Raises :class:`~attngraph.errors.UserError` where ``--out`` cannot become a folder with results, or is
    one that another command made.
    """
    check_out(out)
    if (other := owner(out)) not in (None, command):
        raise _another(out, f"of `attngraph {other}`")


def _read_manifest(file: Path) -> tuple[str, dict[str, Any], list[str]]:
    """Command, settings and names of files; one of several errors where the file is no manifest."""
    if not file.is_file():  # a pipe may have no end
        raise FileNotFoundError
    manifest = json.loads(file.read_text(encoding="utf-8"))
    command, settings, names = (manifest[key] for key in ("command", "settings", "files"))
    if not (isinstance(command, str) and isinstance(settings, dict) and isinstance(names, list)):
        raise TypeError
    if not all(Path(name).name == name for name in names):
        raise ValueError
    return command, settings, names


def _another(folder: Path, why: str) -> UserError:
    return UserError(
        f"{folder} holds another experiment ({why}): give another --out, or move that folder away"
    )


@dataclass(frozen=True)
class Outputs:
    """The files of one experiment.

    Args:
        folder: where they are; it is made if it does not exist.
        command: that makes them.
        settings: what decides their content, as values that JSON can hold.
        names: of the files that the command may write; ``*`` and ``?`` stand for any letters, for one letter.
    """

    folder: Path
    command: str
    settings: Mapping[str, Any]
    names: Sequence[str]

    def check(self) -> set[str]:
        """The names of the files that earlier runs of this experiment wrote.

        Raises:
            UserError: the folder holds another experiment, or files of somebody else's under a name that the
                command may write, or folders under the names of files; or it cannot be a folder.
        """
        check_folder(self.folder, self.command)
        held = self._held()
        self._refuse_foreign(
            {file.name for name in self.names for file in self.folder.glob(name)} | held, held
        )
        return held

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Checks the folder; while the block runs no other command works there.

        Raises:
            UserError: see :meth:`check`; or another command works in the folder.
        """
        self.check()
        with sole_use(self.folder):
            yield

    def claim(self) -> None:
        """Checks the folder, and says in the manifest that all of ``names`` (without ``*``) are this
        experiment's, for a command that writes them one after another.

        Raises:
            UserError: see :meth:`check`.
        """
        self._save(self.check() | set(self.names))

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """An empty folder to write all results into; when the block ends they take the place of the earlier
        ones, of which nothing remains. After an error in the block everything is as it was.

        Raises:
            UserError: see :meth:`check`.
        """
        held = self.check()
        with published(self.folder) as part:
            yield part
            written = {file.name for file in part.iterdir()}
            self._refuse_foreign(written | held, held)
            self._save(held | written)  # before the files move, so that a run cut off now leaves no strangers
        for name in held - written:
            (self.folder / name).unlink(missing_ok=True)
        self._save(written)

    def _held(self) -> set[str]:
        """The names in the manifest, which must be one of this experiment."""
        file = self.folder / MANIFEST
        if not os.path.lexists(file):
            return set()
        try:
            _, settings, names = _read_manifest(file)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file} is no record of a run ({type(error).__name__}): give another --out, or move it away"
            ) from None
        own = json.loads(json.dumps(self.settings))
        wrong = [name for name in {**own, **settings} if settings.get(name) != own.get(name)]
        if wrong:
            raise _another(self.folder, f"other {', '.join(wrong)}")
        return set(names)

    def _refuse_foreign(self, names: Iterable[str], held: set[str]) -> None:
        """Refuses names that stand for what is no file, and files that are not ``held``."""
        names = {*names}
        check_files(self.folder / name for name in names & held)
        foreign = sorted(name for name in names - held if os.path.lexists(self.folder / name))
        if foreign:
            raise UserError(
                f"--out {self.folder}: {foreign[0]} is there already, and no {MANIFEST} says that `attngraph "
                f"{self.command}` wrote it: give another --out, or move the file away"
            )

    def _save(self, names: Iterable[str]) -> None:
        about = {"command": self.command, "attngraph": attngraph.__version__, "settings": self.settings}
        write_json(self.folder / MANIFEST, {**about, "files": sorted(names)})
