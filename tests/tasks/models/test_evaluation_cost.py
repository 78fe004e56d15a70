"""What evaluating a deletion costs against a full evaluation, counted in pictures to be made and to be described, on OpenMoji's table."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Digest, sha256_digest
from cdm_core.settings import parse_settings
from cdm_core.sharding.partition import Partition, assign, compute_owner_key
from tasks.models.compositions import compose
from tasks.models.evaluation import PictureRequest, choose_pictures, smallest_compositions

REPOSITORY = Path(__file__).resolve().parents[3]
SETTINGS = parse_settings((REPOSITORY / "params.yaml").read_bytes(), "params.yaml")
MOST = 0.2
"""Of a full evaluation, for a deletion from one of eight shards."""

Manifests = Mapping[int, pd.DataFrame]


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """OpenMoji in eight shards."""
    partition, secret = Partition(shards=8, stages=4, tiers=SETTINGS.partition.tiers), bytes(32)
    with (REPOSITORY / "data_manifests/openmoji.csv").open(encoding="utf-8", newline="") as file:
        table = pd.DataFrame(csv.DictReader(file))
    table["owner_key"] = [compute_owner_key(secret, owner) for owner in table["owner_id"]]
    table["shard"] = [assign(owner, None, partition)[0] for owner in table["owner_key"]]
    return {shard: table[table["shard"] == shard].rename(columns={"annotation": "caption"}) for shard in range(8)}


def compose_of(manifests: Manifests) -> Composition:
    """Each adapter named by what it was trained on."""
    adapters = {shard: Digest(sha256_digest(" ".join(frame["hexcode"]).encode())) for shard, frame in manifests.items()}
    experts = [Expert(shard=shard, adapter=adapters[shard], samples=len(frame), centroids=None) for shard, frame in manifests.items()]
    return compose(SETTINGS, experts)


def pictures_made(composition: Composition, pictures: list[PictureRequest]) -> set[tuple[Digest, Digest]]:
    """As the cache names them."""
    return {(part.digest, picture.key) for part, group in smallest_compositions(composition, pictures) for picture in group}


def test_forgetting_from_one_of_eight_shards_costs_a_fifth_of_an_evaluation_at_most(manifests: Manifests) -> None:
    evaluation, serving = SETTINGS.evaluation, compose_of(manifests)
    cached = pictures_made(serving, choose_pictures(manifests, num=evaluation.samples, seed=evaluation.seed))
    total, shares = sum(len(frame) for frame in manifests.values()), []
    for shard, frame in manifests.items():
        after = {**manifests, shard: frame[frame["owner_key"] != min(frame["owner_key"])]}
        asked = choose_pictures(after, num=evaluation.samples, seed=evaluation.seed)
        made = (pictures_made(serving, asked) | pictures_made(compose_of(after), asked)) - cached
        # A full evaluation makes both sides' pictures and describes all real ones; here the hit shard's are described again.
        shares.append((len(made) / (2 * evaluation.samples), len(after[shard]) / total, len(frame) / total))
    pictures, described, of_shard = (sum(share) / len(shares) for share in zip(*shares, strict=True))
    assert 0 < pictures <= MOST
    assert 0 < described <= MOST
    assert max(made - size for made, _, size in shares) <= MOST - 1 / 8, "what is beyond the shard's own share are pictures that moved"
    assert of_shard == pytest.approx(1 / 8)
