"""A checkpoint's key names everything that its bytes are a function of, so a tainted checkpoint can't be found."""

from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.chain import compute_chain, first_changed_stage, num_reusable_stages
from cdm_core.digests import Digest, sha256_digest
from cdm_core.fingerprint import Fingerprint
from cdm_core.settings import TrainingSettings
from cdm_core.sharding.manifests import build_manifest, samples_digest, stage_samples

BACKBONE = sha256_digest(b"backbone")
SETTINGS = TrainingSettings(rank=8, learning_rate=0.001, batch_size=16, epochs=3, caption_dropout=0.1)
FINGERPRINT = Fingerprint(
    libraries={"torch": "2.9"},
    torch_build=sha256_digest(b"build"),
    instruction_set="AVX2",
    processor={"name": "Processor 1"},
    dispatch={},
    threads=1,
    code=sha256_digest(b"code"),
)
STAGES = [sha256_digest(b"stage 0"), sha256_digest(b"stage 1"), sha256_digest(b"stage 2")]


def chain(stages: list[Digest], shard: int = 0) -> list[Digest]:
    return compute_chain(shard, stages, SETTINGS, BACKBONE, FINGERPRINT)


def manifest(names: list[str], stages: int, captions: dict[str, str] | None = None, owner: str = "a" * 16) -> pd.DataFrame:
    """Samples dealt to stages in order, as slices."""
    size = max(1, len(names) // stages)
    return build_manifest(
        {
            "sample_id": sha256_digest(name.encode()),
            "owner_key": owner,
            "shard": 0,
            "stage": min(number // size, stages - 1),
            "pack": f"{owner}.tar",
            "member": f"{sha256_digest(name.encode())}.png",
            "caption": (captions or {}).get(name, name),
            "arrived_at": datetime(2020, 1, 1, tzinfo=UTC),
        }
        for number, name in enumerate(names)
    )


def manifest_chain(frame: pd.DataFrame, stages: int) -> list[Digest]:
    return chain([samples_digest(stage_samples(frame, stage)) for stage in range(stages)])


def test_all_keys_differ() -> None:
    same = [STAGES[0]] * 3
    assert len({*chain(STAGES), *chain(STAGES, shard=1), *chain(same)}) == 3 + 3 + 2  # the first stages of two chains agree


@pytest.mark.parametrize(
    "change",
    [{"rank": 4}, {"learning_rate": 0.002}, {"batch_size": 8}, {"epochs": 2}, {"caption_dropout": 0.2}],
    ids=str,
)
def test_every_setting_changes_every_key(change: dict[str, float]) -> None:
    other = compute_chain(0, STAGES, SETTINGS.model_copy(update=change), BACKBONE, FINGERPRINT)
    assert not set(other) & set(chain(STAGES))


def test_a_stages_epochs_enter_its_own_key_and_no_other() -> None:
    """Planning the later stages anew keeps the checkpoints of the earlier ones."""
    constant = chain(STAGES)
    listed = SETTINGS.model_copy(update={"epochs": [3, 3, 3]})
    assert compute_chain(0, STAGES, listed, BACKBONE, FINGERPRINT) == constant
    for stage in range(3):
        epochs = [3, 3, 3]
        epochs[stage] = 1
        changed = compute_chain(0, STAGES, SETTINGS.model_copy(update={"epochs": epochs}), BACKBONE, FINGERPRINT)
        assert first_changed_stage(constant, changed) == stage


def test_the_settings_that_are_tested_are_all() -> None:
    assert set(TrainingSettings.model_fields) == {"rank", "learning_rate", "batch_size", "epochs", "caption_dropout"}


@pytest.mark.parametrize(
    "fingerprint",
    [
        replace(FINGERPRINT, libraries={"torch": "2.10"}),
        replace(FINGERPRINT, instruction_set="AVX512"),
        replace(FINGERPRINT, processor={"name": "Processor 2"}),
        replace(FINGERPRINT, dispatch={"MKL_CBWR": "COMPATIBLE"}),
        replace(FINGERPRINT, threads=2),
        replace(FINGERPRINT, code=sha256_digest(b"other code")),
    ],
)
def test_every_part_of_the_fingerprint_changes_every_key(fingerprint: Fingerprint) -> None:
    assert not set(compute_chain(0, STAGES, SETTINGS, BACKBONE, fingerprint)) & set(chain(STAGES))


def test_the_backbone_changes_every_key() -> None:
    assert not set(compute_chain(0, STAGES, SETTINGS, sha256_digest(b"other"), FINGERPRINT)) & set(chain(STAGES))


@given(st.lists(st.sampled_from(STAGES), min_size=1, max_size=6), st.data())
def test_a_changed_stage_changes_its_key_and_all_later_ones_and_none_before(stages: list[Digest], data: st.DataObject) -> None:
    hit = data.draw(st.integers(0, len(stages) - 1))
    before, after = chain(stages), chain([*stages[:hit], sha256_digest(b"without one sample"), *stages[hit + 1 :]])
    assert [old == new for old, new in zip(before, after, strict=True)] == [stage < hit for stage in range(len(stages))]
    assert first_changed_stage(before, after) == hit
    assert num_reusable_stages(after, set(before).__contains__) == hit


def test_chains_of_equal_beginnings_share_keys() -> None:
    assert chain(STAGES)[:2] == chain(STAGES[:2])
    assert first_changed_stage(chain(STAGES), chain(STAGES)) is None


def test_the_same_samples_in_another_stage_have_another_key() -> None:
    assert chain([STAGES[0], STAGES[1]])[1] != chain([STAGES[1], STAGES[0]])[1]
    assert chain([STAGES[1], STAGES[0]])[0] != chain([STAGES[0], STAGES[1]])[1]


def test_the_order_of_rows_changes_no_key() -> None:
    frame = manifest(["a", "b", "c", "d"], 2)
    assert manifest_chain(frame.iloc[::-1].reset_index(drop=True), 2) == manifest_chain(frame, 2)


def test_caption_and_owner_change_the_key() -> None:
    frame = manifest(["a", "b", "c", "d"], 2)
    renamed = manifest(["a", "b", "c", "d"], 2, {"d": "another caption"})
    assert first_changed_stage(manifest_chain(frame, 2), manifest_chain(renamed, 2)) == 1
    handed_over = manifest(["a", "b", "c", "d"], 2, owner="b" * 16)
    assert first_changed_stage(manifest_chain(frame, 2), manifest_chain(handed_over, 2)) == 0


@given(st.integers(4, 12), st.integers(2, 3), st.data())
def test_deleting_any_sample_changes_the_key_of_its_stage(num: int, stages: int, data: st.DataObject) -> None:
    """The trap in SISA's reference code, whose keys hash indices: where the size isn't a multiple of the slice count, deleting a tail point
    leaves every hash unchanged, and the checkpoint that was trained on it is found and served.
    """
    frame = manifest([str(number) for number in range(num)], stages)
    row = data.draw(st.integers(0, num - 1) | st.just(num - 1))
    hit = int(frame["stage"][row])
    without = frame.drop(index=row).reset_index(drop=True)
    assert first_changed_stage(manifest_chain(frame, stages), manifest_chain(without, stages)) == hit


def test_the_trap_itself() -> None:
    """Ten samples in three slices: keys on the indices of whole slices don't see the tenth, ours do."""
    names = [str(number) for number in range(10)]

    def index_hashes(num: int) -> list[Digest]:
        size = num // 3
        return [sha256_digest(repr(list(range((slice_ + 1) * size))).encode()) for slice_ in range(3)]

    assert index_hashes(10) == index_hashes(9)
    assert first_changed_stage(manifest_chain(manifest(names, 3), 3), manifest_chain(manifest(names[:9], 3), 3)) == 2


@pytest.mark.parametrize(
    ("stored", "reusable"),
    [((), 0), ((0,), 1), ((0, 1), 2), ((0, 1, 2), 3), ((1, 2), 0), ((0, 2), 1)],
)
def test_only_a_whole_prefix_is_reused(stored: tuple[int, ...], reusable: int) -> None:
    keys = chain(STAGES)
    assert num_reusable_stages(keys, {keys[stage] for stage in stored}.__contains__) == reusable


def test_chains_of_unequal_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match="chains of 3 and 2 stages can't be compared"):
        first_changed_stage(chain(STAGES), chain(STAGES[:2]))
