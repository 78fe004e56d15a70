import json
import shutil
from pathlib import Path

import pytest

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.stage_origin import StageOrigin
from tasks.training.checkpoints import CheckpointStore

STORED = ("json", "safetensors")
KEYS = [sha256_digest(name) for name in (b"0", b"1", b"2", b"3")]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two stages of shard 0, one of shard 1."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.write(KEYS[0], b"adapter 0.0", shard=0, stage=0)
    store.write(KEYS[1], b"adapter 0.1", shard=0, stage=1)
    store.write(KEYS[2], b"adapter 1.0", shard=1, stage=0)
    return store


def test_what_is_written_is_read(store: CheckpointStore) -> None:
    assert store.read(KEYS[1]) == store.path(KEYS[1]).read_bytes() == b"adapter 0.1"
    assert store.digest(KEYS[1]) == sha256_digest(b"adapter 0.1")
    assert store.entries() == {
        KEYS[0]: {"key": KEYS[0], "adapter": sha256_digest(b"adapter 0.0"), "shard": 0, "stage": 0},
        KEYS[1]: {"key": KEYS[1], "adapter": sha256_digest(b"adapter 0.1"), "shard": 0, "stage": 1},
        KEYS[2]: {"key": KEYS[2], "adapter": sha256_digest(b"adapter 1.0"), "shard": 1, "stage": 0},
    }


def test_an_entry_says_how_long_its_training_took(store: CheckpointStore) -> None:
    store.write(KEYS[3], b"adapter 1.1", shard=1, stage=1, seconds=2.5)
    assert [store.seconds(key) for key in (KEYS[3], KEYS[0])] == [2.5, 0.0]


def origin(samples: bytes, num_samples: int) -> StageOrigin:
    same = sha256_digest(b"same")
    parts = {"settings": same, "backbone": same, "code": same, "fingerprint": same}
    return StageOrigin(previous=None, samples=sha256_digest(samples), num_samples=num_samples, **parts)


def test_an_entry_says_what_it_was_made_of_and_why(store: CheckpointStore) -> None:
    store.write(KEYS[3], b"adapter 1.1", shard=1, stage=1, origin=origin(b"all", 5))
    store.write(sha256_digest(b"4"), b"adapter 1.1 anew", shard=1, stage=1, origin=origin(b"fewer", 3))
    assert store.entries()[KEYS[3]]["why"] == "built: no earlier checkpoint of this stage is kept"
    assert store.entries()[sha256_digest(b"4")]["why"] == "rebuilt: 2 samples gone"
    assert store.origins(0, 0) == store.origins(1, 0) == []  # written without
    by_count = sorted(store.origins(1, 1), key=lambda found: found.num_samples)
    assert by_count == [origin(b"fewer", 3), origin(b"all", 5)]


def test_collecting_leaves_what_is_to_be_kept(store: CheckpointStore) -> None:
    (store.folder / f".{KEYS[1]}.safetensors.partial").write_bytes(b"half an adap")
    num_bytes = store.size(KEYS[0]) + store.size(KEYS[2])
    assert num_bytes == sum(path.stat().st_size for key in (KEYS[0], KEYS[2]) for path in store.folder.glob(f"{key}.*"))
    assert store.collect([KEYS[1], KEYS[3]]) == (2, num_bytes)
    assert {path.name for path in store.folder.iterdir()} == {f"{KEYS[1]}.{suffix}" for suffix in STORED}
    assert store.read(KEYS[1]) == b"adapter 0.1"
    assert store.collect([KEYS[1]]) == (0, 0)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_half_an_entry_is_none(store: CheckpointStore, suffix: str) -> None:
    assert store.has(KEYS[0])
    assert not store.has(KEYS[3])
    (store.folder / f"{KEYS[0]}.{suffix}").unlink()
    assert not store.has(KEYS[0])


def test_one_altered_byte_is_refused(store: CheckpointStore) -> None:
    store.path(KEYS[0]).write_bytes(b"adapter 0.9")
    with pytest.raises(VerificationError, match=f"^checkpoint {KEYS[0][:12]}: its bytes are not those that were stored; delete it and run"):
        store.read(KEYS[0])


def test_one_checkpoint_in_another_s_place_is_refused(store: CheckpointStore) -> None:
    for suffix in STORED:
        shutil.copy(store.folder / f"{KEYS[0]}.{suffix}", store.folder / f"{KEYS[1]}.{suffix}")
    for refuse in (store.read, store.digest, store.has, lambda key: store.entries()):
        with pytest.raises(
            VerificationError, match=f"^checkpoint {KEYS[1][:12]}: its entry is another checkpoint's; delete it and run again$"
        ):
            refuse(KEYS[1])
    assert store.read(KEYS[0]) == b"adapter 0.0"


def test_an_entry_that_names_no_key_is_listed_and_never_reused(store: CheckpointStore) -> None:
    old = {"adapter": sha256_digest(b"adapter 0.1"), "shard": 0, "stage": 1}
    (store.folder / f"{KEYS[1]}.json").write_text(json.dumps(old))
    assert store.entries()[KEYS[1]] == old
    assert not store.has(KEYS[1])
    for refuse in (store.read, store.digest):
        with pytest.raises(VerificationError, match=f"^checkpoint {KEYS[1][:12]}: its entry names no key; delete it and run again$"):
            refuse(KEYS[1])
    store.write(KEYS[1], b"adapter 0.1", shard=0, stage=1)
    assert store.read(KEYS[1]) == b"adapter 0.1"


def test_an_origin_in_another_version_s_terms_tells_nothing(store: CheckpointStore) -> None:
    store.write(KEYS[3], b"adapter 1.1", shard=1, stage=1, origin=origin(b"all", 5))
    path = store.folder / f"{KEYS[3]}.json"
    entry = json.loads(path.read_bytes())
    for told in ({"x": 1}, {**entry["origin"], "more": 1}, {"samples": KEYS[0]}):
        path.write_text(json.dumps({**entry, "origin": told}))
        assert store.origins(1, 1) == []


@pytest.mark.parametrize("name", [f"{KEYS[0]}.json", f"{KEYS[3]}.json"])
@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_in_an_entry_s_place_is_damage(store: CheckpointStore, name: str, kind: str) -> None:
    (store.folder / name).unlink(missing_ok=True)
    if kind == "folder":
        (store.folder / name).mkdir()
    else:
        (store.folder / name).symlink_to("/nowhere")
    with pytest.raises(VerificationError, match=f"^checkpoint {name[:12]}: its entry is damaged; delete it and run again$"):
        store.entries()


def test_a_folder_in_an_adapter_s_place_is_told(store: CheckpointStore) -> None:
    store.path(KEYS[0]).unlink()
    store.path(KEYS[0]).mkdir()
    assert not store.has(KEYS[0])
    with pytest.raises(VerificationError, match=f"^checkpoint {KEYS[0][:12]}: can't be read; delete it and run again$"):
        store.read(KEYS[0])
    for erase in (lambda: store.collect([]), lambda: store.erase_shards([0], keep=[])):
        with pytest.raises(VerificationError, match=rf"^checkpoints: {KEYS[0]}\.safetensors: can't be deleted: "):
            erase()


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"adapter":"x","shard":0,"stage":0,"origin":{"num_samples":"x"}}',
    ],
    ids=range(7),
)
def test_a_damaged_entry_is_refused(store: CheckpointStore, entry: bytes) -> None:
    (store.folder / f"{KEYS[0]}.json").write_bytes(entry)
    with pytest.raises(VerificationError, match=f"^checkpoint {KEYS[0][:12]}: its entry is damaged; delete it and run again$"):
        store.read(KEYS[0])
    with pytest.raises(VerificationError, match="its entry is damaged"):
        store.entries()


def test_a_shard_is_erased_but_for_what_is_kept(store: CheckpointStore) -> None:
    assert store.erase_shards([0], keep=[KEYS[0]]) == 1
    assert set(store.entries()) == {KEYS[0], KEYS[2]}
    assert {path.name for path in store.folder.iterdir()} == {f"{key}.{suffix}" for key in (KEYS[0], KEYS[2]) for suffix in STORED}
    assert store.erase_shards([0], keep=[KEYS[0]]) == 0


def test_what_a_crash_left_unfinished_is_erased_too(store: CheckpointStore) -> None:
    (store.folder / f".{KEYS[1]}.safetensors.partial").write_bytes(b"half an adap")
    (store.folder / f"{KEYS[3]}.safetensors").write_bytes(b"an adapter whose entry was never written")
    assert store.erase_shards([0], keep=KEYS[:2]) == 0
    assert {path.name for path in store.folder.iterdir()} == {f"{key}.{suffix}" for key in KEYS[:3] for suffix in STORED}


def test_a_file_that_stays_is_not_called_erased(store: CheckpointStore) -> None:
    (store.folder / f"{KEYS[1]}.copy").write_bytes(b"adapter 0.1")
    with pytest.raises(VerificationError, match=rf"^checkpoints: {KEYS[1]}\.copy is still there after its erasure$"):
        store.erase_shards([0], keep=[KEYS[0]])


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    empty = CheckpointStore(tmp_path / "none")
    assert empty.entries() == {}
    assert not empty.has(Digest("0" * 64))
    assert empty.erase_shards([0], keep=[]) == 0
