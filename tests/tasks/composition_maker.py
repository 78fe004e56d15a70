"""Adapters, compositions and versions for tests of the registry."""

from dataclasses import dataclass, field
from pathlib import Path

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Digest, sha256_digest
from cdm_core.settings import SamplingSettings
from tasks.evidence.audit_log import open_run
from tasks.models.model_registry import Purpose, register_composition
from tasks.workspace import Workspace


@dataclass
class CompositionMaker:
    """Adapters and compositions of a workspace; an adapter's content is its name, which is all that the registry sees of it."""

    ws: Workspace
    paths: dict[Digest, Path] = field(default_factory=dict)

    def adapter(self, content: str) -> Digest:
        """Store an adapter file; give its digest."""
        digest = sha256_digest(content.encode())
        path = self.ws.root / "adapters" / f"{digest}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
        self.paths[digest] = path
        return digest

    def composition(self, *adapters: str) -> Composition:
        """One expert an adapter, shards counting from 0."""
        experts = tuple(
            Expert(shard=shard, adapter=self.adapter(content), samples=10, centroids=self.adapter(f"centroids of {content}"))
            for shard, content in enumerate(adapters)
        )
        sampling = SamplingSettings(steps=2, guidance_scale=1.0, method="shard_per_image")
        return Composition(backbone=sha256_digest(b"backbone"), experts=experts, sampling=sampling, knn_temperature=0.05)

    def adapters_of(self, composition: Composition) -> dict[int, Path]:
        """The files, by shard."""
        return {expert.shard: self.paths[expert.adapter] for expert in composition.experts}

    def centroids_of(self, composition: Composition) -> dict[int, Path]:
        """Likewise."""
        return {expert.shard: self.paths[expert.centroids] for expert in composition.experts}

    def register(self, *adapters: str, step_key: str, purpose: Purpose = "build") -> int:
        """Register a composition of these adapters from a run of its own; give the version."""
        composition = self.composition(*adapters)
        return register_composition(
            self.ws,
            composition=composition.to_bytes(),
            adapters=self.adapters_of(composition),
            run_id=open_run(self.ws, name=purpose, step_key=step_key, tags={}),
            purpose=purpose,
            step_key=step_key,
        )
