"""Moves the alias "champion" from one version to another, so that a crash at any point can be told from a promotion that happened.

Under a lock between processes:

1. close what a crash left open;
2. append `promotion_prepared`, which names the champion that is expected to be replaced;
3. move the alias;
4. append `promotion_committed`.

A crash after 2 leaves a prepared promotion: where the alias then stands says whether it happened, and `promotion_committed` or
`promotion_abandoned` closes it. Anything else moved the alias behind Lethe's back, and a person has to look.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from cdm_core.digests import Json
from cdm_core.errors import StateError
from tasks.locks import exclusive_lock
from tasks.models import tracking
from tasks.models.model_registry import CHAMPION, champion, get_version
from tasks.models.tracking import MODEL
from tasks.workspace import Workspace

PREPARED = "promotion_prepared"
COMMITTED = "promotion_committed"
ABANDONED = "promotion_abandoned"


class Event(Protocol):
    """What a promotion needs to know of a ledger's entry."""

    @property
    def request_id(self) -> str | None: ...
    @property
    def body(self) -> Mapping[str, Json]: ...


class EventLog(Protocol):
    """An append-only log; `tasks.ledger.store.Ledger` is the real one."""

    def append(self, kind: str, request_id: str | None, body: Mapping[str, Json], now: datetime) -> Event: ...
    def events(self, *, request_id: str | None = None, kind: str | None = None) -> Sequence[Event]: ...


def promote(ws: Workspace, ledger: EventLog, version: int, *, expected: int | None, request_id: str | None, now: datetime) -> None:
    """Make `version` the champion in place of `expected` (None: there is no champion yet).

    A request's promotion that the ledger holds as committed is done, even if a later one has replaced it: repeating a finished step must
    not bring an older model back. A build belongs to no request and is meant whenever it's asked for.

    Raises:
        StateError: `version` isn't registered, the champion is neither `expected` nor `version`, or an earlier promotion can't be closed.
    """
    store = tracking.client(ws)
    with promotion_lock(ws):
        _close_open_promotions(ws, ledger, now)
        committed = ledger.events(request_id=request_id, kind=COMMITTED) if request_id is not None else []
        if any((event.body["version"], event.body["expected"]) == (version, expected) for event in committed):
            return
        body = {"version": version, "expected": expected, "step": get_version(store, version).tags["step_key"]}
        present = _champion_version(ws)
        if present not in (expected, version):
            raise StateError(f"promoting version {version}: the champion is {_name(present)}, expected {_name(expected)}")
        ledger.append(PREPARED, request_id, body, now)
        store.set_registered_model_alias(MODEL, CHAMPION, str(version))
        ledger.append(COMMITTED, request_id, body, now)


def reconcile_promotions(ws: Workspace, ledger: EventLog, now: datetime) -> None:
    """Close what a crash left prepared and neither committed nor abandoned.

    Raises:
        StateError: the champion is neither the promoted version nor the one that it was to replace.
    """
    with promotion_lock(ws):
        _close_open_promotions(ws, ledger, now)


def promotion_lock(ws: Workspace) -> AbstractContextManager[None]:
    """Held by one process or thread at a time; whoever erases versions takes it too."""
    return exclusive_lock(ws.private / "promotion.lock")


def _close_open_promotions(ws: Workspace, ledger: EventLog, now: datetime) -> None:
    for event in _open_promotions(ledger):
        version, expected, present = event.body["version"], event.body["expected"], _champion_version(ws)
        if present not in (version, expected):
            raise StateError(
                f"the promotion of version {version} was interrupted, and the champion is now {_name(present)}: "
                f"point the alias to {_name(version)} or {_name(expected)}"
            )
        ledger.append(COMMITTED if present == version else ABANDONED, event.request_id, event.body, now)


def _open_promotions(ledger: EventLog) -> list[Event]:
    """Each closing entry closes one prepared entry of the same request and body."""
    closed = [*ledger.events(kind=COMMITTED), *ledger.events(kind=ABANDONED)]
    left = []
    for event in ledger.events(kind=PREPARED):
        for position, other in enumerate(closed):
            if (other.request_id, other.body) == (event.request_id, event.body):
                del closed[position]
                break
        else:
            left.append(event)
    return left


def _champion_version(ws: Workspace) -> int | None:
    present = champion(ws)
    return present.version if present else None


def _name(version: object) -> str:
    return "none" if version is None else f"version {version}"
