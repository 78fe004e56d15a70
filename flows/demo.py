"""`lethe demo`: the whole main job in a new workspace, by the same functions that the commands call."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from flows.commands import run_add_issuer, run_build, run_init, run_learn, run_plan, run_sign, run_submit
from flows.generate import run_generate
from flows.receipts import run_verify
from tasks.clock import utc_now
from tasks.data.demo_pictures import draw_shapes

OWNER = "designer-010"
Tell = Callable[[str], None]


def run_demo(directory: Path, tell: Tell) -> dict[str, object]:
    """Init, build, a signed deletion request, submit, verify, a new owner, pictures; `tell` hears what came of each."""
    started, root = time.monotonic(), directory.resolve()
    document: dict[str, object] = {"workspace": str(root), "init": _make_workspace(directory, tell), "build": _build(root, tell)}
    document |= _forget(root, tell)
    document["learn"] = _learn(root, tell)
    picture = run_generate(root, num=32, seed=0, prompt=None, shards=None, method=None, out=root / "champion.png")
    tell(f"7. Look at it: lethe ui --workspace {directory}, and {picture['out']}")
    return document | {"picture": picture["out"], "seconds": time.monotonic() - started}


def _make_workspace(directory: Path, tell: Tell) -> dict[str, object]:
    made: dict[str, Any] = run_init(directory, shards=8, stages=4)
    tell(f"1. Workspace: {made['samples']:,} pictures of {made['owners']} designers in {len(made['shards'])} shards")
    return made


def _build(root: Path, tell: Tell) -> dict[str, object]:
    built: dict[str, Any] = run_build(root)
    gate, steps = built["gate"], sum(shard["steps"] for shard in built["shards"])
    tell(
        f"2. Build: {steps:,} training steps in {built['seconds']:.0f} s; Fréchet distance to OpenMoji {gate['fd_before']:.0f} "
        f"(bare backbone) → {gate['fd_after']:.0f} (composed); version {built['model_version']} promoted"
    )
    return built


def _forget(root: Path, tell: Tell) -> dict[str, object]:
    request = _write_request(root)
    plan: dict[str, Any] = run_plan(root, request)
    hit = ", ".join(f"shard {shard['shard']} from stage {shard['first_tainted_stage']}" for shard in plan["shards"])
    tell(f"3. {OWNER} withdraws: {plan['samples']} samples, {hit}; {plan['steps']} of {plan['steps_full_build']} steps to retrain")
    answer: dict[str, Any] = run_submit(root, request)
    gate, erased = answer["gate"], sum(answer["purged"].values())
    tell(
        f"4. Forget: stopped after {answer['stop_seconds']:.1f} s (version {answer['stopped_version']}), whole again after "
        f"{answer['total_seconds']:.0f} s (version {answer['model_version']}); {answer['status']}, gate {gate['verdict']}: "
        f"{gate['fd_before']:.1f} → {gate['fd_after']:.1f}; {erased} objects erased"
    )
    checks = [run_verify(Path(path), None, None) for path in answer["audit_records"]]
    tell(f"5. Records: {len(checks)} signed, chained and valid; the last is {answer['audit_records'][-1]}")
    return {"plan": plan, "submit": answer, "records_valid": all(check["valid"] for check in checks)}


def _learn(root: Path, tell: Tell) -> dict[str, object]:
    answer: dict[str, Any] = run_learn(root, draw_shapes(root / "arrivals" / "shapes", 24), "demo:shapes", None)
    gate = answer["gate"]
    tell(
        f"6. Learn: {answer['samples']} pictures of a new owner, shard {answer['shard']}; {answer['status']}, gate {gate['verdict']}: "
        f"{gate['fd_before']:.1f} → {gate['fd_after']:.1f}; version {answer['model_version']} serves"
    )
    return answer


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
