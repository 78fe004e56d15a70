import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.digests import Json, canonical_json, derive_seed, derive_uniform, json_digest, keyed_hash, sha256_digest

PARTS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4) | st.integers(0, 99), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        # FIPS 180-4, as published by NIST.
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
)
def test_sha256_vectors(content: bytes, digest: str) -> None:
    assert sha256_digest(content) == digest


def test_canonical_json_vector() -> None:
    # RFC 8785 section 3.2.2 and 3.2.3, shortened.
    value: Json = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected.encode()


def test_equal_values_have_one_digest() -> None:
    assert json_digest({"a": 1, "b": [2.0]}) == json_digest({"b": [2], "a": 1.0}) == sha256_digest(b'{"a":1,"b":[2]}')


def test_keyed_hash_is_hmac_of_the_joined_parts() -> None:
    assert keyed_hash(b"key", "owner", "Anna") == hmac.new(b"key", b"owner\0Anna", hashlib.sha256).hexdigest()
    assert keyed_hash(b"key", "ab", "c") != keyed_hash(b"key", "a", "bc")
    assert keyed_hash(b"key", "owner", "Anna") != keyed_hash(b"other", "owner", "Anna")


@given(PARTS, PARTS)
def test_streams_of_different_names_have_different_seeds(left: list[str | int], right: list[str | int]) -> None:
    assert (derive_seed(*left) == derive_seed(*right)) == ([str(part) for part in left] == [str(part) for part in right])


@given(PARTS)
def test_seeds_and_uniforms_stay_in_range(parts: list[str | int]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    assert 0 < derive_uniform(*parts) < 1


def test_uniforms_are_uniform() -> None:
    draws = [derive_uniform("test", number) for number in range(4000)]
    # The mean of n uniforms has the standard deviation 1 / sqrt(12 n) = 0.0046.
    assert abs(sum(draws) / len(draws) - 0.5) < 0.02
    assert 0.22 < sum(draw < 0.25 for draw in draws) / len(draws) < 0.28
