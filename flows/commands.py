"""The commands behind `lethe`: each takes parsed options and returns the document that `--json` prints.

Imports that cost seconds are made by the function that needs them.
"""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from flows.console import progress_bars, say
from flows.policy import PlanGuard, add_due, plan_guard, record_key_change, write_plan
from flows.session import flow_session, open_for_flow
from tasks.clock import utc_now
from tasks.training.workers import Progress
from tasks.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from cdm_core.intake.detection import Format
    from tasks.requests.arrivals import Arrival

Document = dict[str, object]


def run_init(directory: Path, *, shards: int, stages: int) -> Document:
    """Make a workspace of OpenMoji."""
    from tasks.data.openmoji import render_openmoji
    from tasks.data.workspace_init import check_directory, create_workspace
    from tasks.keys import create_keys, owner_secret
    from tasks.models.tracking import create_tracking

    root = directory.resolve()
    check_directory(root)
    ws = Workspace(root)
    ws.keys.mkdir(parents=True, exist_ok=True)
    create_keys(ws)
    with progress_bars({"pictures rendered": 4495, "owners packed": None}) as advance:
        summary = create_workspace(
            root,
            shards=shards,
            stages=stages,
            pictures=render_openmoji(_by_difference(advance, "pictures rendered")),
            secret=owner_secret(ws),
            progress=_by_difference(advance, "owners packed"),
        )
        create_tracking(ws)
    return {"workspace": str(root), **asdict(summary)}


def run_build(directory: Path) -> Document:
    """Build the whole model."""
    from tasks.data.manifest_store import count_samples, load_manifests
    from tasks.deletion.suppression import refuse_resurrected

    ws, started = open_for_flow(directory), time.monotonic()
    num_samples = count_samples(load_manifests(ws))
    if num_samples == 0:
        raise StateError(f"{ws.root}: there is no sample to build from")
    totals = {
        "steps": _num_steps(ws, ws.settings().shard_ids),
        "reference pictures": num_samples,
        "evaluation pictures": 2 * ws.settings().evaluation.samples,
    }
    refuse_resurrected(ws)
    with flow_session(ws, totals):
        from flows.build import build
        from flows.resume import finish_interrupted

        finish_interrupted(ws)
        return {**build(str(ws.root)), "seconds": time.monotonic() - started}


def run_add_issuer(directory: Path, name: str, public_key: Path | None) -> Document:
    """Register an issuer."""
    from tasks.keys import add_issuer

    ws = open_for_flow(directory)
    issuer = add_issuer(ws, name, public_key)
    record_key_change(ws)
    return {"issuer": issuer.issuer, "keyid": issuer.keyid, "public_key": str(issuer.path)}


def run_sign(directory: Path, file: Path, issuer: str) -> Document:
    """Sign a file."""
    from tasks.keys import sign_file

    return {"keyid": sign_file(open_workspace(directory), file, issuer), "signature": f"{file}.sig"}


def run_plan(directory: Path, file: Path, *, include_duplicates: str = "none", out: Path | None = None) -> Document:
    """Plan a request file without asking for its signature, since nothing is done; `out` gets the document that is approved."""
    from cdm_core.digests import sha256_digest
    from cdm_core.intake.reception import parse_any
    from tasks.plans.duplicates import find_duplicates, parse_choice
    from tasks.plans.planning import build_plan, summarise_plan
    from tasks.requests.intake import read_content

    ws = open_workspace(directory)
    content, choice = read_content(file), parse_choice(include_duplicates)
    plans: list[Document] = []
    requests = parse_any(content, file.name, None, business=ws.settings().intake.business)[0]
    for request in requests:
        try:
            plain = plan = build_plan(ws, request, sha256_digest(content), "", file.parent)
        except RequestRefusedError as error:
            if len(requests) == 1:
                raise
            plans.append({"request_id": request.request_id, "status": "refused", "reason": error.reason, "message": str(error)})
            continue
        if choice != "none":
            plan = build_plan(ws, request, sha256_digest(content), "", file.parent, choice=choice)
        plans.append({**summarise_plan(plan), "duplicates": asdict(find_duplicates(ws, plain.hit_frame()))})
    if all("duplicates" not in plan for plan in plans):
        raise RequestRefusedError(f"{file.name}: none of its {len(plans)} requests names anything in this workspace", reason="no_match")
    written = {} if out is None else write_plan(ws, content, file, out, choice)
    return {**(plans[0] if len(plans) == 1 else {"requests": plans}), **written}


def run_submit(
    directory: Path, file: Path, *, include_duplicates: str = "none", form: "Format | None" = None, plan: Path | None = None
) -> Document:
    """Receive a request file and forget what it names.

    A refused request of a bulk file doesn't keep the others from being carried out; its answer says so. With a plan, the requests of a bulk
    file are carried out together, and nothing else with them. A choice of duplicates is kept once it, or the plan, was checked.
    """
    from tasks.ledger.store import Ledger
    from tasks.plans.duplicates import parse_choice
    from tasks.plans.kept_files import keep_choice
    from tasks.requests.intake import receive_file

    ws = open_for_flow(directory)
    choice = parse_choice(include_duplicates)
    if plan is None:
        _check_choice(ws, file, form, choice)
    received = receive_file(ws, Ledger(ws), file, utc_now(), form)
    guard = plan_guard(ws, file, received, plan, choice)
    ids = [request.request_id for request in received.requests]
    if guard is None and choice != "none":
        for request_id in ids:
            keep_choice(ws, request_id, choice)
    if len(ids) == 1:
        return forget_received(ws, ids[0], show_progress=True, guard=guard)
    return {"requests": [_forget_or_explain(ws, request_id, guard, ids) for request_id in ids]}


def _check_choice(ws: Workspace, file: Path, form: "Format | None", choice: str | tuple[str, ...]) -> None:
    """Before anything is taken in: a mistyped sample is to change nothing."""
    from tasks.ledger.store import Ledger
    from tasks.requests.choices import check_choice
    from tasks.requests.intake import read_request_file

    if isinstance(choice, str):
        return
    with suppress(RequestRefusedError):  # taking it in says so, and records it
        check_choice(ws, read_request_file(ws, Ledger(ws), file, utc_now(), form).requests, file.parent, choice)


def forget_received(
    ws: Workspace, request_id: str, *, show_progress: bool, guard: PlanGuard | None = None, together: Sequence[str] = ()
) -> Document:
    """Run the forget flow for a request that the ledger holds, or give the answer that it was given before.

    `guard` is called with the case's id inside the flow's lock, and raises where it may not be carried out; what it returns of the plan is
    recorded. `together` are the requests of the guarded plan.

    Raises:
        RequestRefusedError: it was refused, now or before.
    """
    if (answer := _earlier_answer(ws, request_id)) is not None:
        if answer["status"] != "held":  # or another process may have put it back in the queue by now
            from tasks.plans.kept_files import erase_kept

            erase_kept(ws, request_id)  # a crash may have come between the answer and this
        return answer
    totals = {"steps": None, "reference pictures": None, "evaluation pictures": 3 * ws.settings().evaluation.samples}
    with flow_session(ws, totals if show_progress else None):
        if (answer := _earlier_answer(ws, request_id)) is not None:
            return answer  # given while this process waited for the flow's lock
        from flows.resume import finish_interrupted
        from tasks.ledger.case import Case
        from tasks.plans.refusals import refuse_request
        from tasks.requests.batches import case_under_way, coalesce
        from tasks.requests.notifying import deliver_callbacks

        finish_interrupted(ws, but=request_id)
        if (answer := _earlier_answer(ws, request_id)) is not None:
            return answer  # its batch had been cut short
        accepted = None
        if guard is not None:
            accepted = guard(case_under_way(ws, request_id))
        elif ws.settings().approvals.required > 0:
            raise StateError(f"request {request_id}: waits for approvals; carry it out with: lethe submit FILE --plan PLAN")
        among = None if guard is None and ws.settings().approvals.required == 0 else [request_id, *together]
        case_id = coalesce(ws, request_id, utc_now(), among=among)
        if accepted is not None:
            Case(ws, case_id).finish("plan_accepted", accepted)
        try:
            return _run_forget(ws, request_id, case_id)
        except RequestRefusedError as error:
            answer = dict(refuse_request(ws, request_id, error, utc_now()))
            deliver_callbacks(ws, utc_now())
            if answer["status"] == "refused":
                raise
            return answer


def _run_forget(ws: Workspace, request_id: str, case_id: str) -> Document:
    """The flow's answer; the ledger's, where Prefect's server ended after the work was done and before the flow could report it."""
    from httpx import TransportError

    from flows.forget import forget

    try:
        answer: Document = dict(forget(str(ws.root), case_id))
        return answer if case_id == request_id else _earlier_answer(ws, request_id) or answer
    except TransportError:
        if (earlier := _earlier_answer(ws, request_id)) is not None:
            return earlier
        raise


def _earlier_answer(ws: Workspace, request_id: str) -> Document | None:
    from tasks.ledger.store import OPEN, Ledger
    from tasks.requests.holds import sweep_holds

    sweep_holds(ws, utc_now())
    stored = Ledger(ws).request(request_id)
    assert stored is not None, "receiving stores a request"
    if stored.status == "refused" and stored.answer is not None:
        raise RequestRefusedError(str(stored.answer["message"]), reason=str(stored.answer["reason"]))
    return None if stored.answer is None or stored.status in OPEN else dict(stored.answer)


def _forget_or_explain(ws: Workspace, request_id: str, guard: PlanGuard | None, together: Sequence[str]) -> Document:
    try:
        return forget_received(ws, request_id, show_progress=True, guard=guard, together=together if guard is not None else ())
    except RequestRefusedError as error:
        return {"request_id": request_id, "status": "refused", "reason": error.reason, "message": str(error)}


def run_learn(directory: Path, folder: Path, owner: str, tier: str | int | None) -> Document:
    """Take an owner's folder in and learn it; a tier of digits is a stage's number."""
    from tasks.ledger.store import Ledger
    from tasks.requests.arrivals import read_arrival

    ws = open_for_flow(directory)
    if isinstance(tier, str) and tier.removeprefix("-").isdecimal():
        tier = int(tier)
    arrival = read_arrival(ws, Ledger(ws), folder, owner, tier, utc_now())
    return learn_arrival(ws, arrival, show_progress=True)


def learn_arrival(ws: Workspace, arrival: "Arrival", *, show_progress: bool) -> Document:
    """Store an arrival and run the learn flow, or give the answer that it was given before."""
    from tasks.ledger.store import Ledger
    from tasks.models.learning import receive_arrival

    stored = Ledger(ws).request(arrival.request_id)
    if stored is not None and stored.answer is not None:
        return dict(stored.answer)
    totals = {"steps": None, "reference pictures": None, "evaluation pictures": 2 * ws.settings().evaluation.samples}
    with flow_session(ws, totals if show_progress else None):
        from httpx import TransportError

        from flows.learn import learn
        from flows.resume import finish_interrupted

        finish_interrupted(ws, but=arrival.request_id)
        receive_arrival(ws, arrival)
        try:
            return dict(learn(str(ws.root), arrival.request_id, arrival.shard))
        except TransportError:  # as in `_run_forget`
            stored = Ledger(ws).request(arrival.request_id)
            if stored is not None and stored.answer is not None:
                return dict(stored.answer)
            raise


def run_review(directory: Path, request_id: str, *, accept: bool, reason: str) -> Document:
    """Sign a person's decision."""
    from flows.resume import refuse_while_cut_short
    from tasks.ledger.store import Ledger
    from tasks.locks import exclusive_lock
    from tasks.requests.holds import sweep_holds
    from tasks.requests.reviewing import case_to_review, review_case, settle_reviews

    if not reason.strip():
        raise InvalidInputError("reason: must not be empty")
    ws = open_for_flow(directory)
    with exclusive_lock(ws.private / "flow.lock"):
        refuse_while_cut_short(ws)
        case = case_to_review(ws, request_id)
        settle_reviews(ws, but=case.request_id)
        review_case(case, accept=accept, reason=reason)
        stored = Ledger(ws).request(request_id)
        sweep_holds(ws, utc_now())  # of a hold that the request's rest waited for, nothing may be left
        assert stored is not None, "what was reviewed is stored"
        return dict(stored.answer or {})


def run_status(directory: Path, request_id: str | None, *, overdue: bool = False, due_in: str | None = None) -> Document:
    """List requests, and when they are due."""
    from tasks.ledger.store import Ledger

    ws = open_for_flow(directory)
    ledger = Ledger(ws)
    stored = (
        [each for each in ledger.requests() if not each.request_id.startswith("@")]
        if request_id is None
        else ledger.requests_named(request_id)
    )
    if request_id is not None and not stored:
        raise InvalidInputError(f"{request_id}: no such request")
    rows: list[Document] = [
        {
            **(dict(request.answer) if request.answer else {}),
            "request_id": request.request_id,
            "status": request.status,
            "received_at": request.received_at.isoformat(),
            "request_digest": request.digest,
        }
        for request in stored
    ]
    return {"requests": add_due(ws, rows, overdue=overdue, due_in=due_in)}


def run_ui(directory: Path, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the MLflow UI until it's interrupted; `on_ready` is told its address."""
    from tasks.models.tracking import serve_ui

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server, which leads its own process group, would stay
    server = serve_ui(open_workspace(directory), port, say=say)
    try:
        on_ready(server.url)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def run_train_shard(directory: Path, shard: int) -> Document:
    """Train one shard in this process: what `dvc repro` runs, in a workspace or in a clone of one."""
    import torch

    from cdm_core.fingerprint import NUM_THREADS
    from tasks.deletion.suppression import refuse_resurrected
    from tasks.training.shard_training import train_shard

    torch.set_num_threads(NUM_THREADS)
    ws = Workspace(directory.resolve())
    if not (ws.root / "params.yaml").is_file():
        raise StateError(f"{ws.root}: no params.yaml here")
    if shard not in ws.settings().shard_ids:
        raise InvalidInputError(f"shard {shard}: params.yaml has {ws.settings().shard_ids}")
    if (ws.ledger / "ledger.sqlite").is_file():  # a clone has none
        refuse_resurrected(ws)
    return asdict(train_shard(ws, shard))


def _num_steps(ws: Workspace, shards: Sequence[int]) -> int:
    from tasks.data.manifest_store import load_manifest
    from tasks.training.shard_training import stage_steps

    settings = ws.settings()
    return sum(sum(stage_steps(load_manifest(ws, shard), settings)) for shard in shards)


def _by_difference(advance: Progress, name: str) -> Callable[[int, int], None]:
    """For those who report (done, total): advance by what is new."""
    seen = 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        advance(name, done - seen)
        seen = done

    return progress
