import contextlib
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdm_core.errors import InvalidInputError
from tasks.data import pictures
from tasks.data.pictures import encode_png, normalise_picture


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def gradient() -> Image.Image:
    grid = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3)
    return Image.fromarray((grid * 7 % 251).astype(np.uint8))


def test_png_is_a_function_of_the_pixels() -> None:
    png = encode_png(gradient())
    assert np.array_equal(pixels(png), np.asarray(gradient()))
    # Fixed for all time: sample ids in existing workspaces are digests of such files.
    assert hashlib.sha256(png).hexdigest() == "d19927a98cf4c7c05bc0494015a956b0f88bc4ac0494db74c41d25664b573043"


@pytest.mark.parametrize("level", [0, 1, 9])
def test_however_a_picture_was_compressed_it_gets_the_same_bytes(level: int) -> None:
    assert normalise_picture(file_of(gradient(), compress_level=level), "p") == encode_png(gradient())


def test_a_normalised_picture_keeps_its_bytes() -> None:
    png = normalise_picture(file_of(gradient().resize((100, 60))), "p")
    assert normalise_picture(png, "p") == png


def test_wide_pictures_are_centred_on_white() -> None:
    grid = pixels(normalise_picture(file_of(Image.new("RGB", (200, 100), "red")), "p"))
    assert (grid[8:24] == (255, 0, 0)).all()
    assert (grid[:8] == 255).all()
    assert (grid[24:] == 255).all()


def test_extreme_shapes_keep_a_line() -> None:
    grid = pixels(normalise_picture(file_of(Image.new("RGB", (5000, 1), "black")), "p"))
    assert (grid == 0).all(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white(mode: str) -> None:
    grid = pixels(normalise_picture(file_of(Image.new("RGBA", (32, 32), (0, 0, 0, 0)).convert(mode)), "p"))
    assert (grid == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_stays_grey_in_every_mode(mode: str) -> None:
    grey = Image.new("L", (32, 32), 255 if mode == "1" else 128).convert(mode)
    grid = pixels(normalise_picture(file_of(grey), "p"))
    assert (grid == (255 if mode == "1" else 128)).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((32, 32), 128 * 257, dtype=np.uint16))
    assert (pixels(normalise_picture(file_of(grey), "p")) == 128).all()


@pytest.mark.parametrize(("mode", "white"), [("RGB", "white"), ("L", "white"), ("CMYK", (0, 0, 0, 0))])
def test_jpegs_are_read(mode: str, white: str | tuple[int, ...]) -> None:
    grid = pixels(normalise_picture(file_of(Image.new(mode, (64, 64), white), "JPEG"), "p"))
    assert (grid > 250).all()


def test_a_camera_held_sideways_is_turned_upright() -> None:
    image = Image.new("RGB", (64, 32), "white")
    image.paste("black", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    grid = pixels(normalise_picture(file_of(image, "JPEG", exif=exif), "p"))
    assert (grid[2:14, 10:22] < 10).all()
    assert (grid[18:30, 10:22] > 245).all()


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", file_of(gradient())[:-200], file_of(gradient(), "JPEG")[:300], file_of(gradient(), "BMP")],
)
def test_other_and_damaged_files_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^logo.png: not a readable PNG or JPEG picture$"):
        normalise_picture(content, "logo.png")


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["PNG", "JPEG"]))
def test_damage_is_refused_or_harmless(data: st.DataObject, form: str) -> None:
    content = bytearray(file_of(gradient(), form))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInputError):
        assert pixels(normalise_picture(bytes(content), "p")).shape == (32, 32, 3)


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_decompression_bombs_are_refused_unread(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + pictures._chunk(b"IHDR", header) + pictures._chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    with pytest.raises(InvalidInputError, match=r"^p: more than 50 million pixels$"):
        normalise_picture(bomb, "p")


def test_huge_files_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^p: larger than 32 MB$"):
        normalise_picture(b"\0" * (32 * 2**20 + 1), "p")
