"""A workspace: where everything lies. The one module that knows folder and file names.

Tracked by git (data by DVC): `params.yaml`, `dvc.yaml`, `dvc.lock`, `data_manifests/`, `data_packs/`, `adapters/`. Ignored by git:
`.lethe/`, which can be deleted and rebuilt except `keys/` and `ledger/`.
"""

from dataclasses import dataclass
from pathlib import Path

from cdm_core.errors import StateError
from cdm_core.settings import Settings, parse_settings


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one workspace, all absolute."""

    root: Path

    @property
    def private(self) -> Path:
        return self.root / ".lethe"

    @property
    def keys(self) -> Path:
        """Signing keys, issuers' public keys and the owner-key secret: never deleted."""
        return self.private / "keys"

    @property
    def ledger(self) -> Path:
        """Events, requests, suppression list and signed audit records: never deleted."""
        return self.private / "ledger"

    @property
    def records(self) -> Path:
        return self.ledger / "records"

    @property
    def checkpoints(self) -> Path:
        return self.private / "checkpoints"

    @property
    def cache(self) -> Path:
        """Generated features, centroids and reference moments, by digest."""
        return self.private / "cache"

    @property
    def report(self) -> Path:
        """What `lethe report` trained and drew: can be made anew."""
        return self.private / "report"

    @property
    def compositions(self) -> Path:
        return self.private / "compositions"

    @property
    def mlflow(self) -> Path:
        return self.private / "mlflow"

    @property
    def prefect(self) -> Path:
        return self.private / "prefect"

    @property
    def dvc_cache(self) -> Path:
        return self.private / "dvc" / "cache"

    @property
    def dvc_remote(self) -> Path:
        return self.private / "dvc" / "remote"

    @property
    def inbox(self) -> Path:
        return self.private / "inbox"

    @property
    def manifests(self) -> Path:
        return self.root / "data_manifests"

    def manifest(self, shard: int) -> Path:
        return self.manifests / f"shard-{shard}.parquet"

    def packs(self, shard: int) -> Path:
        """One tar an owner, `<owner key>.tar`, with members `<sample id>.png`."""
        return self.root / "data_packs" / f"shard-{shard}"

    def adapter(self, shard: int) -> Path:
        return self.root / "adapters" / f"shard-{shard}.safetensors"

    def settings(self) -> Settings:
        """The parsed `params.yaml`."""
        path = self.root / "params.yaml"
        return parse_settings(path.read_bytes(), str(path))


def open_workspace(directory: Path) -> Workspace:
    """The workspace at `directory`.

    Raises:
        StateError: there is none.
    """
    root = directory.resolve()
    if not (root / "params.yaml").is_file() or not (root / ".lethe" / "keys").is_dir():
        raise StateError(f"{root}: not a Lethe workspace; make one with: lethe init {directory}")
    return Workspace(root)
