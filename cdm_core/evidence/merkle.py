"""The Merkle tree of RFC 6962: its root, and proofs that it holds a leaf or continues an earlier tree.

Functions take leaf hashes, `hash_leaf` of what was logged, so that whoever checks needs no leaf. A tree is computed afresh each time: a
ledger of ten thousand events takes some ten milliseconds, and nothing is kept that could disagree with the events.

Proofs are built by the recursive definitions of sections 2.1.1 and 2.1.2, and verified by the iterative algorithms of RFC 9162 sections
2.1.3.2 and 2.1.4.2, which were written independently of them.

References: https://www.rfc-editor.org/rfc/rfc6962, https://www.rfc-editor.org/rfc/rfc9162
"""

import hashlib
from collections.abc import Iterator, Sequence

from cdm_core.errors import VerificationError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def hash_leaf(leaf: bytes) -> bytes:
    """SHA-256(0x00 ‖ leaf)."""
    return hashlib.sha256(b"\0" + leaf).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def compute_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """MTH of section 2.1."""
    if not leaf_hashes:
        return EMPTY_ROOT
    if len(leaf_hashes) == 1:
        return leaf_hashes[0]
    split = _split(len(leaf_hashes))
    return hash_node(compute_root(leaf_hashes[:split]), compute_root(leaf_hashes[split:]))


def iterate_roots(leaf_hashes: Sequence[bytes]) -> Iterator[bytes]:
    """The roots of the trees of the first 0, 1, 2 … leaves, in one pass."""
    yield EMPTY_ROOT
    peaks: list[bytes] = []  # of the full subtrees, the largest first
    for index, leaf_hash in enumerate(leaf_hashes):
        node = leaf_hash
        while index & 1:
            node = hash_node(peaks.pop(), node)
            index >>= 1
        peaks.append(node)
        root = peaks[-1]
        for peak in reversed(peaks[:-1]):
            root = hash_node(peak, root)
        yield root


def build_inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of section 2.1.1: the siblings on the way from a leaf to the root.

    Raises:
        ValueError: no such leaf.
    """
    if not 0 <= index < len(leaf_hashes):
        raise ValueError(f"there is no leaf {index} in a tree of {len(leaf_hashes)}")
    if len(leaf_hashes) == 1:
        return []
    split = _split(len(leaf_hashes))
    if index < split:
        return [*build_inclusion_proof(leaf_hashes[:split], index), compute_root(leaf_hashes[split:])]
    return [*build_inclusion_proof(leaf_hashes[split:], index - split), compute_root(leaf_hashes[:split])]


def build_consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """PROOF of section 2.1.2: that the tree of the first `old_size` leaves is the beginning of this one.

    Raises:
        ValueError: `old_size` is neither above 0 nor at most the tree's size.
    """
    if not 0 < old_size <= len(leaf_hashes):
        raise ValueError(f"a tree of {len(leaf_hashes)} leaves continues none of {old_size}")
    return _subproof(leaf_hashes, old_size, is_whole=True)


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the tree of that size and root holds the leaf at that index (RFC 9162 section 2.1.3.2).

    Raises:
        VerificationError: it isn't shown.
    """
    if not 0 <= index < size:
        raise VerificationError(f"inclusion proof: there is no leaf {index} in a tree of {size}")
    node, last, current = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            raise VerificationError("inclusion proof: too long for the tree")
        if node & 1 or node == last:
            current = hash_node(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = hash_node(current, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or current != root:
        raise VerificationError("inclusion proof: doesn't lead to the tree's root")


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that one tree is the beginning of another (RFC 9162 section 2.1.4.2); an empty tree is the beginning of all.

    Raises:
        VerificationError: it isn't shown.
    """
    if not 0 <= old_size <= new_size:
        raise VerificationError(f"consistency proof: a tree of {new_size} continues none of {old_size}")
    if old_size == 0 or old_size == new_size:
        expected_root = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected_root:
            raise VerificationError("consistency proof: the trees differ, or a proof is given where none is needed")
        return
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        raise VerificationError("consistency proof: is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationError("consistency proof: too long for the trees")
        if node & 1 or node == last:
            old, new = hash_node(sibling, old), hash_node(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = hash_node(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or old != old_root or new != new_root:
        raise VerificationError("consistency proof: doesn't lead from the one root to the other")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _subproof(leaf_hashes: Sequence[bytes], old_size: int, *, is_whole: bool) -> list[bytes]:
    """SUBPROOF of section 2.1.2; `is_whole` says that the verifier knows the root of the old part."""
    if old_size == len(leaf_hashes):
        return [] if is_whole else [compute_root(leaf_hashes)]
    split = _split(len(leaf_hashes))
    if old_size <= split:
        return [*_subproof(leaf_hashes[:split], old_size, is_whole=is_whole), compute_root(leaf_hashes[split:])]
    return [*_subproof(leaf_hashes[split:], old_size - split, is_whole=False), compute_root(leaf_hashes[:split])]
