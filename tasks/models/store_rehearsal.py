"""A rehearsal for the process that waits to run a flow: libraries import and find out much at their first call, so each store is used once.

What is made is a workspace of one grey picture that belongs to nobody, in a folder that the caller throws away.
"""

import io
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from tasks.data.data_versions import commit_data, require_committed
from tasks.data.manifest_store import load_manifest
from tasks.data.pictures import SourcePicture
from tasks.data.samples import remove_samples
from tasks.data.workspace_init import create_workspace
from tasks.deletion.erasure import erase_objects, objects_to_erase
from tasks.evidence.audit_log import open_run
from tasks.keys import create_keys, owner_secret
from tasks.models.compositions import compose
from tasks.models.model_registry import champion, register_composition
from tasks.models.tracking import create_tracking
from tasks.workspace import Workspace


def rehearse_stores(folder: Path) -> None:
    """A workspace of one grey picture in an empty folder: versioned by git and DVC, registered with MLflow, erased."""
    ws = Workspace(folder)
    create_keys(ws)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(picture, format="PNG")
    grey = SourcePicture(owner_id="nobody", tier=None, png=picture.getvalue(), caption="", arrived_at=datetime(2026, 1, 1, tzinfo=UTC))
    create_workspace(folder, shards=1, stages=1, pictures=[grey], secret=owner_secret(ws), progress=lambda done, of: None)
    create_tracking(ws)
    require_committed(ws, [0])
    composition = compose(ws.settings(), []).to_bytes()
    run_id = open_run(ws, name="rehearsal", step_key="run", tags={})
    register_composition(ws, composition=composition, adapters={}, centroids={}, run_id=run_id, purpose="stop", step_key="rehearsal")
    champion(ws)
    hits = load_manifest(ws, 0)
    commit_data(ws, remove_samples(ws, hits), "Rehearse")
    erase_objects(ws, objects_to_erase(ws, hits))
