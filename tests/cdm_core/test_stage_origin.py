from dataclasses import asdict, replace

import pytest

from cdm_core.chain import compute_chain
from cdm_core.digests import Digest, sha256_digest
from cdm_core.fingerprint import measure_fingerprint
from cdm_core.settings import TrainingSettings
from cdm_core.stage_origin import StageOrigin, explain_rebuild, explain_reuse, stage_origins

SETTINGS = TrainingSettings(rank=2, learning_rate=0.01, batch_size=3, epochs=1, caption_dropout=0.0)
A, B = sha256_digest(b"a"), sha256_digest(b"b")
NOW = StageOrigin(previous=A, samples=A, num_samples=412, settings=A, backbone=A, code=A, fingerprint=A)


def test_a_reused_stage_says_what_is_the_same() -> None:
    assert explain_reuse(NOW) == "reused: same 412 samples, config, backbone, code"
    assert explain_reuse(replace(NOW, num_samples=1)) == "reused: same 1 sample, config, backbone, code"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": B, "num_samples": 415}, "3 samples gone"),
        ({"samples": B, "num_samples": 411}, "1 sample new"),
        ({"samples": B}, "other samples"),
        ({"settings": B}, "other config"),
        ({"backbone": B}, "other backbone"),
        ({"code": B, "fingerprint": B}, "other code"),
        ({"fingerprint": B}, "other libraries or machine"),
        ({"previous": B}, "an earlier stage changed"),
        ({"previous": None}, "an earlier stage changed"),
        ({"previous": B, "samples": B, "num_samples": 413, "settings": B}, "1 sample gone, other config"),
        ({}, "its checkpoint is gone or damaged"),
    ],
)
def test_a_rebuilt_stage_says_what_differs(change: dict[str, object], reason: str) -> None:
    assert explain_rebuild(NOW, [replace(NOW, **change)]) == f"rebuilt: {reason}"  # type: ignore[arg-type]  # values of several types


def test_the_most_similar_checkpoint_is_compared_with() -> None:
    older = replace(NOW, samples=B, num_samples=420, settings=B)
    assert explain_rebuild(NOW, [older, replace(NOW, samples=B, num_samples=414)]) == "rebuilt: 2 samples gone"
    assert explain_rebuild(NOW, [replace(NOW, samples=B, num_samples=430), replace(NOW, samples=B, num_samples=413)]) == (
        "rebuilt: 1 sample gone"
    )
    assert explain_rebuild(NOW, []) == "built: no earlier checkpoint of this stage is kept"


def test_equal_origins_are_equal_keys() -> None:
    """A key and its origin change together, so that a reason is never given for a stage that another part has changed."""

    def both(digests: list[Digest], **change: object) -> list[tuple[Digest, StageOrigin]]:
        settings, fingerprint = SETTINGS.model_copy(update=change), measure_fingerprint({})
        keys = compute_chain(0, digests, settings, A, fingerprint)
        return list(zip(keys, stage_origins(keys, [(digest, 5) for digest in digests], settings, A, fingerprint), strict=True))

    first = both([A, B])
    assert both([A, B]) == first
    assert first[0][1].previous is None
    assert first[1][1].previous == first[0][0]
    for other in (both([A, A]), both([B, B]), both([A, B], epochs=2)):
        for (key, origin), (other_key, other_origin) in zip(first, other, strict=True):
            assert (key == other_key) == (origin == other_origin)


def test_an_origin_holds_digests_and_a_count_only() -> None:
    assert {type(part) for part in asdict(NOW).values()} == {str, int}
