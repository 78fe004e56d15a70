import sqlite3
from contextlib import closing
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw
from small_workspace import ARRIVED_AT, SECRET

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, StateError, VerificationError
from cdm_core.evaluation.perceptual_hash import compute_perceptual_hash
from cdm_core.sharding.partition import compute_owner_key
from flows.receipts import run_verify
from tasks.data.lookup import look_up
from tasks.data.packs import Sample
from tasks.data.pictures import decode_picture, normalise_picture
from tasks.data.samples import add_samples, remove_samples
from tasks.deletion.suppressed_bands import check_bands
from tasks.deletion.suppression import erasure_hashes, is_near_suppressed, perceptual_bands, refuse_resurrected, suppress_bands
from tasks.ledger.store import Ledger
from tasks.plans.duplicates import chosen_duplicates, erase_choice, find_duplicates, load_choice, parse_choice, save_choice
from tasks.workspace import Workspace

ANNA, BEN = compute_owner_key(SECRET, "anna"), compute_owner_key(SECRET, "ben")


def drawing(seed: int) -> Image.Image:
    """A face-like figure of its own colours and places, four times as large as a sample."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = generator.integers(4, 70, 2)
        width, height = generator.integers(24, 54, 2)
        colour = tuple(int(value) for value in generator.integers(0, 220, 3))
        draw = pen.ellipse if generator.integers(2) else pen.rectangle
        draw((int(left), int(top), int(left + width), int(top + height)), fill=colour)
    return image


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, form, **options)
    return normalise_picture(sink.getvalue(), "picture")


def shifted(image: Image.Image, by: int) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, (by, 0))
    return canvas


def altered(image: Image.Image) -> dict[str, bytes]:
    return {
        "resized": encode(image.resize((90, 90), Image.Resampling.BICUBIC)),
        "recompressed": encode(image, "JPEG", quality=80),
        "shifted": encode(shifted(image, 2)),
    }


def samples(*pngs: bytes) -> list[Sample]:
    return [Sample(png=png, caption="drawing", arrived_at=ARRIVED_AT) for png in pngs]


@pytest.fixture
def ws(small: Workspace) -> Workspace:
    small.keys.mkdir(parents=True, exist_ok=True)
    (small.keys / "owner-secret").write_text(bytes(range(32)).hex())
    return small


def test_altered_copies_are_listed_and_unrelated_pictures_are_not(ws: Workspace) -> None:
    original = encode(drawing(1))
    copies = altered(drawing(1))
    unrelated = [encode(drawing(seed)) for seed in range(2, 42)]
    add_samples(ws, ANNA, 0, 0, samples(original))
    add_samples(ws, BEN, 1, 0, samples(original, *copies.values(), *unrelated))
    hits = look_up(ws, owner_keys={ANNA})
    found = find_duplicates(ws, hits)
    assert [(duplicate.sample_id, duplicate.owner_key) for duplicate in found.exact] == [(sha256_digest(original), BEN)]
    near = {duplicate.sample_id for duplicate in found.near if duplicate.duplicate_of == sha256_digest(original)}
    assert {sha256_digest(copy) for copy in copies.values()} - {sha256_digest(original)} <= near
    assert not near & {sha256_digest(picture) for picture in unrelated}

    assert chosen_duplicates(ws, hits, "none").empty
    assert chosen_duplicates(ws, hits, "exact")["sample_id"].tolist() == [sha256_digest(original)]
    one = min(near)
    assert chosen_duplicates(ws, hits, (one,))[["sample_id", "owner_key"]].values.tolist() == [[one, BEN]]
    with pytest.raises(InvalidInputError, match=r"1 of 1 samples are not duplicates that the plan lists"):
        chosen_duplicates(ws, hits, (sha256_digest(unrelated[0]),))


def test_of_a_choice_that_was_kept_what_was_erased_meanwhile_is_passed_over(ws: Workspace) -> None:
    original, gone, other = encode(drawing(1)), sha256_digest(encode(drawing(2))), encode(drawing(3))
    add_samples(ws, ANNA, 0, 0, samples(original))
    add_samples(ws, BEN, 1, 0, samples(original, other))
    hits, chosen = look_up(ws, owner_keys={ANNA}), (sha256_digest(original), gone)
    with pytest.raises(InvalidInputError, match="1 of 2 samples are not duplicates"):
        chosen_duplicates(ws, hits, chosen)
    assert chosen_duplicates(ws, hits, chosen, was_kept=True)["owner_key"].tolist() == [BEN]
    assert chosen_duplicates(ws, hits, (gone,), was_kept=True).empty
    copies = look_up(ws, sample_ids=chosen)
    remove_samples(ws, copies[copies["owner_key"] == BEN])
    assert chosen_duplicates(ws, hits, chosen, was_kept=True).empty  # the owner who asks still has the same picture
    with pytest.raises(InvalidInputError, match="1 of 1 samples are not duplicates"):
        chosen_duplicates(ws, hits, (sha256_digest(other),), was_kept=True)


def test_choices_are_parsed_and_kept_until_the_request_is_closed(ws: Workspace) -> None:
    first, second = "a" * 64, "b" * 64
    assert parse_choice(f"{second}, sha256:{first}") == (first, second)
    assert (parse_choice("none"), parse_choice("exact")) == ("none", "exact")
    with pytest.raises(InvalidInputError, match=r"must be none, exact, or sample ids"):
        parse_choice("some")
    assert load_choice(ws, "r") == "none"
    save_choice(ws, "r", (first,))
    assert load_choice(ws, "r") == (first,)
    save_choice(ws, "r", "exact")
    assert load_choice(ws, "r") == "exact"
    erase_choice(ws, "r")
    assert load_choice(ws, "r") == "none"


def test_near_copies_of_what_was_erased_are_known_without_its_hash(ws: Workspace) -> None:
    def look(png: bytes) -> int | None:
        return compute_perceptual_hash(decode_picture(png))

    erased = [encode(drawing(seed)) for seed in range(20)]
    suppress_bands(ws, [(sha256_digest(png), perceptual_bands(ws, look(png))) for png in erased], ARRIVED_AT)
    content = (ws.ledger / "suppressed-bands.sqlite").read_bytes()
    assert all(f"{look(png):016x}".encode() not in content for png in erased)
    assert all(is_near_suppressed(ws, decode_picture(png)) for png in erased)
    copies = {
        "recompressed": [encode(drawing(seed), "JPEG", quality=95) for seed in range(20)],
        "shifted by a pixel": [encode(shifted(drawing(seed), 4)) for seed in range(20)],
        "shifted by two": [encode(shifted(drawing(seed), -8)) for seed in range(20)],
        "mirrored": [encode(drawing(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for seed in range(20)],
    }
    for name, pictures in copies.items():
        assert sum(is_near_suppressed(ws, decode_picture(png)) for png in pictures) >= 14, name  # what a shift pushes out is lost
    unrelated = [encode(drawing(seed)) for seed in range(100, 140)]
    assert sum(is_near_suppressed(ws, decode_picture(png)) for png in unrelated) == 0
    assert not is_near_suppressed(ws, np.full((3, 32, 32), 255, dtype=np.uint8))


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM bands WHERE entry = 'a'", "INSERT INTO bands VALUES ('c', 'x')", "UPDATE bands SET entry = 'b' WHERE entry = 'a'"],
)
def test_an_edited_perceptual_list_is_found(ws: Workspace, statement: str) -> None:
    suppress_bands(ws, [("a", ["x", "y"])], ARRIVED_AT)
    suppress_bands(ws, [("b", ["z"])], ARRIVED_AT)
    suppress_bands(ws, [("b", ["z"])], ARRIVED_AT)
    assert [event.body["rows"] for event in Ledger(ws).events(kind="suppressed_bands")] == [2, 3]
    check_bands(ws, Ledger(ws))
    with closing(sqlite3.connect(ws.ledger / "suppressed-bands.sqlite", isolation_level=None)) as connection:
        connection.execute(statement)
    with pytest.raises(VerificationError, match="the perceptual suppression list isn't what the ledger tells of"):
        check_bands(ws, Ledger(ws))
    (ws.ledger / "suppressed-bands.sqlite").unlink()
    with pytest.raises(VerificationError, match="the perceptual suppression list isn't what the ledger tells of"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)


def test_a_sample_that_is_back_from_a_backup_is_refused_and_another_owners_equal_one_isnt(ws: Workspace) -> None:
    picture = encode(drawing(1))
    add_samples(ws, BEN, 1, 0, samples(picture))
    Ledger(ws).suppress(erasure_hashes(ws, [(ANNA, sha256_digest(picture))]), ARRIVED_AT)
    refuse_resurrected(ws)
    add_samples(ws, ANNA, 0, 0, samples(picture))
    with pytest.raises(StateError, match=r"shard 0: 1 of 7 samples were erased on request and are back"):
        refuse_resurrected(ws)
