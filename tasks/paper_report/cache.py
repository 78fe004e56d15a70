"""Where the report keeps what was expensive: adapters, features, pictures. All under one folder of the workspace, by digest.

Everything in it was made from the workspace's data, the paragon from all of it. So a purge erases the whole folder, and nothing may be
written afterwards by a report that began before: each write holds a lock that the purge takes too, and looks first whether the data is
still what the report began with. A purge follows the change of the manifests, so either the write sees that, or the purge sees the write.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdm_core.digests import Digest, json_digest, sha256_digest
from cdm_core.errors import StateError
from cdm_core.sharding.manifests import samples_digest
from tasks.data.manifest_store import load_manifests
from tasks.files import erase_folder, write_atomically
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace

_LOCK = "report.lock"
_SAMPLING_CODE = ("composition/*.py", "methods/*.py", "evaluation/features.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCache:
    """The folder, for the data that the report began with."""

    ws: Workspace
    data: Digest

    @property
    def folder(self) -> Path:
        return self.ws.report

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold this while writing.

        Raises:
            StateError: samples came or went since the report began.
        """
        with exclusive_lock(self.ws.private / _LOCK):
            if data_digest(self.ws) != self.data:
                raise StateError(f"{self.ws.root}: its data changed while the report was made; run again")
            yield

    def write(self, path: Path, content: bytes) -> None:
        """Put a file there, unless the data changed."""
        with self.writing():
            write_atomically(path, content)


def open_cache(ws: Workspace) -> ReportCache:
    """The cache for today's data."""
    return ReportCache(ws=ws, data=data_digest(ws))


def data_digest(ws: Workspace) -> Digest:
    """Names all samples of today, and whose and where they are."""
    return json_digest({str(shard): samples_digest(frame) for shard, frame in load_manifests(ws).items()})


def sampling_code() -> Digest:
    """The bytes of the code that decides what a composition draws; training's are in the adapters' keys."""
    import cdm_core

    folder = Path(str(cdm_core.__file__)).parent
    files = [path for pattern in _SAMPLING_CODE for path in sorted(folder.glob(pattern))]
    return json_digest({path.relative_to(folder).as_posix(): sha256_digest(path.read_bytes()) for path in files})


def erase_report(ws: Workspace) -> int:
    """Erase the folder; returns how many files went."""
    with exclusive_lock(ws.private / _LOCK):
        return erase_folder(ws.report)
