"""Pictures: whatever a person hands in becomes 32×32 RGB on white, and one array of pixels has one file.

The PNG is written here, uncompressed, and not by Pillow: a compressor's output changes with its version and maker (zlib, zlib-ng), and a
sample's id is the digest of its file, so a logo handed in after an upgrade would no longer be found among the samples it matches. Stored
blocks cost 3 kB a picture.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from cdm_core.errors import InvalidInputError

PICTURE_SIZE = 32
MAX_FILE_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """A picture as its source gives it: normalised PNG bytes, and an owner who is still named by `owner_id`."""

    owner_id: str
    tier: str | int | None
    png: bytes
    caption: str
    arrived_at: datetime


def normalise_picture(content: bytes, source: str) -> bytes:
    """The 32×32 PNG of any PNG or JPEG: upright, fitted, centred, on white. A picture already in that form keeps its bytes.

    Raises:
        InvalidInputError: `source` is too large, not a PNG or JPEG, or damaged.
    """
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(f"{source}: larger than {MAX_FILE_BYTES // 2**20} MB")
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), _open(content) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInputError(f"{source}: more than {MAX_PIXELS // 1_000_000} million pixels")
            return encode_png(_fit(_on_white(ImageOps.exif_transpose(image))))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInputError(f"{source}: more than {MAX_PIXELS // 1_000_000} million pixels") from error
    # What Pillow's decoders raise on damaged input; its documentation names only OSError.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise InvalidInputError(f"{source}: not a readable PNG or JPEG picture") from error


def encode_png(image: Image.Image) -> bytes:
    """The PNG of an RGB image of at most 65,535 bytes of scan lines: a function of the pixels alone."""
    width, height = image.size
    pixels, stride = image.tobytes(), 3 * width
    lines = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    stored_block = b"\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x78\x01" + stored_block + struct.pack(">I", zlib.adler32(lines))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode_picture(png: bytes) -> np.ndarray:
    """The pixels of a normalised picture: uint8 [3, 32, 32]."""
    with Image.open(BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _open(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content), formats=("PNG", "JPEG"))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
        image = image.convert("I").point(lambda value: value / 257, "L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def _fit(image: Image.Image) -> Image.Image:
    scale = PICTURE_SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
    resized = image.resize((width, height), Image.Resampling.BOX)
    canvas.paste(resized, ((PICTURE_SIZE - width) // 2, (PICTURE_SIZE - height) // 2))
    return canvas
