"""The store of stage checkpoints: adapter bytes under the key of everything they are a function of.

A key's entry is two files, `<key>.safetensors` and `<key>.json` with the digest of the first; the JSON is written last, so that an
entry without it was never finished. Reading verifies the digest: a damaged or altered checkpoint is refused, not used.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cdm_core.digests import Digest, canonical_json, sha256_digest
from cdm_core.errors import VerificationError
from tasks.files import write_atomically


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Checkpoints under one folder, made when first written to."""

    folder: Path

    def has(self, key: Digest) -> bool:
        """Whether the key's entry is whole."""
        return self._entry(key).is_file() and self._content(key).is_file()

    def digest(self, key: Digest) -> Digest:
        """The adapter digest stored under the key.

        Raises:
            VerificationError: the entry is damaged.
        """
        try:
            return Digest(json.loads(self._entry(key).read_bytes())["adapter"])
        except (ValueError, KeyError, TypeError) as error:
            raise VerificationError(f"checkpoint {key[:12]}: its entry is damaged; delete it and run again") from error

    def read(self, key: Digest) -> bytes:
        """The adapter's bytes.

        Raises:
            VerificationError: they are not those that were stored.
        """
        content = self._content(key).read_bytes()
        if sha256_digest(content) != self.digest(key):
            raise VerificationError(f"checkpoint {key[:12]}: its bytes are not those that were stored; delete it and run again")
        return content

    def path(self, key: Digest) -> Path:
        """The adapter's file."""
        return self._content(key)

    def write(self, key: Digest, content: bytes, *, shard: int, stage: int) -> None:
        """Store an adapter under its key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._content(key), content)
        write_atomically(self._entry(key), canonical_json({"adapter": sha256_digest(content), "shard": shard, "stage": stage}))

    def entries(self) -> dict[Digest, dict[str, object]]:
        """Every whole entry: key → adapter digest, shard and stage."""
        return {Digest(path.stem): json.loads(path.read_bytes()) for path in sorted(self.folder.glob("*.json"))}

    def erase_shards(self, shards: Collection[int], *, keep: Collection[Digest]) -> int:
        """Delete every checkpoint of these shards but `keep`, and what a crash left unfinished; returns how many entries went.

        Other shards keep theirs, whatever their keys: a newer Lethe computes other keys, and what serves must not be lost by that.

        Raises:
            VerificationError: one is still there.
        """
        doomed = {key for key, entry in self.entries().items() if entry["shard"] in shards and key not in keep}
        unfinished = [path for path in self.folder.glob("*") if not path.with_suffix(".json").is_file() or path.name.startswith(".")]
        for path in [*unfinished, *(file for key in doomed for file in (self._content(key), self._entry(key)))]:
            path.unlink(missing_ok=True)
        remaining = [path.name for path in self.folder.glob("*") if path.stem in doomed]
        if remaining:
            raise VerificationError(f"checkpoints: {remaining[0]} is still there after its erasure")
        return len(doomed)

    def _entry(self, key: Digest) -> Path:
        return self.folder / f"{key}.json"

    def _content(self, key: Digest) -> Path:
        return self.folder / f"{key}.safetensors"
