"""Reading the two packages, on a few plain pictures."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_corpus import make_tiny_corpus

from cdm_core.errors import InvalidInputError
from tasks.pretraining.public_corpus import is_held_out, load_public_corpus


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_tiny_corpus(tmp_path, num_training=3, num_held_out=2)


def test_every_emoji_is_on_one_side(directory: Path) -> None:
    corpus = load_public_corpus(directory)
    assert corpus.pictures.shape == (12, 3, 32, 32)
    assert corpus.pictures.dtype == torch.uint8
    assert corpus.versions == {"google": "16.0.0", "twitter": "16.0.0"}
    sides = corpus.table.groupby("emoji")["held_out"].nunique()
    assert (sides == 1).all()
    assert len(corpus.rows(held_out=True)) == 4
    assert len(corpus.rows(held_out=False)) == 8
    assert len(corpus.rows(vendor="google", held_out=False)) == 4
    assert set(corpus.table["caption"]) >= {"thing number 0", "thing number 0: light skin tone"}
    assert set(corpus.table["short_caption"]) >= {"thing 0", "thing 0: light skin tone"}


def test_one_emoji_in_ten_is_held_out() -> None:
    share = sum(is_held_out(f"{code:X}") for code in range(10_000)) / 10_000
    assert share == pytest.approx(0.1, abs=0.01)


def test_pairs_show_one_emoji_from_both_vendors(directory: Path) -> None:
    corpus = load_public_corpus(directory)
    # The vendors of the tiny corpus differ by one in blue.
    (directory / "twitter" / "package" / "img" / "twitter" / "64").joinpath(_image(directory, 1)).unlink()
    for held_out, num in ((False, 4), (True, 2)):
        pairs = corpus.pairs(held_out=held_out)
        difference = pairs.second_vendor.int() - pairs.first_vendor.int()
        assert pairs.captions == corpus.table.iloc[corpus.rows(vendor="google", held_out=held_out)]["caption"].tolist()
        assert difference.amax(dim=(0, 2, 3)).tolist() == difference.amin(dim=(0, 2, 3)).tolist() == [0, 0, 1]
        assert len(pairs.first_vendor) == num
    assert "thing number 1" not in load_public_corpus(directory).pairs(held_out=False).captions


def test_samples_carry_names_and_pictures(directory: Path) -> None:
    corpus = load_public_corpus(directory)
    samples = corpus.samples(held_out=True)
    assert samples.captions == ["thing number 3", "thing number 4"] * 2
    assert len(set(samples.sample_ids)) == 4
    assert samples.sample_ids[0].startswith("google:")
    assert torch.equal(samples.pictures, corpus.pictures[corpus.rows(held_out=True)])


def test_transparent_parts_are_white(directory: Path) -> None:
    path = directory / "google" / "package" / "img" / "google" / "64" / _image(directory, 0)
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(path)
    assert (load_public_corpus(directory).pictures[0] == 255).all()


@pytest.mark.parametrize("name", ["emoji.json", "package.json"])
def test_a_missing_package_is_refused(directory: Path, name: str) -> None:
    (directory / "twitter" / "package" / name).unlink()
    with pytest.raises(InvalidInputError, match=f"twitter/package: no {name}; unpack emoji-datasource-twitter there"):
        load_public_corpus(directory)


@pytest.mark.parametrize("content", ["", "[", "\udcff", "{}", "[1]", '[{"unified": "1F300"}]'])  # \udcff: a byte that is not UTF-8
def test_another_package_is_refused(directory: Path, content: str) -> None:
    (directory / "google" / "package" / "emoji.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InvalidInputError, match=r"google/package: (not the package emoji-datasource-google|no picture that emoji\.json n)"):
        load_public_corpus(directory)


def test_a_package_without_pictures_is_refused(directory: Path) -> None:
    for path in (directory / "twitter" / "package" / "img").rglob("*.png"):
        path.unlink()
    with pytest.raises(InvalidInputError, match=r"twitter/package: no picture that emoji\.json names is here"):
        load_public_corpus(directory)


def _image(directory: Path, number: int) -> str:
    entries = json.loads((directory / "google" / "package" / "emoji.json").read_bytes())
    return str(entries[number]["image"])
