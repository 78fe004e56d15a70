"""Signed checkpoints: kept, compared with the tree, and written by whoever signs alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from three_events import NOW

from cdm_core.errors import StateError, VerificationError
from cdm_core.evidence.merkle import verify_consistency
from cdm_core.evidence.signed_note import verify_checkpoint, verify_log_proof
from tasks.keys import load_record_keys
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace


def heads(ledger: Ledger) -> list[str]:
    return sorted(path.name for path in (ledger.path.parent / "checkpoints").iterdir())


def test_checkpoints_are_kept_and_consistent(signed: Ledger) -> None:
    keys = load_record_keys(Workspace(signed.path.parents[2]).keys)
    first = verify_checkpoint(signed.sign_checkpoint(), keys)
    signed.append("step", None, {}, NOW)
    signed.append("step", None, {}, NOW)
    second = verify_checkpoint(signed.sign_checkpoint(), keys)
    assert (first.size, second.size, first.origin) == (3, 5, second.origin)
    assert heads(signed) == ["000000000003", "000000000005"]
    assert (signed.path.parent / "checkpoint").read_bytes() == (signed.path.parent / "checkpoints" / "000000000005").read_bytes()
    verify_consistency(3, 5, signed.prove_consistency(3, 5), first.root, second.root)
    with pytest.raises(StateError, match="has 5 events; no proof leads from 3 to 6"):
        signed.prove_consistency(3, 6)


def test_a_proof_of_an_event(signed: Ledger) -> None:
    keys = load_record_keys(Workspace(signed.path.parents[2]).keys)
    signed.append("step", None, {}, NOW)
    proof = signed.prove(2)
    leaf = bytes.fromhex(signed.open_event(2).commitment)
    assert verify_log_proof(proof, leaf, keys).size == 4
    with pytest.raises(StateError, match="there is no event 5"):
        signed.prove(5)
    with pytest.raises(StateError, match="event 5 isn't there or was unlinked"):
        signed.open_event(5)


@pytest.mark.parametrize("then", ["nothing", "other events"])
def test_a_cut_at_the_end_and_a_rollback_are_seen(signed: Ledger, then: str) -> None:
    before = signed.path.read_bytes()
    signed.append("step", None, {"number": 4}, NOW)
    signed.sign_checkpoint()
    signed.path.write_bytes(before)
    message = "4 events were signed, the ledger has 3: it was cut off at the end or put back"
    if then == "other events":
        signed.append("step", None, {"number": 5}, NOW)
        message = "the ledger's first 4 events are not those that were signed"
    with pytest.raises(VerificationError, match=message):
        signed.verify()
    with pytest.raises(VerificationError, match=message):
        signed.sign_checkpoint()


def test_every_changed_byte_of_a_checkpoint_is_refused(signed: Ledger) -> None:
    for path in (signed.path.parent / "checkpoint", signed.path.parent / "checkpoints" / "000000000003"):
        content = path.read_bytes()
        for position in range(len(content)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(VerificationError, match="checkpoint"):
                signed.verify()
        path.write_bytes(content)
    assert signed.verify()


def test_a_missing_or_replayed_checkpoint_is_refused(signed: Ledger) -> None:
    folder = signed.path.parent
    old = (folder / "checkpoint").read_bytes()
    for _ in range(2):
        signed.append("step", None, {}, NOW)
        signed.sign_checkpoint()
    (folder / "checkpoint").write_bytes(old)
    with pytest.raises(VerificationError, match="isn't the last of the signed checkpoints"):
        signed.verify()
    (folder / "checkpoint").unlink()
    with pytest.raises(VerificationError, match="the checkpoint is missing"):
        signed.verify()
    (folder / "checkpoints" / "000000000009").write_bytes(old)
    with pytest.raises(VerificationError, match="holds the checkpoint of another size"):
        signed.verify()


def test_verifying_beside_signing_gives_no_alarm(signed: Ledger) -> None:
    def sign(_: int) -> None:
        ledger = Ledger(Workspace(signed.path.parents[2]))
        ledger.append("step", None, {}, NOW)
        ledger.sign_checkpoint()

    with ThreadPoolExecutor(3) as pool:
        signing = pool.map(sign, range(20))
        verifying = pool.map(lambda _: Ledger(Workspace(signed.path.parents[2])).verify(), range(40))
        assert all(verifying)
        list(signing)


def test_verifying_writes_nothing(signed: Ledger) -> None:
    """Not even where a crash came between the two files of a checkpoint; the next one that is signed mends that."""
    newest = signed.path.with_name("checkpoint")
    before = newest.read_bytes()
    signed.append("step", None, {}, NOW)
    after = signed.sign_checkpoint()
    newest.write_bytes(before)
    assert signed.verify()
    assert newest.read_bytes() == before
    assert signed.sign_checkpoint() == after == newest.read_bytes()
