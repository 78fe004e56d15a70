"""`lethe demo`: the whole main job in a new workspace, by the same functions that the commands call."""

import time
from pathlib import Path
from uuid import uuid4

import yaml

from flows.commands import run_add_issuer, run_build, run_init, run_learn, run_plan, run_sign, run_submit, run_verify
from flows.console import say
from flows.generate import run_generate
from tasks.clock import utc_now
from tasks.demo_pictures import draw_shapes

OWNER = "designer-010"


def run_demo(directory: Path) -> dict[str, object]:
    """Init, build, a signed deletion request, plan, submit, verify, a new owner, pictures."""
    started = time.monotonic()
    root = directory.resolve()
    say("1. A workspace: OpenMoji's pictures, each with its designer")
    init = run_init(directory, shards=8, stages=4)
    say("2. Build: one adapter a shard, composed, evaluated, signed, promoted")
    build = run_build(root)
    say(f"3. {OWNER} withdraws: a request file, signed")
    request = _write_request(root)
    plan = run_plan(root, request)
    say("4. Forget")
    submit = run_submit(root, request)
    say("5. Check the records")
    records = [run_verify(Path(path), None)["valid"] for path in submit["audit_records"]]  # type: ignore[attr-defined]  # a list of paths
    say("6. A new owner's pictures arrive")
    learn = run_learn(root, draw_shapes(root / "arrivals" / "shapes", 24), "demo:shapes", None)
    picture = run_generate(root, num=32, seed=0, prompt=None, shards=None, method=None, out=root / "champion.png")
    say(f"Look at it: lethe ui --workspace {directory}; the champion's pictures: {picture['out']}")
    return {
        "workspace": str(root),
        "init": init,
        "build": build,
        "plan": plan,
        "submit": submit,
        "records_valid": records,
        "learn": learn,
        "seconds": time.monotonic() - started,
    }


def _write_request(root: Path) -> Path:
    issuer = f"owner:{OWNER}"
    path = root / "requests" / "withdrawal.yaml"
    path.parent.mkdir()
    document = {
        "schema": "lethe/deletion-request/v1",
        "request_id": str(uuid4()),
        "issuer": issuer,
        "regulation": "gdpr",
        "submitted_at": utc_now().isoformat(timespec="seconds"),
        "subject": {"owner_ids": [OWNER]},
        "reason": "withdrawn consent",
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    run_add_issuer(root, issuer, None)
    run_sign(root, path, issuer)
    return path
