import pytest

from cdm_core.digests import keyed_hash, sha256_digest
from tasks.deletion.suppression import suppression_hash
from tasks.workspace import Workspace

SECRET = bytes(range(32))
SAMPLE = sha256_digest(b"a picture")


@pytest.fixture
def ws(tmp_path: object) -> Workspace:
    made = Workspace(tmp_path)  # type: ignore[arg-type]  # pytest's path
    made.keys.mkdir(parents=True)
    (made.keys / "owner-secret").write_bytes(SECRET.hex().encode())
    return made


def test_the_list_holds_keyed_hashes_that_give_no_sample_back(ws: Workspace) -> None:
    listed = suppression_hash(ws, SAMPLE)
    assert listed == suppression_hash(ws, SAMPLE) == keyed_hash(SECRET, "suppressed", SAMPLE)
    assert SAMPLE not in listed
    assert listed != keyed_hash(SECRET, "owner", SAMPLE)  # no owner key can be taken for it
    assert listed != suppression_hash(ws, sha256_digest(b"another picture"))


def test_another_workspace_has_other_hashes(ws: Workspace) -> None:
    before = suppression_hash(ws, SAMPLE)
    (ws.keys / "owner-secret").write_bytes(SECRET[::-1].hex().encode())
    assert suppression_hash(ws, SAMPLE) != before
