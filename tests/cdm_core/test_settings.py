from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError
from cdm_core.settings import parse_settings
from cdm_core.sharding.partition import Partition

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def document() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(SHIPPED.read_bytes())
    return parsed


def with_value(path: str, value: object) -> bytes:
    parsed = document()
    *sections, name = path.split(".")
    inner = parsed
    for section in sections:
        inner = inner[section]
    inner[name] = value
    return yaml.safe_dump(parsed).encode()


def without_value(path: str) -> bytes:
    parsed = document()
    section, _, name = path.rpartition(".")
    del (parsed[section] if section else parsed)[name]
    return yaml.safe_dump(parsed).encode()


def all_keys() -> list[str]:
    keys = []
    for name, value in document().items():
        if name == "tiers":
            continue  # may be missing, and its keys are names
        keys += [name] + [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    return keys


def test_the_shipped_parameters_parse() -> None:
    settings = parse_settings(SHIPPED.read_bytes(), "params.yaml")
    assert replace(settings.partition, tiers=()) == Partition(shards=8, stages=4)
    assert [(tier.name, tier.rate, tier.share) for tier in settings.partition.tiers] == [
        ("contract", 0.002, 0.4),
        ("opt-in", 0.02, 0.3),
        ("opt-out", 0.1, 0.2),
        ("contested", 0.5, 0.1),
    ]
    assert settings.model_dump() == {**document(), "timestamping": None}


def required_keys() -> list[str]:
    """Workspaces made before there were duplicates, intakes, clocks, approvals and membership inference go on with their defaults."""
    later = ("duplicates", "intake", "terms", "approvals", "evaluation.membership_samples")
    return [key for key in all_keys() if key not in later and key.partition(".")[0] not in later]


@pytest.mark.parametrize("key", required_keys())
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^params.yaml: {key}: Field required$"):
        parse_settings(without_value(key), "params.yaml")


def test_a_workspace_from_before_the_intakes_parses() -> None:
    assert parse_settings(without_value("intake"), "params.yaml").intake.business == "lethe.example"


def test_clocks_and_approvals_have_the_shipped_values_as_defaults() -> None:
    older = {name: value for name, value in document().items() if name not in ("duplicates", "intake", "terms", "approvals")}
    assert parse_settings(yaml.safe_dump(older).encode(), "params.yaml").model_dump() == {**document(), "timestamping": None}


def test_more_approvals_than_roles_are_refused() -> None:
    content = yaml.safe_dump(document() | {"approvals": {"required": 2, "roles": ["dpo"], "distinct": True}}).encode()
    with pytest.raises(InvalidInputError, match=r"approvals\.required: more than there are roles"):
        parse_settings(content, "params.yaml")


@pytest.mark.parametrize("key", all_keys())
def test_a_value_of_a_wrong_type_is_named(key: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^params.yaml: {key}(\.0)?: [^\n]+$"):
        parse_settings(with_value(key, [["x"]]), "params.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages", 0),
        ("stages", 101),
        ("stages", 1.5),
        ("shard_ids", []),
        ("shard_ids", [1, 2]),
        ("shard_ids", [0, 0]),
        ("shard_ids", list(range(1001))),
        ("training.rank", 0),
        ("training.rank", 129),
        ("training.learning_rate", 0),
        ("training.learning_rate", float("inf")),
        ("training.learning_rate", float("nan")),
        ("training.batch_size", 0),
        ("training.epochs", 0),
        ("training.epochs", True),
        ("training.epochs", 1.5),
        ("training.epochs", []),
        ("training.epochs", [1, 0, 1, 1]),
        ("training.epochs", [1, 1, 1]),
        ("tiers.contract.rate", "often"),
        ("tiers.contract.rate", 0),
        ("tiers.contract.share", -1),
        ("training.caption_dropout", 1),
        ("training.caption_dropout", -0.1),
        ("training.momentum", 0.9),
        ("sampling.steps", 0),
        ("sampling.steps", 1001),
        ("sampling.guidance_scale", 0.5),
        ("sampling.method", "median"),
        ("knn.centroids", 0),
        ("knn.temperature", 0),
        ("evaluation.samples", 15),
        ("evaluation.blocks", 3),
        ("evaluation.blocks", 129),
        ("evaluation.margin", 0),
        ("evaluation.margin", float("inf")),
        ("evaluation.seed", "zero"),
        ("evaluation.inception_weights", 3),
        ("evaluation.seed", True),
        ("evaluation.seed", 2**53),
        ("evaluation.seed", -(2**53)),
        ("evaluation.samples", 10**20),
        ("evaluation.blocks", 10**20),
        ("knn.centroids", 10**20),
        ("knn.temperature", True),
        ("training.batch_size", 10**20),
        ("training.batch_size", 8.0),
        ("training.learning_rate", True),
        ("training.epochs", 10**7),
        ("training.epochs", [1, 1, 1, 10**7]),
        ("stages", True),
        ("stages", "4"),
        ("duplicates.clip_distance", False),
        ("terms.contract_days", True),
        ("approvals.required", True),
        ("colour", "red"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(key: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"^params.yaml: {key}: [^\n]+$"):
        parse_settings(with_value(key, value), "params.yaml")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"stages: [", id="unclosed"),
        pytest.param(b"\xff\xfe\xff", id="not UTF-8"),
        pytest.param(b"a: !!python/object:os.system {}", id="a Python object"),
        pytest.param(b"stages: 2020-13-45", id="an impossible date"),
        pytest.param(b"a: " + b"[" * 10_000, id="endless nesting"),
        pytest.param(b"\0", id="a control character"),
        pytest.param(b"a: !!bool x", id="a tag of truth on what is none"),
        pytest.param(b"a: !!timestamp x", id="a tag of a time on what is none"),
        pytest.param(b'a: !!int ""', id="a tag of a number on nothing"),
        pytest.param(b"evaluation: {seed: " + b"9" * 5_000 + b"}", id="a number of 5,000 digits"),
    ],
)
def test_what_is_not_yaml_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^params\.yaml: not YAML: [^\n]+$"):
        parse_settings(content, "params.yaml")


def test_truth_values_are_no_shards() -> None:
    with pytest.raises(InvalidInputError, match=r"^params.yaml: shard_ids\.0: Input should be a valid integer$"):
        parse_settings(with_value("shard_ids", [False, True]), "params.yaml")


def test_a_fraction_may_be_written_as_yaml_reads_it_for_text() -> None:
    content = SHIPPED.read_bytes().replace(b"learning_rate: 0.004", b"learning_rate: 4e-3")
    assert yaml.safe_load(content)["training"]["learning_rate"] == "4e-3"
    assert parse_settings(content, "params.yaml").training.learning_rate == 0.004


@pytest.mark.parametrize("method", ["average", "random", "top_k:average"])
def test_a_prior_that_the_method_would_ignore_is_refused(method: str) -> None:
    content = yaml.safe_dump(document() | {"sampling": {**document()["sampling"], "method": method, "prior": "clip"}}).encode()
    message = f"^params.yaml: sampling.prior: clip: method {method} has no such thing; shard_per_image, knn, bayes do$"
    with pytest.raises(InvalidInputError, match=message):
        parse_settings(content, "params.yaml")


@pytest.mark.parametrize("content", [b"", b"42", b"- a", b"text"])
def test_what_is_no_mapping_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^params\.yaml: document: [^\n]+$"):
        parse_settings(content, "params.yaml")


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^params.yaml: [^\n]+$"):
        parse_settings(content, "params.yaml")


def test_epochs_are_one_number_or_one_a_stage() -> None:
    one, each = (parse_settings(with_value("training.epochs", value), "p").training for value in (3, [4, 3, 2, 1]))
    assert [one.stage_epochs(stage) for stage in range(4)] == [3, 3, 3, 3]
    assert [each.stage_epochs(stage) for stage in range(4)] == [4, 3, 2, 1]


def test_epochs_that_do_not_fit_the_stages_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^p: training.epochs: names 4 stages; stages: is 5$"):
        parse_settings(with_value("stages", 5), "p")


def test_parameters_from_before_there_were_tiers_are_valid() -> None:
    assert parse_settings(without_value("tiers"), "p").partition == Partition(shards=8, stages=4)


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ({"Cold": {"rate": 1, "share": 1}}, "^p: tiers: a name has up to 32 of a-z, 0-9, - and _, and begins with a letter$"),
        ({"7": {"rate": 1, "share": 1}}, "^p: tiers: a name has"),
        ({"cold": {"rate": 1, "share": 0}}, "^p: tiers: no share is above 0$"),
    ],
)
def test_tiers_that_place_nobody_are_refused(tiers: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_settings(with_value("tiers", tiers), "p")


@pytest.mark.parametrize("ways", [{}, {"url": "https://tsa.example", "command": ["openssl"]}])
def test_an_authority_is_reached_in_one_way(ways: dict[str, object]) -> None:
    content = yaml.safe_dump({**document(), "timestamping": {"name": "authority", "certificate": "tsa.pem", **ways}}).encode()
    with pytest.raises(InvalidInputError, match=r"params\.yaml: timestamping: .*give either url or command"):
        parse_settings(content, "params.yaml")
