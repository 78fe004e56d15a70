"""Replaying a record: its data revision out of a clone and the stores that the clone knows, trained again from nothing in a scratch.

1. Read what the record claims: data revision, retrained shards, the digests of keys, adapters, manifests and the composition.
2. Put parameters, packs and manifests of the retrained shards, as of that revision, into an empty workspace. Objects are read from the
   clone's DVC cache and remotes by their ids and checked against them; neither the clone's checkout nor its stores are changed.
3. Train there (`tasks.training.shard_training`): its checkpoint store is empty, so every stage is trained.
4. Compose from what came out and, for the shards that the record left alone, from what it names; compare every digest.

An untouched shard's manifest and adapter are compared as they are stored, if they still are: they were no input of this retraining. An
input that is in no store is looked for in the records that follow: a later deletion from its shard erases it, and that is said.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdm_core.composition.document import Expert
from cdm_core.digests import Digest, Json, json_digest, sha256_digest
from cdm_core.documents import describe_problem
from cdm_core.errors import InvalidInputError
from cdm_core.evidence.envelopes import VerifiedStatement
from cdm_core.evidence.replay import Made, MissingInput, ReplayResult, compare_replay
from tasks.data.data_history import outputs_at
from tasks.data.git import run_git
from tasks.deletion.erasure import DataStore, open_stores
from tasks.evidence.records import SignedRecord
from tasks.files import write_atomically
from tasks.models.compositions import compose
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.training.shard_training import TrainedShard
from tasks.workspace import Workspace


class _Part(BaseModel):
    adapter: Digest
    samples: int = Field(ge=1)
    centroids: Digest | None = None


class _Artifact(BaseModel):
    path: str
    digest: Digest


class _Claims(BaseModel):
    """What is read of a build's or decision's predicate; the rest isn't a digest of what was trained."""

    model_config = ConfigDict(frozen=True)

    kind: str
    composition: Digest
    fingerprint: dict[str, object]
    # Hexadecimal and nothing else, since it is handed to git.
    dvc_revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    dvc_revision_after: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    adapters: dict[int, _Part]
    checkpoints: dict[int, list[Digest]] = Field(min_length=1)
    clean_checkpoints: dict[int, Digest | None] | None = None
    artifacts: list[_Artifact] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTask:
    """What is to be replayed: the record, its claims, and where its data is looked for."""

    record: SignedRecord
    source: Workspace
    claims: _Claims
    revision: str

    @property
    def shards(self) -> list[int]:
        """The shards that the record retrained."""
        return sorted(self.claims.checkpoints)

    @property
    def fingerprints(self) -> tuple[Digest, Digest]:
        """The record's and this machine's."""
        return json_digest(self.claims.fingerprint), measure_own_fingerprint().digest  # type: ignore[arg-type]  # it came out of JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The scratch's contents: which retrained shards have all their inputs, what is missing, and stored digests by path."""

    shards: tuple[int, ...]
    missing_inputs: tuple[MissingInput, ...]
    stored: Mapping[str, Digest]


def read_task(record: SignedRecord, source: Workspace) -> ReplayTask:
    """What a record asks to be replayed.

    Raises:
        InvalidInputError: it names no retraining, or not in a form that this version knows.
    """
    if not names_retraining(record.statement):
        kind = record.statement.predicate.get("kind")
        raise InvalidInputError(f"{record.path}: a {kind} record names no retraining; replay a build or decision record")
    try:
        claims = _Claims.model_validate(record.statement.predicate)
    except ValidationError as error:
        raise InvalidInputError(f"{record.path}: names its retraining in an unknown form: {describe_problem(error)}") from error
    revision = claims.dvc_revision_after or claims.dvc_revision
    if revision is None:
        raise InvalidInputError(f"{record.path}: names no data revision")
    return ReplayTask(record=record, source=source, claims=claims, revision=revision)


def names_retraining(statement: VerifiedStatement) -> bool:
    """Whether a record says what was trained."""
    return bool(statement.predicate.get("checkpoints"))


def differing_parts(task: ReplayTask) -> list[str]:
    """In which parts the record's fingerprint is not this machine's, by name."""
    here, there = asdict(measure_own_fingerprint()), task.claims.fingerprint
    return sorted(name for name in {*here, *there} if here.get(name) != there.get(name))


def prepare_scratch(task: ReplayTask, scratch: Workspace) -> Prepared:
    """Fill an empty folder with the parameters and the retrained shards' data, as of the record's revision.

    Raises:
        StateError: the clone is no git and DVC repository.
    """
    if not _has_revision(task):
        reason = "the clone has no such revision; get it with: git fetch"
        return Prepared(shards=(), missing_inputs=(MissingInput(path=f"git:{task.revision}", reason=reason, erased_by=None),), stored={})
    parameters = run_git(task.source.root, "show", f"{task.revision}:params.yaml")
    write_atomically(scratch.root / "params.yaml", parameters.encode())
    object_ids = outputs_at(task.source, task.revision)
    missing: list[MissingInput] = []
    complete: list[int] = []
    with open_stores(task.source) as stores:
        for shard in task.shards:
            lacking = _fetch_shard(task, stores, object_ids, scratch, shard)
            missing += lacking
            complete += [] if lacking else [shard]
        stored = _stored_artifacts(task, stores, object_ids)
    return Prepared(shards=tuple(complete), missing_inputs=tuple(missing), stored=stored)


def compare_task(
    task: ReplayTask, prepared: Prepared, scratch: Workspace, trained: Sequence[TrainedShard], centroids: Mapping[int, Digest]
) -> ReplayResult:
    """Compare everything that the record names with what was stored, trained and computed."""
    made = {f"artifacts.{path}": Made(digest=digest, how="stored") for path, digest in prepared.stored.items()}
    for shard in trained:
        made |= _made_by(task, shard, centroids[shard.shard])
        manifest = _relative(scratch, scratch.manifest(shard.shard))
        made[f"artifacts.{manifest}"] = Made(digest=sha256_digest((scratch.root / manifest).read_bytes()), how="stored")
    for number in set(task.claims.adapters) - set(task.claims.checkpoints):
        if (artifact := _adapter_artifact(number)) in made:
            made[f"adapters.{number}"] = made[artifact]
    if _can_compose(task, trained):
        composition = Made(digest=_compose(task, scratch, trained, centroids), how="recomputed")
        made |= dict.fromkeys(["composition", *_subjects(task)], composition)
    named = _named(task)
    return compare_replay(named, made, _reasons(task, named), prepared.missing_inputs, task.fingerprints)


def _made_by(task: ReplayTask, shard: TrainedShard, centroids: Digest) -> dict[str, Made]:
    """What training one shard made, by the names under which the record has it."""
    claimed, number = task.claims.checkpoints[shard.shard], shard.shard
    # A key that the record has and the chain hasn't is compared with nothing, and differs.
    keys = [*shard.chain, *[Digest("")] * len(claimed)]
    made = {f"checkpoints.{number}.{stage}": Made(digest=keys[stage], how="recomputed") for stage in range(len(claimed))}
    clean = (task.claims.clean_checkpoints or {}).get(number)
    # A clean checkpoint is a key of the chain that leaves the data out, after whichever stage.
    made[f"clean_checkpoints.{number}"] = Made(digest=clean if clean in shard.chain else shard.chain[0], how="recomputed")
    made[f"adapters.{number}.centroids"] = Made(digest=centroids, how="recomputed")
    made[f"adapters.{number}"] = made[_adapter_artifact(number)] = Made(digest=shard.adapter, how="retrained")
    return made


def _can_compose(task: ReplayTask, trained: Sequence[TrainedShard]) -> bool:
    """Whether all that was retrained is there, and the record says enough about the rest (those of version 0.1 named no centroids)."""
    is_whole = {shard.shard for shard in trained} == set(task.shards)
    return is_whole and all("centroids" in part.model_fields_set for part in task.claims.adapters.values())


def _compose(task: ReplayTask, scratch: Workspace, trained: Sequence[TrainedShard], centroids: Mapping[int, Digest]) -> Digest:
    """The composition of what was retrained and, as the record names it, of what was not."""
    experts = [
        Expert(shard=shard.shard, adapter=shard.adapter, samples=shard.samples, centroids=centroids[shard.shard]) for shard in trained
    ]
    experts += [
        Expert(shard=shard, adapter=part.adapter, samples=part.samples, centroids=part.centroids)
        for shard, part in task.claims.adapters.items()
        if shard not in task.claims.checkpoints
    ]
    return compose(scratch.settings(), experts).digest


def skip_task(task: ReplayTask) -> ReplayResult:
    """The result under another fingerprint: nothing is trained, since nothing could be compared."""
    named = _named(task)
    reason = f"the record was made under another fingerprint; it differs in: {', '.join(differing_parts(task))}"
    return compare_replay(named, {}, dict.fromkeys(named, reason), (), task.fingerprints)


def _named(task: ReplayTask) -> dict[str, Digest]:
    """Every digest that the record names, by what it is of."""
    claims = task.claims
    named: dict[str, Digest] = {}
    for shard, part in sorted(claims.adapters.items()):
        named[f"adapters.{shard}"] = part.adapter
        if part.centroids is not None and shard in claims.checkpoints:
            named[f"adapters.{shard}.centroids"] = part.centroids
    for shard, chain in sorted(claims.checkpoints.items()):
        named |= {f"checkpoints.{shard}.{stage}": key for stage, key in enumerate(chain)}
    named |= {f"clean_checkpoints.{shard}": key for shard, key in sorted((claims.clean_checkpoints or {}).items()) if key is not None}
    named |= {f"artifacts.{artifact.path}": artifact.digest for artifact in claims.artifacts}
    named["composition"] = claims.composition
    return named | _subjects(task)


def _subjects(task: ReplayTask) -> dict[str, Digest]:
    subjects = task.record.statement.statement["subject"]
    assert isinstance(subjects, Sequence)  # verified with the statement
    return {f"subject.{name}": Digest(digest) for name, digest in map(_read_subject, subjects)}


def _read_subject(subject: Json) -> tuple[str, str]:
    match subject:
        case {"name": str(name), "digest": {"sha256": str(digest)}}:
            return name, digest
        case _:
            raise InvalidInputError("record: a subject without a name and a SHA-256 digest")


def _reasons(task: ReplayTask, named: Mapping[str, Digest]) -> dict[str, str]:
    """Why a name wasn't made, should it not have been."""
    untouched = "not retrained by this record, and no longer stored"
    reasons = dict.fromkeys(named, "its inputs are missing")
    if not all("centroids" in part.model_fields_set for part in task.claims.adapters.values()):
        reasons |= dict.fromkeys(["composition", *_subjects(task)], "the record names no centroids, which a composition's digest covers")
    for shard in task.claims.adapters:
        if shard not in task.claims.checkpoints:
            manifest = f"artifacts.{_relative(task.source, task.source.manifest(shard))}"
            reasons |= dict.fromkeys([f"adapters.{shard}", _adapter_artifact(shard), manifest], untouched)
    return reasons


def _adapter_artifact(shard: int) -> str:
    ws = Workspace(Path("/"))
    return f"artifacts.{_relative(ws, ws.adapter(shard))}"


def _relative(ws: Workspace, path: Path) -> str:
    return path.relative_to(ws.root).as_posix()


def _has_revision(task: ReplayTask) -> bool:
    # Not `cat-file -e`, which can't be told from git's other failures.
    known = run_git(task.source.root, "rev-list", "--all", "--reflog", "HEAD").split()
    return task.revision in known


def _fetch_shard(
    task: ReplayTask, stores: list[DataStore], object_ids: Mapping[str, str], scratch: Workspace, shard: int
) -> list[MissingInput]:
    """Put a shard's packs and manifest into the scratch; what isn't to be had."""
    missing = []
    for path in (scratch.packs(shard), scratch.manifest(shard)):
        name = _relative(scratch, path)
        if (reason := _fetch(stores, object_ids.get(name), path)) is not None:
            eraser = _find_eraser(task, shard, name)
            reason = f"{reason}; a later deletion from shard {shard} erased it" if eraser else reason
            missing.append(MissingInput(path=name, reason=reason, erased_by=eraser))
    return missing


def _fetch(stores: list[DataStore], object_id: str | None, path: Path) -> str | None:
    """Write an object, or the files that a directory object lists, to `path`; why not, if it can't be done."""
    if object_id is None:
        return "the revision has no such file"
    content = _read_object(stores, object_id)
    if isinstance(content, str):
        return content
    if not object_id.endswith(".dir"):
        write_atomically(path, content)
        return None
    path.mkdir(parents=True)
    for entry in json.loads(content):
        # A pack's name is a key and a suffix; anything with a folder in it would leave the scratch.
        if (name := str(entry["relpath"])) != Path(name).name:
            return f"lists {name!r}, which is no pack's name"
        member = _read_object(stores, str(entry["md5"]))
        if isinstance(member, str):
            return f"{name}: {member}"
        write_atomically(path / name, member)
    return None


def _read_object(stores: list[DataStore], object_id: str) -> bytes | str:
    """The content of an object that is what its id says, or why there is none."""
    found = [content for store in stores if (content := store.find(object_id)) is not None]
    intact = (content for content in found if hashlib.md5(content, usedforsecurity=False).hexdigest() == object_id.removesuffix(".dir"))
    if (content := next(intact, None)) is not None:
        return content
    return "damaged in the stores that this clone knows" if found else "in no store that this clone knows"


def _stored_artifacts(task: ReplayTask, stores: list[DataStore], object_ids: Mapping[str, str]) -> dict[str, Digest]:
    """Digests of what the stores hold of untouched shards' manifests and adapters, as far as the record names them."""
    retrained = {_adapter_artifact(shard) for shard in task.shards}
    retrained |= {f"artifacts.{_relative(task.source, task.source.manifest(shard))}" for shard in task.shards}
    stored = {}
    for artifact in task.claims.artifacts:
        if f"artifacts.{artifact.path}" not in retrained and artifact.path in object_ids:
            content = _read_object(stores, object_ids[artifact.path])
            if not isinstance(content, str):
                stored[artifact.path] = sha256_digest(content)
    return stored


def _find_eraser(task: ReplayTask, shard: int, path: str) -> str | None:
    """The later record that closes a deletion from the shard (or decides on it, or the revision that removes samples from it)."""
    later = {name: statement.predicate for name, statement in task.record.later.items()}
    for name, predicate in later.items():
        if shard in _planned_shards(predicate) and (revision := predicate.get("dvc_revision_after")):
            closing = (
                other for other, said in later.items() if said.get("kind") == "closing" and said.get("dvc_revision_after") == revision
            )
            return next(closing, name)
    if not _has_revision(task):
        return None
    log = run_git(task.source.root, "log", "--reverse", "--format=%H %s", "--all", "--not", task.revision, "--", f"{path}.dvc")
    return next((f"revision {line.split()[0]}" for line in log.splitlines() if line.partition(" ")[2].startswith("Remove ")), None)


def _planned_shards(predicate: Mapping[str, Json]) -> set[int]:
    """The shards that a record's deletion plan hits."""
    plan = predicate.get("plan")
    rows = plan.get("shards", []) if isinstance(plan, Mapping) else []
    rows = rows if isinstance(rows, Sequence) else []
    return {int(str(row["shard"])) for row in rows if isinstance(row, Mapping) and "shard" in row}
