"""An arrival that is cut short while it's stored is kept whole or taken back, and what was erased meanwhile isn't stored."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from composition_maker import CompositionMaker
from small_workspace import SECRET, png

from cdm_core.errors import SuppressedError
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_versions import data_revision, is_committed
from tasks.data.manifest_store import load_manifest
from tasks.data.packs import Sample
from tasks.deletion.suppression import suppression_hash
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.models import learning
from tasks.models.learning import receive_arrival, settle_arrivals
from tasks.requests import arrivals
from tasks.requests.arrivals import Arrival
from tasks.workspace import Workspace

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


def _cut(*arguments: object, **named: object) -> None:
    raise PowerCut


@pytest.fixture
def ws(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The small workspace with a secret of keyed hashes and a version that serves."""
    small.keys.mkdir(parents=True)
    (small.keys / "owner-secret").write_bytes(bytes(range(32)).hex().encode())
    serving = [(1, CompositionMaker(small).composition("a", "b"))]
    monkeypatch.setattr(learning, "champion_composition", lambda ws: serving[-1])
    return small


def arrival_of(owner: str, *greys: int) -> Arrival:
    samples = tuple(Sample(png=png(grey), caption="grey", arrived_at=NOW) for grey in greys)
    return Arrival(owner_key=compute_owner_key(SECRET, owner), shard=0, stage=1, samples=samples)


def read_files(ws: Workspace) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in (ws.packs(0), ws.manifests) for path in folder.iterdir() if path.is_file()}


def status_of(ws: Workspace, arrival: Arrival) -> str | None:
    stored = Ledger(ws).request(arrival.request_id)
    return stored.status if stored else None


@pytest.mark.parametrize(
    ("module", "function"),
    [(learning, "store_arrival"), (arrivals, "commit_data")],
    ids=["before anything is written", "before the commit"],
)
def test_what_was_not_committed_is_taken_back_and_may_come_again(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, module: object, function: str
) -> None:
    arrival, before, revision = arrival_of("anna", 200, 201), read_files(ws), data_revision(ws)
    with monkeypatch.context() as patch:
        patch.setattr(module, function, _cut)
        with pytest.raises(PowerCut):
            receive_arrival(ws, arrival)
    settle_arrivals(ws)
    assert (read_files(ws), data_revision(ws), is_committed(ws, [0, 1])) == (before, revision, True)
    assert status_of(ws, arrival) == "received"
    events = len(Ledger(ws).events())
    settle_arrivals(ws)
    assert len(Ledger(ws).events()) == events

    # Another version serves by the time that it comes again.
    composition = CompositionMaker(ws).composition("a", "c")
    monkeypatch.setattr(learning, "champion_composition", lambda ws: (2, composition))
    case = receive_arrival(ws, arrival)
    assert (case.finished("planned")["version"], case.finished("planned")["composition"]) == (2, composition.digest)
    assert case.finished("stored")["new_samples"] == 2
    assert status_of(ws, arrival) == "retraining"


def test_what_was_committed_is_kept_and_learnt(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    known = arrival_of("anna", 200)
    receive_arrival(ws, known)
    arrival, before = arrival_of("anna", 200, 201, 202), data_revision(ws)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "_record_stored", _cut)
        with pytest.raises(PowerCut):
            receive_arrival(ws, arrival)
    revision, files = data_revision(ws), read_files(ws)
    assert revision != before
    settle_arrivals(ws)
    stored = Case(ws, arrival.request_id).finished("stored")
    assert (stored["new_samples"], stored["dvc_revision"]) == (2, revision)
    assert stored["steps"] == learning.training_left(ws, 0)[1] > 0
    assert (status_of(ws, arrival), read_files(ws), data_revision(ws)) == ("retraining", files, revision)


def test_what_was_erased_since_the_arrival_was_read_is_not_stored(ws: Workspace) -> None:
    arrival, before = arrival_of("anna", 200, 201), read_files(ws)
    Ledger(ws).suppress([suppression_hash(ws, arrival.samples[0].sample_id)], NOW)
    events = len(Ledger(ws).events())
    with pytest.raises(SuppressedError, match=r"^1 of 2 pictures were erased on request and may not come back$"):
        receive_arrival(ws, arrival)
    assert read_files(ws) == before
    assert status_of(ws, arrival) is None
    assert len(Ledger(ws).events()) == events
    assert load_manifest(ws, 0)["sample_id"].isin([sample.sample_id for sample in arrival.samples]).sum() == 0


def test_an_arrival_that_is_stored_is_not_stored_again(ws: Workspace) -> None:
    arrival = arrival_of("anna", 200)
    receive_arrival(ws, arrival)
    revision, events = data_revision(ws), len(Ledger(ws).events())
    receive_arrival(ws, arrival)
    assert (data_revision(ws), len(Ledger(ws).events())) == (revision, events)
