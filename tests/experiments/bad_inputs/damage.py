"""Ways to damage a file or a value in it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]
DEEP = "[" * 100_000 + "]" * 100_000


def _folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _loop(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)


#: For every file, whatever its format.
ANY_FILE: dict[str, Damage] = {
    "missing": lambda file: file.unlink(missing_ok=True),
    "a folder": _folder,
    "a link to itself": _loop,
    "empty": lambda file: file.write_bytes(b""),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\xfa{" + bytes(range(128, 256))),
    "zero bytes": lambda file: file.write_bytes(bytes(1000)),
}
TRUNCATED: dict[str, Damage] = {"truncated": _truncated}
#: For files with JSON, where a record is expected.
JSON_FILE: dict[str, Damage] = {
    **ANY_FILE,
    "null": lambda file: file.write_text("null"),
    "a list": lambda file: file.write_text("[]"),
    "a list of null": lambda file: file.write_text("[null]"),
    "a record without fields": lambda file: file.write_text("{}"),
    "a number": lambda file: file.write_text("3"),
    "a text": lambda file: file.write_text('"text"'),
    "deep": lambda file: file.write_text(DEEP),
    "not JSON": lambda file: file.write_text("{'a': 1}"),
    "huge number": lambda file: file.write_text("1" * 10_000),
    **TRUNCATED,
}


def written(content: str) -> Damage:
    """Another content."""
    return lambda file: file.write_text(content)


def change_json(file: Path, place: tuple[str | int, ...], value: Any) -> None:
    """Puts a value at a place of a JSON file; removes it where the value is ``...``."""
    content = json.loads(file.read_text(encoding="utf-8"))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    file.write_text(json.dumps(content))


def changed(*place: str | int, value: Any) -> Damage:
    """:func:`change_json` as a damage."""
    return lambda file: change_json(file, place, value)


# ---- tensors and pictures ---------------------------------------------------------------------------------


def tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Damage:
    """Changes the tensors of a file, given the name of one."""

    def damage(file: Path) -> None:
        held = load_file(file)
        change(held, sorted(name for name in held if held[name].dim() == 2 and "pooler" not in name)[-1])
        save_file(held, file, metadata={"format": "pt"})

    return damage


TENSORS: dict[str, Damage] = {
    "a tensor missing": tensors(lambda held, name: held.pop(name)),
    "no tensors": tensors(lambda held, name: held.clear()),
    "a tensor of another shape": tensors(lambda held, name: held.update({name: held[name][1:].clone()})),
    "tensors of other names": tensors(
        lambda held, name: [held.__setitem__(f"x.{one}", held.pop(one)) for one in list(held)]
    ),
}


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


PICTURES: dict[str, Damage] = {
    "a text": written("no picture"),
    "a bomb": lambda file: file.write_bytes(png(60000, 60000)),
    "no pixels": lambda file: file.write_bytes(png(0, 0)),
    "floats out of range": lambda file: Image.fromarray(np.full((8, 8), 1e6, dtype=np.float32)).save(
        file, format="TIFF"
    ),
}
