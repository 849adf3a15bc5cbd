"""Finds the pictures of a data set by folder and name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from attngraph.errors import UserError
from experiments.datasets.reading import Images, shown


class Pictures:
    """Finds pictures below a data set's folder; each folder is listed once, when it is first needed.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[str, Images] = {}
        self._paths: dict[tuple[str, str], Path] = {}

    def path(self, folder: str, name: str, file: Path, where: str) -> Path:
        """The path of a picture whose name may lack its suffix.

        Raises:
            UserError: there is no such folder or picture, which the record ``where`` of ``file`` needs, or
                the folder is outside of the data set's.
        """
        found = self._paths.get((folder, name))
        if found is None:
            if folder not in self._folders:
                self._folders[folder] = self._listed(folder, file, where)
            found = self._paths[folder, name] = self._folders[folder].path(name, file, where)
        return found

    def inside(self, name: str, folders: Sequence[str], file: Path, where: str) -> Path:
        """The path of a picture named with its folder, such as ``val2014/COCO_val2014_000000262148.jpg``.

        Raises:
            UserError: as :meth:`path`; also for a folder that is none of ``folders``.
        """
        folder, _, rest = name.rpartition("/")
        if folder not in folders:
            raise UserError(
                f"{file}: the image {shown(name)} of {where} lies in none of {', '.join(folders)}; give the "
                "official file"
            )
        return self.path(folder, rest, file, where)

    def _listed(self, folder: str, file: Path, where: str) -> Images:
        if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
            raise UserError(
                f"{file}: {where} has its image in {shown(folder)}, outside {self.root}; give the "
                "official file"
            )
        return Images(self.root / folder)
