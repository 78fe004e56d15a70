"""A workspace of nine owners in three shards, and `lethe` run in it: real training, sampling, git, DVC, MLflow and Prefect, with a budget
that is done in seconds.

The owner-key secret is fixed, so that two workspaces give an owner the same key, hence the same shard, and can be compared.
"""

import json
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image, ImageDraw

from cdm_core.digests import sha256_digest
from cdm_core.sharding.partition import Partition, assign, compute_owner_key
from flows.cli import main
from tasks.data.pictures import SourcePicture, encode_png
from tasks.data.workspace_init import create_workspace
from tasks.files import write_atomically
from tasks.keys import create_keys, owner_secret
from tasks.models.tracking import create_tracking
from tasks.workspace import Workspace

SHARDS, STAGES = 3, 2
SECRET = bytes(range(32))
ISSUER = "officer:penelope"
DOMAIN = "@withdrawn.example"
"""Ends every owner id, so that one search finds any of them."""

ARRIVED_AT = datetime(2020, 1, 1, tzinfo=UTC)
_COLOURS = ("crimson", "navy", "olive", "orange", "purple", "teal", "black", "deeppink", "sienna")
_BUDGET = {
    "rank": 4,
    "batch_size": 8,
    "epochs": 1,
    "steps": 2,
    "centroids": 2,
    "samples": 32,
    "blocks": 4,
    "margin": 5.0,
    "membership_samples": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose pictures lie where; `number` makes them differ from everybody else's."""

    owner_id: str
    number: int
    shard: int
    stage: int

    @property
    def key(self) -> str:
        return compute_owner_key(SECRET, self.owner_id)

    @property
    def pictures(self) -> list[SourcePicture]:
        """Three to five of them."""
        return [
            SourcePicture(
                owner_id=self.owner_id,
                tier=self.stage,
                png=draw_picture(self.number, index),
                caption=f"{_COLOURS[self.number % len(_COLOURS)]} thing {index}",
                arrived_at=ARRIVED_AT,
            )
            for index in range(3 + self.number % 3)
        ]

    @property
    def sample_ids(self) -> list[str]:
        return [sha256_digest(picture.png) for picture in self.pictures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command did, as a shell would see it."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        document: dict[str, Any] = json.loads(self.out)
        return document


def draw_picture(number: int, index: int) -> bytes:
    """A shape of the owner's colour; no two of (number, index) are alike."""
    image = Image.new("RGB", (32, 32), "white")
    pen = ImageDraw.Draw(image)
    box = (3 + index, 3 + number % 8, 20 + index, 22 + number % 8)
    (pen.ellipse, pen.rectangle)[index % 2](box, fill=_COLOURS[number % len(_COLOURS)], outline="black")
    pen.point((number, 31), fill="black")
    return encode_png(image)


def find_owners() -> list[Owner]:
    """Four owners in shard 0, three in shard 1, two in shard 2; every stage has one at least."""
    owners: list[Owner] = []
    wanted = {0: [0, 0, 1, 1], 1: [0, 1, 1], 2: [0, 1]}
    for number in range(100):
        owner_id = f"designer-{number:02}{DOMAIN}"
        shard, _ = assign(compute_owner_key(SECRET, owner_id), None, Partition(shards=SHARDS, stages=STAGES))
        if wanted[shard]:
            owners.append(Owner(owner_id=owner_id, number=len(owners), shard=shard, stage=wanted[shard].pop(0)))
    assert not any(wanted.values()), "a hundred names fill three shards"
    return owners


OWNERS = find_owners()


def owners_of(shard: int, stage: int | None = None) -> list[Owner]:
    return [owner for owner in OWNERS if owner.shard == shard and stage in (None, owner.stage)]


def make_workspace(directory: Path, *, without: Collection[Owner] = (), settings: Mapping[str, object] | None = None) -> Workspace:
    """A workspace of all owners but some, not built yet, whose requests `ISSUER` may sign."""
    ws = Workspace(directory)
    ws.keys.mkdir(parents=True)
    write_atomically(ws.keys / "owner-secret", SECRET.hex().encode() + b"\n", mode=0o600)
    create_keys(ws)
    pictures = [picture for owner in OWNERS if owner not in without for picture in owner.pictures]
    create_workspace(directory, shards=SHARDS, stages=STAGES, pictures=pictures, secret=owner_secret(ws), progress=lambda done, total: None)
    create_tracking(ws)
    set_parameters(ws, **{**_BUDGET, **(settings or {})})
    lethe(ws, "keys", "add-issuer", ISSUER)
    return ws


def set_parameters(ws: Workspace, **values: object) -> None:
    """Edit lines of `params.yaml`, as a user would."""
    path = ws.root / "params.yaml"
    text = path.read_text()
    for name, value in values.items():
        text, found = re.subn(rf"(?m)^( *{name}:) [^#\n]*", rf"\1 {value} ", text)
        assert found == 1, name
    path.write_text(text)


def lethe(ws: Workspace | None, *arguments: str | Path) -> Ran:
    """Run a command in this process, with `--workspace` and `--json`."""
    command = [*map(str, arguments), *(["--workspace", str(ws.root)] if ws else []), "--json"]
    out, err, before = StringIO(), StringIO(), sys.argv
    try:
        sys.argv = ["lethe", *command]
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as exited:
        code = int(exited.code or 0)
    finally:
        sys.argv = before
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())


def write_request(folder: Path, request_id: str | None = None, **subject: list[str]) -> Path:
    """A request file of our own form; not signed yet."""
    folder.mkdir(parents=True, exist_ok=True)
    request_id = request_id or str(uuid4())
    path = folder / f"{request_id}.json"
    document = {
        "schema": "lethe/deletion-request/v1",
        "request_id": request_id,
        "issuer": ISSUER,
        "regulation": "gdpr",
        "submitted_at": "2026-01-01T00:00:00Z",
        "subject": subject,
        "reason": f"asked by the one called {OWNERS[0].owner_id}",
    }
    path.write_text(json.dumps(document))
    return path


def signed_request(ws: Workspace, folder: Path, request_id: str | None = None, **subject: list[str]) -> Path:
    """A request file that `ISSUER` signed in the workspace."""
    path = write_request(folder, request_id, **subject)
    assert lethe(ws, "sign", path, "--issuer", ISSUER).code == 0
    return path
