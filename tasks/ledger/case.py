"""A case: how far one request has come, read from the ledger and written to it.

The forget and learn flows ask it before each step whose effect is outside the content-keyed stores: what was served before, which version
was stopped to, what was decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cdm_core.digests import Digest, Json
from tasks.clock import utc_now
from tasks.ledger.store import Event, Ledger, Status
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Case:
    """The steps of one request."""

    ws: Workspace
    request_id: str

    def find(self, step: str) -> Mapping[str, Json] | None:
        """What the ledger holds of a finished step."""
        event = Ledger(self.ws).last(step, self.request_id)
        if event is None or (step != "received" and any(event.seq < again.seq for again in self._rounds())):
            return None
        return event.body

    def finished(self, step: str) -> Mapping[str, Json]:
        """The same of a step that comes before the one that asks."""
        body = self.find(step)
        assert body is not None, f"{self.request_id}: asked for {step!r} before it happened"
        return body

    def finish(self, step: str, body: Mapping[str, Json], *, status: Status | None = None) -> Mapping[str, Json]:
        """Record a step's effect, after it has happened, and where the request stands."""
        ledger = Ledger(self.ws)
        with ledger.together():
            event = ledger.append(step, self.request_id, body, utc_now())
            if status is not None:
                ledger.set_status(self.request_id, status)
        return event.body

    def each(self, step: str) -> list[Mapping[str, Json]]:
        """What the ledger holds of a step that may happen several times in one round, oldest first."""
        since = max((again.seq for again in self._rounds()), default=0)
        return [event.body for event in Ledger(self.ws).events(request_id=self.request_id, kind=step) if event.seq > since]

    def step_key(self, step: str) -> str:
        """Names a step's record, run and version, so that repeating it finds them; in a later round they are others."""
        rounds = len(self._rounds())
        return f"{self.request_id}:{step}" if rounds == 0 else f"{self.request_id}:{rounds}:{step}"

    def _rounds(self) -> list[Event]:
        """Each time the request was put back in the queue since a hold had ended; its steps begin anew then."""
        return Ledger(self.ws).events(request_id=self.request_id, kind="requeued")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model version and its composition's digest."""

    version: int
    composition: Digest


def read_served(body: Mapping[str, Json]) -> Served:
    """The pair out of an event's body."""
    return Served(version=int(str(body["version"])), composition=Digest(str(body["composition"])))
