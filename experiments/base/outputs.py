"""The folder that ``--out`` names: a run replaces only what a run like it wrote.

Beside its results a run leaves a manifest, ``run.json``: the command, the settings that decide the numbers,
and the names of the files that it wrote. The same command with the same settings may replace these files; any
other is refused. Files that no manifest names are somebody else's: they stay, and a run that needs one of
their names is refused.
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
    """Which run wrote which files of a folder."""

    command: str
    attngraph: str
    settings: dict[str, Any]
    files: frozenset[Name]


def _manifest(folder: Path) -> Manifest | None:
    file = folder / MANIFEST
    if not os.path.lexists(file):
        return None
    return checked(read_json(file), Manifest, lambda _: str(file), "give another --out, or move it away")


@dataclass(frozen=True)
class Outputs:
    """The files of one experiment.

    Args:
        folder: where they are; it is made if it does not exist. None where nothing is to be saved.
        command: that makes them.
        settings: what decides their content, as values that JSON can hold.
        names: of the files that the command may write; ``*`` and ``?`` stand for any letters, for one letter.
    """

    folder: Path | None
    command: str
    settings: Mapping[str, Any]
    names: Sequence[str]

    def check(self) -> frozenset[str]:
        """The names of the files that earlier runs of this experiment wrote.

        Raises:
            UserError: the folder holds another experiment, or files of somebody else's under a name that the
                command may write; or it cannot be a folder.
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
        """Checks the folder; while the block runs no other command works there.

        Raises:
            UserError: see :meth:`check`; or another command works in the folder.
        """
        self.check()
        with sole_use(self.folder):
            yield

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
            written = frozenset(file.name for file in part.iterdir())
            self._refuse(written - held)
            self._record(held | written)  # before they move: a run cut off now leaves no strangers
        for name in held - written:
            (self.folder / name).unlink(missing_ok=True)
        self._record(written)

    def save(self, write: Callable[[Path], object]) -> None:
        """Lets a function write all results into the folder that it is given, and says where they are; does
        nothing where nothing is to be saved.
        """
        if self.folder is not None:
            with self.alone(), self.writing() as part:
                write(part)
            note(f"saved: {self.folder}")

    def _another(self, why: str) -> UserError:
        return UserError(
            f"{self.folder} holds another experiment ({why}): give another --out, or move that folder away"
        )

    def _refuse(self, names: set[str] | frozenset[str]) -> None:
        """Refuses what has one of these names: it is somebody else's."""
        foreign = sorted(name for name in names if os.path.lexists(self.folder / name))
        if foreign:
            raise UserError(
                f"--out {self.folder}: {foreign[0]} is there already, and no {MANIFEST} says that `attngraph "
                f"{self.command}` wrote it: give another --out, or move the file away"
            )

    def _record(self, names: frozenset[str]) -> None:
        about = {"command": self.command, "attngraph": attngraph.__version__, "settings": self.settings}
        write_json(self.folder / MANIFEST, {**about, "files": sorted(names)})
