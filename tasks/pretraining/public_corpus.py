"""The public corpus: Noto and Twemoji pictures with their names, as two npm packages ship them.

`emoji-datasource-google` (Noto Emoji, Apache 2.0) and `emoji-datasource-twitter` (Twemoji, CC BY 4.0) are unpacked by the user
(`npm pack NAME`, `tar xf`); this module reads them from a local folder and fetches nothing. No owner's picture is among them.

One picture in ten is held out, by base emoji: all skin tones and both vendors of an emoji are on the same side, or the held-out
figures would be measured on near-copies of the training pictures.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cdm_core.errors import InvalidInputError
from cdm_core.pretraining.clip import ClipTrainingData
from cdm_core.training import StageSamples

VENDORS = ("google", "twitter")
HELD_OUT_SHARE = 0.10
_TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCorpus:
    """The pictures of both vendors.

    Attributes:
        table: one row a picture: emoji, unified, vendor, caption, short_caption, held_out.
        pictures: uint8 [N, 3, 32, 32].
        versions: of each vendor's package.
    """

    table: pd.DataFrame
    pictures: torch.Tensor
    versions: dict[str, str]

    def rows(self, *, vendor: str | None = None, held_out: bool) -> np.ndarray:
        """Row numbers of one side of the split, in a fixed order."""
        chosen = self.table["held_out"] == held_out
        if vendor is not None:
            chosen &= self.table["vendor"] == vendor
        return np.flatnonzero(chosen.to_numpy())

    def pairs(self, *, held_out: bool) -> ClipTrainingData:
        """The emoji that both vendors draw, on one side of the split."""
        noto, twemoji = (
            self.table.iloc[rows].assign(row=rows).set_index("unified")
            for rows in (self.rows(vendor=vendor, held_out=held_out) for vendor in VENDORS)
        )
        common = noto.index.intersection(twemoji.index)
        noto, twemoji = noto.loc[common], twemoji.loc[common]
        return ClipTrainingData(
            first_vendor=self.pictures[noto["row"].tolist()],
            second_vendor=self.pictures[twemoji["row"].tolist()],
            captions=noto["caption"].tolist(),
            short_captions=noto["short_caption"].tolist(),
        )

    def samples(self, *, held_out: bool) -> StageSamples:
        """The captioned pictures of one side of the split."""
        rows = self.rows(held_out=held_out)
        table = self.table.iloc[rows]
        sample_ids = (table["vendor"] + ":" + table["unified"]).tolist()
        return StageSamples(sample_ids=sample_ids, captions=table["caption"].tolist(), pictures=self.pictures[rows])


def load_public_corpus(directory: Path, *, size: int = 32) -> PublicCorpus:
    """Read both vendors' pictures under `directory` (each package in a folder of its vendor's name).

    Raises:
        InvalidInputError: a package is missing under `directory`, its index can't be read, or it has no picture.
    """
    rows: list[dict[str, object]] = []
    pictures: list[np.ndarray] = []
    versions: dict[str, str] = {}
    for vendor in VENDORS:
        package = directory / vendor / "package"
        named, versions[vendor] = _read_package(package, vendor)
        for entry in named:
            path = package / "img" / vendor / "64" / str(entry.pop("image"))
            if path.is_file():
                rows.append(entry)
                pictures.append(_on_white(path, size))
        if vendor not in {entry["vendor"] for entry in rows}:
            raise InvalidInputError(f"{package}: no picture that emoji.json names is here")
    table = pd.DataFrame(rows)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return PublicCorpus(table=table, pictures=stacked, versions=versions)


def is_held_out(emoji: str) -> bool:
    """One emoji in ten, by a hash of its code points, so that the split depends on nothing else."""
    first_bytes = hashlib.sha256(f"held-out:{emoji}".encode()).digest()[:8]
    return int.from_bytes(first_bytes, "big") / 2**64 < HELD_OUT_SHARE


def _read_package(package: Path, vendor: str) -> tuple[list[dict[str, object]], str]:
    """A package's pictures, one entry each, and its version."""
    try:
        version = str(json.loads((package / "package.json").read_bytes())["version"])
        return _named_pictures(json.loads((package / "emoji.json").read_bytes()), vendor), version
    except FileNotFoundError as error:
        raise InvalidInputError(f"{package}: no {Path(error.filename).name}; unpack emoji-datasource-{vendor} there") from error
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or JSON of another form
        raise InvalidInputError(f"{package}: not the package emoji-datasource-{vendor}: {error}") from error


def _named_pictures(entries: list[dict[str, object]], vendor: str) -> list[dict[str, object]]:
    named = []
    for entry in entries:
        emoji = str(entry["unified"])
        name = str(entry["name"] or entry["short_name"]).lower()
        short = str(entry["short_name"]).replace("_", " ").replace("-", " ")
        variants = [("", entry), *dict(entry.get("skin_variations", {})).items()]  # type: ignore[call-overload]  # JSON
        for tones, picture in variants:
            suffix = ": " + ", ".join(_TONES[tone] for tone in tones.split("-")) if tones else ""
            if picture.get(f"has_img_{vendor}"):
                row = {"emoji": emoji, "unified": picture["unified"], "vendor": vendor, "caption": name + suffix}
                row |= {"short_caption": short + suffix, "held_out": is_held_out(emoji), "image": picture["image"]}
                named.append(row)
    return named


def _on_white(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.BOX))
