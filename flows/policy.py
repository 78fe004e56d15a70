"""The commands of policy: keys, clocks, plans and approvals."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from cdm_core.digests import Json, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.intake.clocks import parse_span
from flows.session import open_for_flow
from tasks.clock import utc_now
from tasks.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from cdm_core.evidence.key_registry import KeyEntry
    from tasks.requests.intake import ReceivedFile

Document = dict[str, object]
PlanGuard = Callable[[str], "Mapping[str, Json] | None"]
"""Given a case's id, returns what is to be recorded of the plan by which it's carried out; None if that was recorded before."""


def run_keys_add(
    directory: Path, name: str, public_key: Path, roles: Sequence[str], valid_from: str | None, valid_until: str | None
) -> Document:
    """Register a key."""
    from tasks.keys import add_key

    ws = open_for_flow(directory)
    entry = add_key(ws, name, public_key, roles, valid_from=parse_moment(valid_from), valid_until=parse_moment(valid_until))
    record_key_change(ws)
    return _describe_key(entry)


def run_keys_revoke(directory: Path, keyid: str, reason: str, since: str | None) -> Document:
    """Revoke a key."""
    from tasks.keys import revoke_key

    ws = open_for_flow(directory)
    entry = revoke_key(ws, keyid, since=parse_moment(since) or utc_now(), reason=reason)
    record_key_change(ws)
    return _describe_key(entry)


def run_keys_list(directory: Path) -> Document:
    """List the registry."""
    from tasks.keys import load_registry

    registry = load_registry(open_workspace(directory))
    return {"revision": registry.revision, "keys": [_describe_key(entry) for entry in registry.entries]}


def record_key_change(ws: Workspace) -> None:
    """Let the ledger know the registry's revision, so that an older one can't be put back unseen."""
    from tasks.keys import load_registry
    from tasks.ledger.store import Ledger

    registry, ledger = load_registry(ws), Ledger(ws)
    known = ledger.last("keys_changed", None)
    if known is None or known.body["revision"] != registry.revision:
        digest = sha256_digest((ws.keys / "registry.json").read_bytes())
        ledger.append("keys_changed", None, {"revision": registry.revision, "registry": digest}, utc_now())


def run_extend(directory: Path, request_id: str, reason: str) -> Document:
    """Extend a request's period."""
    from tasks.requests.due import extend_request

    return dict(extend_request(open_for_flow(directory), request_id, reason, utc_now()))


def add_due(ws: Workspace, rows: Sequence[Document], *, overdue: bool, due_in: str | None) -> list[Document]:
    """Status rows with when each is due; only those that are overdue, or due within a span, if so asked."""
    from tasks.ledger.store import Ledger
    from tasks.requests.due import find_due

    now, ledger = utc_now(), Ledger(ws)
    until = None if due_in is None else now + parse_span(due_in)
    dated: list[Document] = []
    for row in rows:
        stored = ledger.request(str(row["request_id"]))
        assert stored is not None, "the row was made of it"
        due = find_due(ws, ledger, stored, now)
        is_soon = until is None or (due.due_at is not None and not due.is_closed and now <= due.due_at <= until)
        if is_soon and (due.overdue or not overdue):
            dated.append(
                {**row, "due_at": due.due_at.isoformat() if due.due_at else None, "overdue": due.overdue, "extended": due.extended}
            )
    return dated


def write_plan(ws: Workspace, content: bytes, file: Path, out: Path, choice: str | tuple[str, ...]) -> Document:
    """Write a request file's plan document; what `lethe plan --out` adds to its answer."""
    from tasks.files import check_writable, write_output
    from tasks.plans.plan_documents import build_plan_document, encode_plan_document

    check_writable(out)
    document = build_plan_document(ws, content, file.name, file.parent, utc_now(), choice)
    encoded = encode_plan_document(document)
    write_output(out, encoded)
    change = document["expected_quality_change"]
    return {"document": str(out), "document_digest": sha256_digest(encoded), "expected_quality_change": change}


def run_approve(directory: Path, plan: Path, key: Path) -> Document:
    """Sign a plan."""
    from tasks.plans.approving import approve_plan

    return dict(approve_plan(open_for_flow(directory), plan, key, utc_now()))


def plan_guard(ws: Workspace, file: Path, received: "ReceivedFile", plan: Path | None, choice: str | tuple[str, ...]) -> PlanGuard | None:
    """What must hold, inside the flow's lock, before a request is carried out: approvals, and no drift from the plan.

    What was checked is what will be carried out: the guard compares the pictures with those that were kept, and keeps the choice.
    None where policy asks for nothing and no plan was given.

    Raises:
        RequestRefusedError: `not_approved`: policy asks for approvals and no plan was given.
    """
    if plan is None:
        if (required := ws.settings().approvals.required) > 0:
            raise RequestRefusedError(
                f"{file.name}: policy asks for {required} approvals of a plan; give it with: lethe submit --plan", reason="not_approved"
            )
        return None

    def guard(case_id: str) -> "Mapping[str, Json] | None":
        from tasks.ledger.case import Case
        from tasks.plans.approving import require_approvals
        from tasks.plans.kept_files import keep_choice
        from tasks.plans.plan_documents import parse_plan_document, require_no_drift
        from tasks.requests.request_images import require_kept_images

        case, plan_content = Case(ws, case_id), _read(plan)
        document = parse_plan_document(plan_content, plan.name)
        known = case.find("plan_accepted")
        if known is not None and case.find("planned") is not None:
            if known["plan"] != sha256_digest(plan_content):
                raise StateError(f"{case_id}: is under way by another plan")
            return None  # it was cut short: what has changed since, it changed itself
        accepted = require_approvals(ws, plan, plan_content, received.keyids, utc_now())
        together = document.get("together")
        if isinstance(together, dict) and together["held_samples"] != 0:
            raise StateError(f"{plan.name}: some of its requests name samples that are held; send these in a file of their own")
        for request in received.requests:
            require_kept_images(ws, request, file.parent)
        require_no_drift(ws, document, received.content, file.name, file.parent, choice)
        for request in received.requests:
            keep_choice(ws, request.request_id, choice)
        return accepted

    return guard


def parse_moment(text: str | None) -> datetime | None:
    """A day, which begins at midnight UTC, or a time with its zone.

    Raises:
        InvalidInputError: it's neither.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInputError(f"{text!r:.40}: must be a day such as 2026-11-24, or a time with its zone") from error
    if moment.tzinfo is None and moment.time() != time():
        raise InvalidInputError(f"{text!r:.40}: has no time zone")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _describe_key(entry: "KeyEntry") -> Document:
    times = {name: getattr(entry, name) for name in ("valid_from", "valid_until", "revoked_at")}
    problem = entry.why_invalid(utc_now())
    return {
        "keyid": entry.keyid,
        "name": entry.name,
        "roles": list(entry.roles),
        **{name: None if value is None else value.isoformat() for name, value in times.items()},
        "valid": problem is None,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from error
