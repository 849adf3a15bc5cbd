"""A folder of drawn data: whole or absent, written once, and reused where the settings are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.reading import read_json, shown
from experiments.files import whole_folder, write_json

MANIFEST = "manifest.json"


def drawn_once(folder: Path, manifest: dict, write: Callable[[Path], None]) -> Path:
    """Lets ``write`` fill a folder, or reuses it if finished with the same settings; returns it.

    The folder is whole or absent (:func:`experiments.files.whole_folder`).

    Args:
        folder: missing, empty, or finished.
        manifest: the settings, which are kept in the folder's ``manifest.json``.
        write: gets the folder to fill.

    Raises:
        UserError: the folder holds something else, or it cannot be written.
    """
    folder = Path(folder)
    if _is_finished(folder, manifest):
        return folder
    try:
        with whole_folder(folder) as work:
            write(work)
            write_json(work / MANIFEST, manifest, indent=None)
    except OSError as error:
        if not _is_finished(folder, manifest):  # another process may just have written the same
            raise UserError(
                f"{folder}: the scenes cannot be written there ({error.strerror or error}); make room on the "
                "disk, or choose another folder"
            ) from error
    return folder


def _is_finished(folder: Path, manifest: dict) -> bool:
    """Whether the folder already holds these data; a :class:`UserError` if it holds others."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        held = read_json(folder / MANIFEST)
    except UserError:
        raise UserError(
            f"{folder}: exists but is no folder of drawn scenes (no readable {MANIFEST}); "
            "choose another folder or move it away"
        ) from None
    if held != manifest:
        raise UserError(
            f"{folder}: holds scenes of other settings, {MANIFEST} says {shown(held)}, not "
            f"{shown(manifest)}; choose another folder or move it away"
        )
    return True
