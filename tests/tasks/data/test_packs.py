import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.sharding.manifests import build_manifest
from cdm_core.sharding.partition import OwnerKey
from tasks.data import packs
from tasks.data.packs import Sample, add_to_pack, load_pictures, read_pack, remove_from_pack, write_pack
from tasks.data.pictures import encode_png
from tasks.data.samples import manifest_rows
from tasks.workspace import Workspace

OWNER = OwnerKey("0123456789abcdef")


def sample(grey: int, caption: str = "grey") -> Sample:
    return Sample(
        png=encode_png(Image.new("RGB", (32, 32), (grey, grey, grey))), caption=caption, arrived_at=datetime(2020, 1, 1, tzinfo=UTC)
    )


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, "w:") as tar:
        for entry, content in members:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_round_trip(tmp_path: Path) -> None:
    samples = [sample(1), sample(2)]
    write_pack(tmp_path / "a.tar", samples)
    assert read_pack(tmp_path / "a.tar") == {s.sample_id: s.png for s in samples}
    with tarfile.open(tmp_path / "a.tar") as tar:
        entries = tar.getmembers()
        captions = [tar.extractfile(entry).read() for entry in entries if entry.name.endswith(".txt")]
    assert captions == [b"grey", b"grey"]
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in entries} == {(0, 0, 0, "", 0o644)}


def test_equal_samples_make_equal_bytes_in_any_order_and_by_any_way(tmp_path: Path) -> None:
    write_pack(tmp_path / "a.tar", [sample(1), sample(2), sample(3)])
    write_pack(tmp_path / "b.tar", [sample(3), sample(1), sample(2), sample(1, "another caption")])
    write_pack(tmp_path / "c.tar", [sample(2), sample(4)])
    remove_from_pack(tmp_path / "c.tar", {sample(4).sample_id})
    add_to_pack(tmp_path / "c.tar", [sample(3), sample(1), sample(2, "another caption")])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()


def test_adding_makes_a_pack_and_removing_the_last_sample_deletes_it(tmp_path: Path) -> None:
    add_to_pack(tmp_path / "a.tar", [sample(1)])
    remove_from_pack(tmp_path / "a.tar", {"0" * 64})
    assert set(read_pack(tmp_path / "a.tar")) == {sample(1).sample_id}
    for _ in range(2):
        remove_from_pack(tmp_path / "a.tar", {sample(1).sample_id})
        assert list(tmp_path.iterdir()) == []


def test_a_missing_pack_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a.tar: no such pack"):
        read_pack(tmp_path / "a.tar")


def test_one_changed_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    write_pack(tmp_path / "a.tar", [sample(1), sample(2)])
    content = (tmp_path / "a.tar").read_bytes()
    for position in range(0, len(content), 97):
        if content[position : position + 1] in b"grey":  # a caption, which no digest in the pack covers
            continue
        (tmp_path / "a.tar").write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(VerificationError, match=r"a.tar: "):
            read_pack(tmp_path / "a.tar")


@pytest.mark.parametrize("rest", [b"\0" * 512, b"hidden"])
def test_nothing_hides_after_the_end(tmp_path: Path, rest: bytes) -> None:
    write_pack(tmp_path / "a.tar", [sample(1)])
    with (tmp_path / "a.tar").open("ab") as file:
        file.write(rest)
    with pytest.raises(VerificationError, match=r"a.tar: not a pack: damaged, or not written by Lethe"):
        read_pack(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["../" + "0" * 64 + ".png", "/etc/passwd", "a.png", "0" * 64 + ".png/x", "0" * 64 + ".exe"])
def test_foreign_names_are_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "a.tar", (tarfile.TarInfo(name), b""))
    with pytest.raises(VerificationError, match=r"a.tar: member '.*' doesn't belong in a pack"):
        read_pack(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo(f"{sample(1).sample_id}.png")
    entry.type, entry.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "a.tar", (entry, b""))
    with pytest.raises(VerificationError, match=r"a.tar: member '.*' doesn't belong in a pack"):
        read_pack(tmp_path / "a.tar")


def test_repeated_renamed_and_oversized_members_are_refused(tmp_path: Path) -> None:
    png = (f"{sample(1).sample_id}.png", sample(1).png)
    write_tar(tmp_path / "a.tar", (tarfile.TarInfo(png[0]), png[1]), (tarfile.TarInfo(png[0]), png[1]))
    with pytest.raises(VerificationError, match="not a pack: damaged"):
        read_pack(tmp_path / "a.tar")
    write_tar(tmp_path / "a.tar", (tarfile.TarInfo(png[0]), sample(2).png))
    with pytest.raises(VerificationError, match=r"a.tar: the content of [0-9a-f]{64}.png doesn't match its name"):
        read_pack(tmp_path / "a.tar")
    for kind, limit in (("png", packs.MAX_PICTURE_BYTES), ("txt", packs.MAX_CAPTION_BYTES)):
        write_tar(tmp_path / "a.tar", (tarfile.TarInfo("0" * 64 + "." + kind), b"\0" * (limit + 1)))
        with pytest.raises(VerificationError, match=f"a.tar: member 0+.{kind} is too large"):
            read_pack(tmp_path / "a.tar")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(VerificationError, match=r"a.tar: not a pack: "):
        read_pack(tmp_path / "a.tar")
    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(packs.MAX_PACK_BYTES + 1)
    with pytest.raises(VerificationError, match=r"a.tar: larger than 1024 MB"):
        read_pack(tmp_path / "a.tar")


def test_long_captions_are_refused_before_they_are_packed() -> None:
    with pytest.raises(InvalidInputError, match=r"^caption 'ääääääääääääääääääää'…: longer than 4096 bytes"):
        sample(1, "ä" * 2049)


def test_pictures_come_in_row_order(tmp_path: Path) -> None:
    ws, other = Workspace(tmp_path), OwnerKey("f" * 16)
    write_pack(ws.packs(0) / f"{OWNER}.tar", [sample(1), sample(2)])
    write_pack(ws.packs(1) / f"{other}.tar", [sample(3)])
    rows = build_manifest(manifest_rows(OWNER, 0, 0, [sample(1), sample(2)]) + manifest_rows(other, 1, 0, [sample(3)]))
    rows = rows.iloc[::-1]
    grey = {sample(value).sample_id: value for value in (1, 2, 3)}
    pictures = load_pictures(ws, rows)
    assert pictures.shape == (3, 3, 32, 32)
    assert pictures.dtype == torch.uint8
    assert pictures.is_contiguous()
    assert pictures[:, 1, 7, 9].tolist() == [grey[sample_id] for sample_id in rows["sample_id"]]
    assert load_pictures(ws, rows.iloc[:0]).shape == (0, 3, 32, 32)


def test_axes_and_colours_are_not_mixed_up(tmp_path: Path) -> None:
    grid = np.zeros((32, 32, 3), dtype=np.uint8)
    grid[5, 9] = (1, 2, 3)
    odd = Sample(png=encode_png(Image.fromarray(grid)), caption="", arrived_at=datetime(2020, 1, 1, tzinfo=UTC))
    write_pack(Workspace(tmp_path).packs(0) / f"{OWNER}.tar", [odd])
    pictures = load_pictures(Workspace(tmp_path), build_manifest(manifest_rows(OWNER, 0, 0, [odd])))
    assert pictures[0, :, 5, 9].tolist() == [1, 2, 3]
    assert int(pictures.sum()) == 6


def test_a_sample_that_the_pack_lacks_or_has_in_another_form_is_named(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    small = Sample(png=encode_png(Image.new("RGB", (16, 16))), caption="", arrived_at=datetime(2020, 1, 1, tzinfo=UTC))
    write_pack(ws.packs(0) / f"{OWNER}.tar", [small])
    with pytest.raises(VerificationError, match=r"lacks sample [0-9a-f]{64}, which the manifest names"):
        load_pictures(ws, build_manifest(manifest_rows(OWNER, 0, 0, [sample(1)])))
    with pytest.raises(VerificationError, match=r"sample [0-9a-f]{64} is not a 32×32 RGB picture"):
        load_pictures(ws, build_manifest(manifest_rows(OWNER, 0, 0, [small])))
