import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.composition.document import Composition, Expert, parse_composition, parse_method
from cdm_core.digests import Digest, canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.settings import SamplingSettings

SAMPLING = SamplingSettings(steps=12, guidance_scale=1.5, method="shard_per_image")
DIGESTS = st.binary(max_size=3).map(sha256_digest)
EXPERTS = st.builds(Expert, shard=st.integers(0, 999), adapter=DIGESTS, samples=st.integers(1, 10_000), centroids=st.none() | DIGESTS)


def expert(shard: int, samples: int = 5) -> Expert:
    return Expert(shard=shard, adapter=sha256_digest(f"adapter {shard}".encode()), samples=samples, centroids=None)


def composition(*experts: Expert) -> Composition:
    return Composition(backbone=sha256_digest(b"backbone"), experts=experts, sampling=SAMPLING, knn_temperature=0.05)


@given(st.lists(EXPERTS, max_size=4, unique_by=lambda expert: expert.shard), st.sampled_from(["knn", "random", "average"]))
def test_documents_round_trip(experts: list[Expert], method: str) -> None:
    ordered = tuple(sorted(experts, key=lambda expert: expert.shard))
    made = composition(*ordered).with_method(parse_method(method))
    assert parse_composition(made.to_bytes()) == made
    assert parse_composition(made.to_bytes()).digest == made.digest == sha256_digest(made.to_bytes())


def test_every_part_has_a_say_in_the_name() -> None:
    whole = composition(expert(0), expert(2))
    others = [
        composition(expert(0)),
        composition(expert(0), expert(2, samples=6)),
        composition(expert(0), expert(3)),
        whole.with_method("average"),
        Composition(backbone=Digest("0" * 64), experts=whole.experts, sampling=SAMPLING, knn_temperature=0.05),
        Composition(backbone=whole.backbone, experts=whole.experts, sampling=SAMPLING, knn_temperature=0.06),
    ]
    assert len({whole.digest, *(other.digest for other in others)}) == 7


def test_restricting_leaves_out_and_changes_nothing_else() -> None:
    whole = composition(expert(0), expert(2), expert(5))
    assert whole.restricted_to([5, 0]) == composition(expert(0), expert(5))
    assert whole.restricted_to([]).experts == ()
    assert whole.shards == (0, 2, 5)


def test_restricting_to_a_shard_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^shard 1 is not in the composition; it has \[0, 2\]$"):
        composition(expert(0), expert(2)).restricted_to([0, 1])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"^method 'median' is not one of shard_per_image, knn, average, random, bayes, classifier, cp_delta, top_k:knn, [^\n]+$",
    ):
        parse_method("median")


@pytest.mark.parametrize("experts", [(expert(2), expert(0)), (expert(0), expert(0))])
def test_experts_out_of_order_are_refused(experts: tuple[Expert, ...]) -> None:
    with pytest.raises(ValueError, match="experts must be in ascending order of shard, each once"):
        composition(*experts)


def test_an_expert_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="an expert trained on no sample has no place in a composition"):
        composition(expert(0, samples=0))


def document() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(composition(expert(0), expert(2)).to_bytes())
    return parsed


def with_expert(**change: object) -> dict[str, Any]:
    parsed = document()
    parsed["experts"][1] |= change
    return parsed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "document: Invalid JSON", id="empty"),
        pytest.param(b"\xff", "document: Invalid JSON", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "document: Invalid JSON", id="endless nesting"),
        pytest.param(b"[]", "document: Input should be an object", id="a list"),
        *(
            pytest.param(canonical_json({name: value for name, value in document().items() if name != key}), message, id=f"without {key}")
            for key, message in {
                "backbone": "backbone: Field required",
                "experts": "experts: Field required",
                "sampling": "sampling: Field required",
                "knn_temperature": "knn_temperature: Field required",
                "schema": "in canonical form",
            }.items()
        ),
        pytest.param(canonical_json(document() | {"schema": "lethe/composition/v2"}), "in canonical form", id="another schema"),
        pytest.param(canonical_json(document() | {"more": 1}), "in canonical form", id="an unknown key"),
        pytest.param(canonical_json(with_expert(more=1)), "in canonical form", id="an unknown key of an expert"),
        pytest.param(canonical_json(with_expert(shard="2")), "experts.1.shard: Input should be a valid integer", id="a shard as text"),
        pytest.param(canonical_json(with_expert(samples=True)), "experts.1.samples: Input should be a valid integer", id="a truth value"),
        pytest.param(canonical_json(with_expert(samples=0)), "an expert trained on no sample", id="no sample"),
        pytest.param(canonical_json(with_expert(shard=0)), "experts must be in ascending order", id="a shard twice"),
        pytest.param(canonical_json(with_expert(adapter=None)), "experts.1.adapter: Input should be a valid string", id="no adapter"),
        pytest.param(json.dumps(with_expert(samples=2**60)).encode(), "exceeds safe integer domain", id="a number beyond JSON's"),
        pytest.param(json.dumps(document() | {"knn_temperature": float("nan")}).encode(), "nan is not representable", id="not a number"),
        pytest.param(
            canonical_json(document() | {"sampling": {"steps": 0, "guidance_scale": 1, "method": "knn"}}),
            "sampling.steps: Input should be greater than or equal to 1",
            id="no step",
        ),
        pytest.param(
            canonical_json(document() | {"sampling": {"steps": 1, "guidance_scale": 1, "method": "median"}}),
            "sampling.method: Input should be",
            id="an unknown method",
        ),
        pytest.param(composition().to_bytes() + b"\n", "in canonical form", id="a line end"),
        pytest.param(json.dumps(document()).encode(), "in canonical form", id="spaces"),
    ],
)
def test_a_malformed_document_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=rf"^composition: not a lethe/composition/v1 document[^\n]*{message}[^\n]*$"):
        parse_composition(content)
