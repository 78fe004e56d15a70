"""Telling a request's sender where it stands: by documents that are left for it, and by callbacks where it named addresses.

- Left: the answer in the sender's form, which `lethe status ID --as FORM` gives, as it was on receipt, at the stop and at closing. The
  closing record has form, digest and time of each.
- Callbacks: OpenDSR's `status_callback_urls`, DRP's `status_callback`; only with `intake.callbacks: true`. Each attempt is a ledger event
  `notified`, with the address's digest and not the address. Those at the stop stand in the closing record too; those after it, which say
  that it's closed, refused or reviewed, are events alone, since a record can't tell what happens after its signature.

What is to be said lies in `.lethe/ledger/callbacks/` until it was said: the addresses are needed after the request's bytes are forgotten.
A failure stops nothing; it's tried again, later each time, by the next command that runs a flow and by `lethe serve`.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cdm_core.digests import Json, canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, LetheError
from cdm_core.intake.callbacks import MAX_CALLBACKS, build_answer, build_callback
from cdm_core.intake.case_status import CaseStatus
from cdm_core.intake.detection import Format
from cdm_core.intake.opendsr import DOMAIN_HEADER, SIGNATURE_HEADER
from cdm_core.intake.reception import parse_any
from tasks.clock import utc_now
from tasks.files import write_atomically
from tasks.keys import workspace_signer
from tasks.ledger.store import CLOSED, Ledger, Status, StoredRequest
from tasks.locks import exclusive_lock
from tasks.requests.answers import case_of
from tasks.requests.callbacks import post_callback
from tasks.requests.intake import read_format
from tasks.workspace import Workspace

Stage = Literal["received", "stopped", "closed", "reviewed", "refused"]

MAX_ATTEMPTS = 8
_FIRST_PAUSE = timedelta(seconds=30)
_BUDGET_SECONDS = 5.0
"""In one go; who isn't called within it waits for the next. A call that has begun takes `TIMEOUT_SECONDS` at most."""

Letters = dict[str, Json]


def describe_notifications(
    ws: Workspace, request_id: str, status: Status, now: datetime, *, num_erased: int, is_forgotten: bool
) -> list[Json] | None:
    """For a closing record: what was left, and told, up to now; None for a batch, which nobody sent.

    `status` is what the closing makes of the request, `num_erased` how many samples it erases; `is_forgotten` says that its bytes go.
    """
    ledger = Ledger(ws)
    stored, received, stopped = ledger.request(request_id), ledger.last("received", request_id), ledger.last("stopped", request_id)
    assert stored is not None, "a request that is closed is stored"
    if received is None:
        return None
    form, case = read_format(received.body), case_of(ws, stored, now)
    earlier = case.num_erased or 0  # in rounds before, where some samples were held
    final = replace(case, status=status, is_closed=True, num_erased=earlier + num_erased, content=None if is_forgotten else case.content)
    left = [("received", replace(case, status="received"), stored.received_at), ("closed", final, now)]
    if stopped is not None:
        left.insert(1, ("stopped", replace(case, status="stopped"), stopped.at))
    entries: list[Json] = [
        {"stage": stage, "how": "left", "form": form, "digest": sha256_digest(answer), "at": at.isoformat()}
        for stage, each, at in left
        if (answer := _answer_in_form(each, form)) is not None
    ]
    return entries + [{**event.body, "at": event.at.isoformat()} for event in ledger.events(request_id=request_id, kind="notified")]


def _answer_in_form(case: CaseStatus, form: Format) -> bytes | None:
    """What `lethe status ID --as` gives; None where the form has no words for a request that is under way (DROP's upload)."""
    try:
        return build_answer(case, form)
    except InvalidInputError:
        return None


def queue_callbacks(ws: Workspace, request_id: str, stage: Stage) -> None:
    """Write down what is to be told of a request as it stands; the same stage of the same round again adds nothing."""
    if not ws.settings().intake.callbacks:
        return
    ledger = Ledger(ws)
    stored = ledger.request(request_id)
    received = ledger.last("received", request_id)
    if stored is None or received is None:
        return
    _folder(ws).mkdir(parents=True, exist_ok=True)
    with exclusive_lock(_folder(ws) / ".lock"):
        letters = _load(ws, request_id) or _begin(ws, stored, read_format(received.body))
        told, urls, pending = (_strings(letters, "told"), _strings(letters, "urls"), _entries(letters))
        if not urls or (told_as := _in_its_round(ledger, request_id, stage)) in told:
            return
        case, form = replace(case_of(ws, stored, utc_now()), issuer=str(letters["issuer"])), read_format(received.body)
        for url in urls:
            body = build_callback(case, form, url)
            if body is not None:
                entry: Letters = {"stage": stage, "url": url, "body": body.decode(), "attempts": 0, "due": utc_now().isoformat()}
                pending.append(entry)
        _save(ws, request_id, {**letters, "told": [*told, told_as], "pending": pending})


def _in_its_round(ledger: Ledger, request_id: str, stage: Stage) -> str:
    """What was held is carried out in a round of its own, which ends in a closing, too."""
    num_rounds = len(ledger.events(request_id=request_id, kind="requeued"))
    return f"{stage} {num_rounds + 1}" if num_rounds else stage


def deliver_callbacks(ws: Workspace, now: datetime) -> int:
    """Try what is due, of all requests; returns how many were taken. Never raises for what a receiver does."""
    if not _folder(ws).is_dir() or not ws.settings().intake.callbacks:
        return 0
    num_taken, started = 0, time.monotonic()
    with exclusive_lock(_folder(ws) / ".lock"):
        for path in sorted(_folder(ws).glob("*.json")):
            letters: Letters = json.loads(path.read_bytes())
            left: list[Letters] = []
            for entry in _entries(letters):
                is_due = datetime.fromisoformat(str(entry["due"])) <= now
                if not is_due or time.monotonic() - started > _BUDGET_SECONDS:
                    left.append(entry)
                    continue
                if _deliver(ws, letters, entry):
                    num_taken += 1
                elif (attempts := int(str(entry["attempts"])) + 1) < MAX_ATTEMPTS:
                    left.append({**entry, "attempts": attempts, "due": (now + _FIRST_PAUSE * 2**attempts).isoformat()})
                _save(ws, str(letters["request_id"]), {**letters, "pending": left + _after(_entries(letters), entry)})
            stored = Ledger(ws).request(str(letters["request_id"]))
            if not left and (stored is None or stored.status in CLOSED):
                path.unlink()
    return num_taken


def tell(ws: Workspace, request_id: str, stage: Stage) -> None:
    """Queue and deliver."""
    queue_callbacks(ws, request_id, stage)
    deliver_callbacks(ws, utc_now())


def _deliver(ws: Workspace, letters: Mapping[str, Json], entry: Mapping[str, Json]) -> bool:
    """One attempt, and its event."""
    url, body, form = str(entry["url"]), str(entry["body"]).encode(), str(letters["form"])
    is_taken, http_status = post_callback(url, body, _headers(ws, form, body))
    said: dict[str, Json] = {
        "stage": entry["stage"],
        "how": "callback",
        "form": form,
        "digest": sha256_digest(body),
        "url": sha256_digest(url.encode()),
        "result": "sent" if is_taken else "failed",
        "http_status": http_status,
    }
    Ledger(ws).append("notified", str(letters["request_id"]), said, utc_now())
    return is_taken


def _headers(ws: Workspace, form: str, body: bytes) -> dict[str, str]:
    """OpenDSR's: our domain, and the workspace's Ed25519 signature over the body."""
    if form != "opendsr":
        return {}
    signature = bytes.fromhex(workspace_signer(ws).sign(body).signature)
    return {SIGNATURE_HEADER: base64.b64encode(signature).decode(), DOMAIN_HEADER: ws.settings().intake.business}


def _begin(ws: Workspace, stored: StoredRequest, form: Format) -> Letters:
    """The addresses in a request's bytes; none where the bytes are forgotten."""
    urls: list[str] = []
    if stored.content is not None and form in ("opendsr", "drp"):
        try:
            requests = parse_any(stored.content, stored.request_id, form, business=ws.settings().intake.business)[0]
        except LetheError:
            requests = []  # it was verified and parsed when it came; a newer release may read it otherwise, and evidence stops nothing
        urls = list(dict.fromkeys(url for request in requests for url in request.callbacks))[:MAX_CALLBACKS]
    return {"request_id": stored.request_id, "form": form, "issuer": stored.issuer or "", "urls": list(urls), "told": [], "pending": []}


def _strings(letters: Mapping[str, Json], name: str) -> list[str]:
    values = letters[name]
    assert isinstance(values, list), "we wrote it"
    return [str(value) for value in values]


def _entries(letters: Mapping[str, Json]) -> list[Letters]:
    values = letters["pending"]
    assert isinstance(values, list), "we wrote it"
    return [dict(value) for value in values]


def _after(entries: list[Letters], entry: Letters) -> list[Letters]:
    return entries[entries.index(entry) + 1 :]


def _folder(ws: Workspace) -> Path:
    return ws.ledger / "callbacks"


def _path(ws: Workspace, request_id: str) -> Path:
    return _folder(ws) / f"{sha256_digest(request_id.encode())[:32]}.json"


def _load(ws: Workspace, request_id: str) -> Letters | None:
    path = _path(ws, request_id)
    return json.loads(path.read_bytes()) if path.is_file() else None


def _save(ws: Workspace, request_id: str, letters: Mapping[str, Json]) -> None:
    write_atomically(_path(ws, request_id), canonical_json(letters), mode=0o600)
