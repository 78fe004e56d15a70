"""The store of stage checkpoints: adapter bytes under the key of everything they are a function of.

A key's entry is two files, `<key>.safetensors` and `<key>.json` with the digest of the first; the JSON is written last, so that an
entry without it was never finished. The JSON names its key, too. Reading verifies key and digest: a damaged or altered checkpoint, or one
that was put in another's place, is refused, not used. An entry that an older Lethe wrote names no key: it is kept as long as something
refers to its adapter, and its stage is trained again.

The JSON also holds the parts of the key (`cdm_core.stage_origin`) and, in `why`, how they differed from what the store held when the
checkpoint was made: after an erasure there is nothing left to compare with. Counts and digests, never a sample id. And `seconds`, what
training the stage took: a training that is cut short and gone on with couldn't tell otherwise.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cdm_core.digests import Digest, Json, canonical_json, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.stage_origin import StageOrigin, explain_rebuild
from tasks.files import write_atomically


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Checkpoints under one folder, made when first written to."""

    folder: Path

    def has(self, key: Digest) -> bool:
        """Whether the key's entry is whole, and says that it is the key's.

        Raises:
            VerificationError: the entry is damaged, or another key's.
        """
        return self._entry(key).is_file() and self._content(key).is_file() and "key" in self._read_entry(key)

    def digest(self, key: Digest) -> Digest:
        """The adapter digest stored under the key.

        Raises:
            VerificationError: the entry is damaged, another key's, or doesn't say whose it is.
        """
        entry = self._read_entry(key)
        if "key" not in entry:
            raise VerificationError(f"checkpoint {key[:12]}: its entry names no key; delete it and run again")
        return Digest(str(entry["adapter"]))

    def read(self, key: Digest) -> bytes:
        """The adapter's bytes.

        Raises:
            VerificationError: they are not those that were stored, or the entry isn't the key's.
        """
        try:
            content = self._content(key).read_bytes()
        except OSError as error:
            raise VerificationError(f"checkpoint {key[:12]}: can't be read; delete it and run again") from error
        if sha256_digest(content) != self.digest(key):
            raise VerificationError(f"checkpoint {key[:12]}: its bytes are not those that were stored; delete it and run again")
        return content

    def seconds(self, key: Digest) -> float:
        """How long the adapter took to train; nothing where its entry doesn't tell, since an earlier release made it."""
        seconds = self._read_entry(key).get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def path(self, key: Digest) -> Path:
        """The adapter's file."""
        return self._content(key)

    def write(
        self, key: Digest, content: bytes, *, shard: int, stage: int, origin: StageOrigin | None = None, seconds: float | None = None
    ) -> None:
        """Store an adapter under its key, with what it was made of and how long that took."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entry: dict[str, Json] = {"key": key, "adapter": sha256_digest(content), "shard": shard, "stage": stage}
        if origin is not None:
            entry |= {"origin": asdict(origin), "why": explain_rebuild(origin, self.origins(shard, stage))}
        if seconds is not None:
            entry["seconds"] = seconds
        write_atomically(self._content(key), content)
        write_atomically(self._entry(key), canonical_json(entry))

    def origins(self, shard: int, stage: int) -> list[StageOrigin]:
        """What the kept checkpoints of a shard's stage were made of, as far as their entries say it in this version's terms."""
        entries = (entry for entry in self.entries().values() if (entry["shard"], entry["stage"]) == (shard, stage))
        names = {part.name for part in fields(StageOrigin)}
        return [StageOrigin(**origin) for entry in entries if isinstance(origin := entry.get("origin"), dict) and set(origin) == names]

    def size(self, key: Digest) -> int:
        """Bytes of an entry's two files."""
        return sum(path.stat().st_size for path in (self._content(key), self._entry(key)) if path.is_file())

    def collect(self, keep: Collection[Digest]) -> tuple[int, int]:
        """Delete all entries but those of `keep`, and what a crash left unfinished; returns how many entries went and their bytes.

        Call it while nothing trains in the workspace, or an entry that is half written goes too.

        Raises:
            VerificationError: an entry is damaged, or something can't be deleted.
        """
        doomed = [key for key in self.entries() if key not in keep]
        num_bytes = sum(self.size(key) for key in doomed)
        for path in [*self._unfinished(), *(file for key in doomed for file in (self._entry(key), self._content(key)))]:
            _delete(path)
        return len(doomed), num_bytes

    def entries(self) -> dict[Digest, dict[str, object]]:
        """Every entry: key → adapter digest, shard and stage; `key`, `origin` and `why` in those that tell.

        Raises:
            VerificationError: one is damaged, or another key's.
        """
        return {Digest(path.stem): self._read_entry(Digest(path.stem)) for path in sorted(self.folder.glob("*.json"))}

    def erase_shards(self, shards: Collection[int], *, keep: Collection[Digest]) -> int:
        """Delete every checkpoint of these shards but `keep`, and what a crash left unfinished; returns how many entries went.

        Other shards keep theirs, whatever their keys: a newer Lethe computes other keys, and what serves must not be lost by that.

        Raises:
            VerificationError: one is damaged, or still there.
        """
        doomed = {key for key, entry in self.entries().items() if entry["shard"] in shards and key not in keep}
        for path in [*self._unfinished(), *(file for key in doomed for file in (self._content(key), self._entry(key)))]:
            _delete(path)
        remaining = [path.name for path in self.folder.glob("*") if path.stem in doomed]
        if remaining:
            raise VerificationError(f"checkpoints: {remaining[0]} is still there after its erasure")
        return len(doomed)

    def _read_entry(self, key: Digest) -> dict[str, object]:
        try:
            entry: dict[str, object] = json.loads(self._entry(key).read_bytes())
            _require_types(entry)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise VerificationError(f"checkpoint {key[:12]}: its entry is damaged; delete it and run again") from error
        if entry.get("key", key) != key:
            raise VerificationError(f"checkpoint {key[:12]}: its entry is another checkpoint's; delete it and run again")
        return entry

    def _unfinished(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.with_suffix(".json").is_file() or path.name.startswith(".")]

    def _entry(self, key: Digest) -> Path:
        return self.folder / f"{key}.json"

    def _content(self, key: Digest) -> Path:
        return self.folder / f"{key}.safetensors"


def _require_types(entry: dict[str, object]) -> None:
    """Raise what `_read_entry` calls damage."""
    if not isinstance(entry, dict) or not isinstance(entry["adapter"], str):
        raise TypeError("a value of another type")
    origin = entry.get("origin")
    numbers = [entry["shard"], entry["stage"], *([origin["num_samples"]] if isinstance(origin, dict) and "num_samples" in origin else [])]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("a value of another type")


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise VerificationError(f"checkpoints: {path.name}: can't be deleted: {error.strerror}") from error
