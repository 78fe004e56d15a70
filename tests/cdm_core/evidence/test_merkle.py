"""The Merkle tree against certificate-transparency's published vectors, and every proof of small trees."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import VerificationError
from cdm_core.evidence.merkle import (
    EMPTY_ROOT,
    build_consistency_proof,
    build_inclusion_proof,
    compute_root,
    hash_leaf,
    hash_node,
    iterate_roots,
    verify_consistency,
    verify_inclusion,
)

# The test tree of certificate-transparency and Trillian.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [hash_leaf(bytes.fromhex(value)) for value in INPUTS]
_N = {
    "1": "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "4": "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "6": "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
    "23": "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "45": "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "67": "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "4567": "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
}
INCLUSION = [
    (0, 1, []),
    (0, 8, [_N["1"], _N["23"], _N["4567"]]),
    (5, 8, [_N["4"], _N["67"], ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], _N["23"], _N["4"]]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [_N["1"], _N["23"], _N["4567"]]),
    (6, 8, [_N["45"], _N["67"], ROOTS[4]]),
    (2, 5, [_N["23"], _N["4"]]),
    (6, 7, [_N["45"], _N["6"], ROOTS[4]]),
]


def test_roots() -> None:
    assert [compute_root(LEAVES[:size]).hex() for size in range(9)] == ROOTS
    assert [root.hex() for root in iterate_roots(LEAVES)] == ROOTS


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, proof: list[str]) -> None:
    assert [value.hex() for value in build_inclusion_proof(LEAVES[:size], index)] == proof
    verify_inclusion(LEAVES[index], index, size, [bytes.fromhex(value) for value in proof], bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, proof: list[str]) -> None:
    assert [value.hex() for value in build_consistency_proof(LEAVES[:new], old)] == proof
    hashes = [bytes.fromhex(value) for value in proof]
    verify_consistency(old, new, hashes, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


def test_the_example_tree_of_the_rfc() -> None:
    """Section 2.1.3: seven leaves d0 … d6, the proofs written out in names."""
    a, b, c, d, e, f, j = leaves = [hash_leaf(bytes([number])) for number in range(7)]
    g, h, i = hash_node(a, b), hash_node(c, d), hash_node(e, f)
    k, l = hash_node(g, h), hash_node(i, j)  # noqa: E741  # the RFC's name
    assert compute_root(leaves) == hash_node(k, l)
    assert build_inclusion_proof(leaves, 0) == [b, h, l]
    assert build_inclusion_proof(leaves, 3) == [c, g, l]
    assert build_inclusion_proof(leaves, 4) == [f, j, k]
    assert build_inclusion_proof(leaves, 6) == [i, k]
    assert build_consistency_proof(leaves, 3) == [c, d, g, l]
    assert build_consistency_proof(leaves, 4) == [l]
    assert build_consistency_proof(leaves, 6) == [i, j, k]


def test_every_proof_of_small_trees() -> None:
    leaves = [hash_leaf(bytes([number])) for number in range(20)]
    roots = list(iterate_roots(leaves))
    for size in range(1, 21):
        for index in range(size):
            proof = build_inclusion_proof(leaves[:size], index)
            verify_inclusion(leaves[index], index, size, proof, roots[size])
            for bad in (proof[:-1], [*proof, roots[1]], list(reversed(proof)), [*proof[:-1], roots[0]]):
                if bad != proof:
                    with pytest.raises(VerificationError, match="inclusion proof: "):
                        verify_inclusion(leaves[index], index, size, bad, roots[size])
        for old in range(1, size + 1):
            proof = build_consistency_proof(leaves[:size], old)
            verify_consistency(old, size, proof, roots[old], roots[size])
            for bad in (proof[:-1], [*proof, roots[1]], list(reversed(proof))):
                if bad != proof:
                    with pytest.raises(VerificationError, match="consistency proof: "):
                        verify_consistency(old, size, bad, roots[old], roots[size])
            with pytest.raises(VerificationError, match="consistency proof: "):
                verify_consistency(old, size, proof, roots[0], roots[size])


@given(size=st.integers(2, 40), data=st.data())
def test_another_leaf_index_or_root_is_refused(size: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]
    index, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    proof, root = build_inclusion_proof(leaves, index), compute_root(leaves)
    with pytest.raises(VerificationError, match="inclusion proof: "):
        verify_inclusion(leaves[other], index, size, proof, root)
    with pytest.raises(VerificationError, match="inclusion proof: "):
        verify_inclusion(leaves[index], other, size, proof, root)
    with pytest.raises(VerificationError, match="inclusion proof: "):
        verify_inclusion(leaves[index], index, size, proof, leaves[index])


def test_what_there_is_no_proof_of() -> None:
    for index in (-1, 8):
        with pytest.raises(ValueError, match="there is no leaf"):
            build_inclusion_proof(LEAVES, index)
        with pytest.raises(VerificationError, match="there is no leaf"):
            verify_inclusion(LEAVES[0], index, 8, [], EMPTY_ROOT)
    for old in (0, 9):
        with pytest.raises(ValueError, match="continues none of"):
            build_consistency_proof(LEAVES, old)
    with pytest.raises(VerificationError, match="a tree of 8 continues none of 9"):
        verify_consistency(9, 8, [], EMPTY_ROOT, EMPTY_ROOT)
    verify_consistency(0, 8, [], EMPTY_ROOT, compute_root(LEAVES))
    with pytest.raises(VerificationError, match="the trees differ"):
        verify_consistency(8, 8, [], EMPTY_ROOT, compute_root(LEAVES))
    with pytest.raises(VerificationError, match="consistency proof: is empty"):
        verify_consistency(3, 8, [], EMPTY_ROOT, compute_root(LEAVES))
