"""Ways to damage a file or a value in it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]
DEEP = "[" * 100_000 + "]" * 100_000


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


#: For every file, whatever its format.
ANY_FILE: dict[str, Damage] = {
    "missing": lambda file: file.unlink(),
    "a folder": _folder,
    "empty": lambda file: file.write_bytes(b""),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\xfa{" + bytes(range(128, 256))),
    "zero bytes": lambda file: file.write_bytes(bytes(1000)),
}
BINARY_FILE: dict[str, Damage] = ANY_FILE | {"truncated": _truncated}
#: For files with JSON, where a record is expected.
JSON_FILE: dict[str, Damage] = {
    **BINARY_FILE,
    "null": lambda file: file.write_text("null"),
    "a list of null": lambda file: file.write_text("[null]"),
    "a record without fields": lambda file: file.write_text("{}"),
    "deep": lambda file: file.write_text(DEEP),
    "huge number": lambda file: file.write_text("1" * 10_000),
}


def written(content: str) -> Damage:
    """Another content."""
    return lambda file: file.write_text(content)


def changed(*place: str | int, value: Any) -> Damage:
    """Puts a value at a place of a JSON file."""

    def damage(file: Path) -> None:
        content = holder = json.loads(file.read_text(encoding="utf-8"))
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        file.write_text(json.dumps(content))

    return damage


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
    "a tensor of another shape": tensors(lambda held, name: held.update({name: held[name][1:].clone()})),
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
}
