"""A public corpus of a few emoji in the form of the two npm packages, one plain colour each."""

import json
from pathlib import Path

from PIL import Image

from tasks.pretraining.public_corpus import VENDORS, is_held_out


def make_tiny_corpus(directory: Path, *, num_training: int = 12, num_held_out: int = 4) -> Path:
    """Both vendors' packages, with so many emoji on each side of the split; the first has a skin tone beside it."""
    codes = [f"{0x1F300 + number:X}" for number in range(400)]
    held_out = [code for code in codes if is_held_out(code)][:num_held_out]
    training = [code for code in codes if not is_held_out(code)][:num_training]
    for shade, vendor in enumerate(VENDORS):
        package = directory / vendor / "package"
        pictures = package / "img" / vendor / "64"
        pictures.mkdir(parents=True)
        entries = [_entry(code, number) for number, code in enumerate(training + held_out)]
        toned = {**entries[0], "unified": f"{training[0]}-1F3FB", "image": f"{training[0]}-1f3fb.png"}
        entries[0]["skin_variations"] = {"1F3FB": toned}
        for number, entry in enumerate([*entries, toned]):
            colour = (12 * number, 255 - 12 * number, 40 * (number % 6) + shade)
            Image.new("RGBA", (64, 64), (*colour, 255)).save(pictures / str(entry["image"]))
        (package / "emoji.json").write_text(json.dumps(entries))
        (package / "package.json").write_text(json.dumps({"version": "16.0.0"}))
    return directory


def _entry(code: str, number: int) -> dict[str, object]:
    names = {"unified": code, "name": f"THING NUMBER {number}", "short_name": f"thing_{number}", "image": f"{code.lower()}.png"}
    return {**names, **{f"has_img_{vendor}": True for vendor in VENDORS}}
