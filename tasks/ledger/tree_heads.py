"""The signed checkpoints of a ledger: `checkpoint` is the newest, `checkpoints/<size>` keeps them all.

A checkpoint binds the key's holder to the first `size` events. `check_heads` finds a ledger that no longer begins with what was signed:
an event edited, taken out, cut off at the end, or the whole file put back to an earlier state. Someone who removes the checkpoints too
isn't found here, but by whoever keeps a receipt or a record: both name a checkpoint or a root.

Events are read and compared with the checkpoints, or signed, while `heads_lock` is held: a checkpoint that another process signs in between
would say of events that weren't read yet that they were cut off.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.errors import VerificationError
from cdm_core.evidence.signed_note import Checkpoint, sign_checkpoint, verify_checkpoint
from tasks.files import write_atomically
from tasks.keys import load_record_keys, workspace_signer
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace


@contextmanager
def heads_lock(ws: Workspace) -> Iterator[None]:
    """Keep others from signing a checkpoint."""
    ws.ledger.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(ws.ledger / ".checkpoint.lock"):
        yield


def sign_head(ws: Workspace, roots: Sequence[bytes]) -> bytes:
    """Sign the tree of all leaves, or return the checkpoint that stands for it; `roots` holds the root at every size from 0 on.

    Call it under the `heads_lock` under which the roots were read.

    Raises:
        VerificationError: the tree doesn't continue what was signed before, which a log must never sign.
        StateError: the key is missing.
    """
    heads, size = check_heads(ws, roots), len(roots) - 1
    if heads and heads[-1].size == size:
        content = (_folder(ws) / f"{size:012d}").read_bytes()
        if _newest(ws).read_bytes() != content:  # a crash came between the two files
            write_atomically(_newest(ws), content)
        return content
    signer = workspace_signer(ws)
    # The log keeps its first name, so that a new key doesn't make another log of it.
    origin = heads[0].origin if heads else f"lethe.dev/log/{signer.public_key.keyid[:16]}"
    content = sign_checkpoint(Checkpoint(origin=origin, size=size, root=roots[size]), signer)
    write_atomically(_folder(ws) / f"{size:012d}", content)
    write_atomically(_newest(ws), content)
    return content


def check_heads(ws: Workspace, roots: Sequence[bytes]) -> list[Checkpoint]:
    """All checkpoints, the smallest first, each of which the tree must continue; call it under `heads_lock`.

    Raises:
        VerificationError: one isn't signed by the workspace, or the tree doesn't begin with what it says.
    """
    paths = sorted(_folder(ws).glob("[0-9]*"))
    if not paths and not _newest(ws).exists():
        return []
    keys, heads = load_record_keys(ws.keys), []
    for path in paths:
        head = _read_head(path, keys)
        if path.name != f"{head.size:012d}":
            raise VerificationError(f"{path}: holds the checkpoint of another size")
        _check_head(path, head, roots)
        heads.append(head)
    newest = _read_head(_newest(ws), keys)
    _check_head(_newest(ws), newest, roots)
    # A crash between the two files leaves the history one ahead.
    if newest not in heads[-2:]:
        raise VerificationError(f"{_newest(ws)}: isn't the last of the signed checkpoints")
    if len({head.origin for head in heads}) > 1:
        raise VerificationError(f"{_folder(ws)}: checkpoints of more than one log")
    return heads


def count_signed(ws: Workspace, keys: Sequence[Key]) -> int:
    """How many events the largest checkpoint that one of the keys signed is over; 0 where there is none."""
    sizes = [0]
    for path in _folder(ws).glob("[0-9]*"):
        with suppress(OSError, VerificationError):
            sizes.append(verify_checkpoint(path.read_bytes(), keys).size)
    return max(sizes)


def _check_head(path: Path, head: Checkpoint, roots: Sequence[bytes]) -> None:
    if head.size >= len(roots):
        raise VerificationError(
            f"{path}: {head.size} events were signed, the ledger has {len(roots) - 1}: it was cut off at the end or put back"
        )
    if roots[head.size] != head.root:
        raise VerificationError(f"{path}: the ledger's first {head.size} events are not those that were signed")


def _read_head(path: Path, keys: Sequence[Key]) -> Checkpoint:
    try:
        return verify_checkpoint(path.read_bytes(), keys)
    except OSError as error:
        raise VerificationError(f"{path}: the checkpoint is missing") from error
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error


def _folder(ws: Workspace) -> Path:
    return ws.ledger / "checkpoints"


def _newest(ws: Workspace) -> Path:
    return ws.ledger / "checkpoint"
