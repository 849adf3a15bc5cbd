"""Opening pictures: every kind in 8-bit RGB and upright, or one line that names the file."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.models.images import open_image
from experiments.models.mini_blip import preprocess

LEVELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


def pixels(image: str | Path | Image.Image) -> list:
    opened = open_image(image)
    assert opened.mode == "RGB"
    return np.asarray(opened).tolist()


@pytest.mark.parametrize("name", ["little.png", "little.tif", "big.tif", "little.pgm"])
def test_16_bits_become_8(tmp_path, name):
    Image.fromarray((LEVELS * 257).astype(">u2" if "big" in name else "<u2")).save(tmp_path / name)
    assert np.array_equal(np.asarray(open_image(tmp_path / name)), np.stack([LEVELS] * 3, -1))


def test_16_bits_given_in_memory_become_8():
    assert np.array_equal(np.asarray(open_image(Image.fromarray(LEVELS * 257)))[..., 0], LEVELS)


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.tif", "picture.webp"])
@pytest.mark.parametrize(
    "orientation, size, corner",  # of the stored picture's upper left pixel, (x, y) in the upright one
    [
        (1, (32, 16), (0, 0)),
        (2, (32, 16), (31, 0)),
        (3, (32, 16), (31, 15)),
        (4, (32, 16), (0, 15)),
        (5, (16, 32), (0, 0)),
        (6, (16, 32), (15, 0)),
        (7, (16, 32), (15, 31)),
        (8, (16, 32), (0, 31)),
    ],
)
def test_pictures_are_turned_upright(tmp_path, name, orientation, size, corner):
    stored = Image.new("RGB", (32, 16))
    stored.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif)
    opened = open_image(tmp_path / name)
    assert opened.size == size and min(opened.getpixel(corner)) > 200
    with Image.open(tmp_path / name) as given:
        assert open_image(given).tobytes() == opened.tobytes()


def test_transparent_pixels_show_white_and_palettes_their_colours(tmp_path):
    drawn = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    drawn.putpixel((1, 0), (0, 0, 0, 0))
    drawn.save(tmp_path / "alpha.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "index.png", transparency=1)
    palette.save(tmp_path / "index.gif", transparency=1)
    for name in ("alpha.png", "index.png", "index.gif"):
        assert pixels(tmp_path / name) == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(tmp_path / "opaque.png") == [[[10, 20, 30], [0, 0, 0]]]
    assert pixels(drawn) == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(Image.new("L", (1, 1), 7)) == [[[7, 7, 7]]]
    assert pixels(Image.new("1", (1, 1), 1)) == [[[255, 255, 255]]]
    assert pixels(Image.new("RGB", (1, 1), (1, 2, 3))) == [[[1, 2, 3]]]


def with_key(depth: int, colour: int, row: bytes, key: tuple[int, ...], width: int) -> bytes:
    """A PNG of one row whose ``key`` stands for transparent pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = {
        b"IHDR": header,
        b"tRNS": struct.pack(f">{len(key)}H", *key),
        b"IDAT": zlib.compress(b"\0" + row),
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items()) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "depth, colour, row, key, levels",
    [
        (1, 0, bytes([0b01000000]), (0,), [255, 255]),
        (1, 0, bytes([0b10000000]), (1,), [255, 0]),
        (2, 0, bytes([0b00011011]), (1,), [0, 255, 170, 255]),
        (4, 0, bytes([0x01, 0x23]), (2,), [0, 17, 255, 51]),
        (8, 0, bytes([0, 1, 2]), (1,), [0, 255, 2]),
        (16, 0, struct.pack(">3H", 2560, 2571, 2572), (2571,), [10, 255, 10]),
        (16, 2, struct.pack(">6H", *[2571] * 3, *[5140] * 3), (2571,) * 3, [255, 20]),
    ],
)
def test_the_level_of_transparent_pixels_is_found_at_every_depth(tmp_path, depth, colour, row, key, levels):
    (tmp_path / "key.png").write_bytes(with_key(depth, colour, row, key, len(levels)))
    assert pixels(tmp_path / "key.png") == [[[level] * 3 for level in levels]]


@pytest.mark.parametrize("kind, factor", [(np.uint8, 1), (np.uint16, 257)])
def test_tiff_files_may_say_that_white_is_zero(tmp_path, kind, factor):
    file = tmp_path / "white.tif"
    Image.fromarray((LEVELS * factor).astype(kind)).save(file)
    content = bytearray(file.read_bytes())
    (tags,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, tags)
    (place,) = (k for k in range(tags + 2, tags + 2 + 12 * count, 12) if content[k : k + 2] == b"\x06\x01")
    content[place + 8 : place + 10] = b"\0\0"
    file.write_bytes(content)
    assert np.array_equal(np.asarray(open_image(file))[..., 0], 255 - LEVELS)


def test_what_cannot_be_converted_is_one_line_with_the_files_name(tmp_path):
    Image.fromarray(LEVELS.astype(np.float32) / 255).save(tmp_path / "float.tif")
    Image.fromarray(LEVELS.astype(np.int32)).save(tmp_path / "wide.tif")
    Image.fromarray(LEVELS * 257).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    for name, message in (
        ("float.tif", "holds floating-point numbers, .*: save it with 8 or 16 bits a channel"),
        ("wide.tif", "holds 32-bit integers, .*: save it with 8 or 16 bits a channel"),
        ("cut.png", "cannot be read .*: replace the file"),
        ("text.png", "cannot be read .*: replace the file"),
        ("empty.png", "cannot be read .*: replace the file"),
        ("folder.png", "is no file: check the path"),
        ("pipe.png", "is no file: check the path"),
        ("absent.png", "not found: check the path"),
    ):
        with pytest.raises(UserError, match=f"{name} {message}") as error:
            open_image(tmp_path / name)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_pictures_too_large_to_be_honest_are_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="large.png has more than 2,000 pixels: make it smaller"):
        open_image(tmp_path / "large.png")


def test_models_see_the_same_of_16_bits_and_of_8(tmp_path):
    Image.fromarray(LEVELS * 257).save(tmp_path / "16.png")
    Image.fromarray(LEVELS.astype(np.uint8)).save(tmp_path / "8.png")
    sixteen, eight = preprocess([tmp_path / "16.png", tmp_path / "8.png"])
    assert sixteen.equal(eight)
