"""The folder given by ``--out``: a run replaces only files of a run with the same settings.

In addition to its results, a run writes a manifest, ``run.json``: the command, the settings that determine
the numbers, and the names of the files that it wrote. The same command with the same settings may replace
these files; for any other run the folder is an error. Files that are not in the manifest are foreign: they
stay, and a run that would overwrite one of them is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

import attngraph
from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.files import check_out, published, write_json
from attngraph.experiments.base.lock import sole_use
from attngraph.experiments.base.progress import note
from attngraph.experiments.base.reading import read_json

MANIFEST = "run.json"
Name = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # of a file in the folder itself


class Manifest(Config):
    """The run that wrote the files of a folder, and their names."""

    command: str
    attngraph: str
    settings: dict[str, Any]
    files: frozenset[Name]


def _manifest(folder: Path) -> Manifest | None:
    file = folder / MANIFEST
    if not os.path.lexists(file):
        return None
    return checked(read_json(file), Manifest, lambda _: str(file), "use another --out, or move it away")


@dataclass(frozen=True)
class Outputs:
    """The files of one experiment.

    Args:
        folder: folder of the files, created if it does not exist. None if nothing is saved.
        command: the command that writes them.
        settings: settings that determine their content, as JSON values.
        names: names of the files that the command may write, with the wildcards ``*`` and ``?``.
    """

    folder: Path | None
    command: str
    settings: Mapping[str, Any]
    names: Sequence[str]

    def check(self) -> frozenset[str]:
        """The names of the files that earlier runs of this experiment wrote.

        Raises:
            UserError: the folder contains another experiment, or foreign files under a name that the command
                may write; or it cannot be a folder.
        """
        if self.folder is None:
            return frozenset()
        check_out(self.folder)
        manifest, held = _manifest(self.folder), frozenset[str]()
        if manifest is not None:
            if manifest.command != self.command:
                raise self._another(f"of `attngraph {manifest.command}`")
            own, held = json.loads(json.dumps(self.settings)), manifest.files
            names = {**own, **manifest.settings}
            if wrong := [name for name in names if manifest.settings.get(name) != own.get(name)]:
                raise self._another(f"other {', '.join(wrong)}")
        self._refuse({file.name for name in self.names for file in self.folder.glob(name)} - held)
        return held

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Check the folder, and lock it while the block runs.

        Raises:
            UserError: see :meth:`check`; or another command works in the folder.
        """
        self.check()
        with sole_use(self.folder):
            yield

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """An empty folder to write all results into; when the block ends they replace all earlier results.
        After an error in the block nothing has changed.

        Raises:
            UserError: see :meth:`check`.
        """
        held = self.check()
        with published(self.folder) as part:
            yield part
            written = frozenset(file.name for file in part.iterdir())
            self._refuse(written - held)
            self._record(held | written)  # before they move: a run cut off now leaves no strangers
        for name in held - written:
            (self.folder / name).unlink(missing_ok=True)
        self._record(written)

    def save(self, write: Callable[[Path], object]) -> None:
        """Call a function that writes all results into the folder passed to it, and print where they are;
        does nothing if nothing is saved.
        """
        if self.folder is not None:
            with self.alone(), self.writing() as part:
                write(part)
            note(f"saved: {self.folder}")

    def _another(self, why: str) -> UserError:
        return UserError(
            f"{self.folder} holds another experiment ({why}): use another --out, or move that folder away"
        )

    def _refuse(self, names: set[str] | frozenset[str]) -> None:
        """Raise an error if foreign files have one of these names."""
        foreign = sorted(name for name in names if os.path.lexists(self.folder / name))
        if foreign:
            raise UserError(
                f"--out {self.folder}: {foreign[0]} already exists and was not written by `attngraph "
                f"{self.command}` according to {MANIFEST}: use another --out, or move the file away"
            )

    def _record(self, names: frozenset[str]) -> None:
        about = {"command": self.command, "attngraph": attngraph.__version__, "settings": self.settings}
        write_json(self.folder / MANIFEST, {**about, "files": sorted(names)})
