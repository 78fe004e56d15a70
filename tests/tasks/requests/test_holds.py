"""A hold is added, released or expires as one step, whatever crashes or reads beside it, and what waited for it goes back in the queue."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import InvalidInputError, StateError
from tasks.deletion.forgetting import wait_for_holds
from tasks.keys import create_keys
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.plans.planning import ForgetPlan
from tasks.requests import holds
from tasks.requests.holds import Hold, active_holds, add_hold, describe_hold, release_hold, sweep_holds
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
UNTIL = NOW + timedelta(days=30)
AFTER = UNTIL + timedelta(seconds=1)
SAMPLE = "0" * 64


class Crash(BaseException):
    """What no code of ours catches."""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path)
    create_keys(ws)
    ws.ledger.mkdir(parents=True)
    return ws


def hold_sample(ws: Workspace, sample_id: str = SAMPLE, until: datetime = UNTIL) -> Hold:
    return add_hold(ws, sample_ids=[sample_id], owner_ids=[], ground="research", until=until, note="secret", now=NOW)


def receive(ws: Workspace, request_id: str) -> None:
    Ledger(ws).receive(request_id, "agency", sha256_digest(request_id.encode()), request_id.encode(), NOW)


def keep_waiting(ws: Workspace, request_id: str, *awaited: Hold) -> None:
    """What a flow says of a request whose samples were held when it was planned."""
    answer = {"request_id": request_id, "status": "held", "holds": [describe_hold(hold) for hold in awaited]}
    Ledger(ws).set_status(request_id, "held", answer)


def status(ws: Workspace, request_id: str) -> str:
    stored = Ledger(ws).request(request_id)
    assert stored is not None
    return stored.status


def active_ids(ws: Workspace, now: datetime = NOW) -> set[str]:
    return {hold.hold_id for hold in active_holds(ws, now)}


def files_of_holds(ws: Workspace) -> list[str]:
    return sorted(path.name for path in ws.ledger.iterdir() if "holds.json" in path.name)


def crash_at(patch: pytest.MonkeyPatch, step: str) -> None:
    """End the next change of the list before it's written, while the ledger is told, or before it takes the other's place."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    owner, name = {
        "before writing": (holds, "write_atomically"),
        "before the event": (Ledger, "append"),
        "within the transaction": (Ledger, "set_status"),
        "before replacing": (Path, "replace"),
    }[step]
    if step == "before replacing":
        replace = Path.replace

        def crash_on_list(path: Path, target: Path) -> Path:
            if path.name == "holds.json.next":
                raise Crash
            return replace(path, target)

        patch.setattr(Path, "replace", crash_on_list)
    else:
        patch.setattr(owner, name, crash)


@pytest.mark.parametrize("step", ["before writing", "before the event", "before replacing"])
@pytest.mark.parametrize("num_before", [0, 1])
def test_a_hold_whose_adding_crashed_is_there_or_is_not(ws: Workspace, monkeypatch: pytest.MonkeyPatch, step: str, num_before: int) -> None:
    before = {hold_sample(ws, f"{number:064x}").hold_id for number in range(num_before)}
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            hold_sample(ws)
    told = {str(event.body["hold_id"]) for event in Ledger(ws).events(kind="hold_added")}
    assert len(told - before) == (step == "before replacing")
    assert active_ids(ws) == told
    assert "holds.json.next" not in files_of_holds(ws)
    added = hold_sample(ws)
    assert active_ids(ws) == {*told, added.hold_id}
    Ledger(ws).verify()


def release(ws: Workspace, hold: Hold) -> None:
    release_hold(ws, hold.hold_id, AFTER)


def expire(ws: Workspace, hold: Hold) -> None:
    sweep_holds(ws, AFTER)


@pytest.mark.parametrize("step", ["before writing", "before the event", "within the transaction", "before replacing"])
@pytest.mark.parametrize(("end", "kind"), [(release, "hold_released"), (expire, "hold_expired")])
def test_a_hold_whose_end_crashed_has_ended_with_all_that_follows_or_not_at_all(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, step: str, end: Callable[[Workspace, Hold], None], kind: str
) -> None:
    ending, staying = hold_sample(ws), hold_sample(ws, "1" * 64, until=AFTER + timedelta(days=1))
    receive(ws, "r-1")
    keep_waiting(ws, "r-1", ending)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            end(ws, ending)
    has_ended = step == "before replacing"
    assert len(Ledger(ws).events(kind=kind)) == len(Ledger(ws).events(kind="requeued")) == has_ended
    assert status(ws, "r-1") == ("received" if has_ended else "held")
    assert active_ids(ws) == ({staying.hold_id} if has_ended else {ending.hold_id, staying.hold_id})
    assert files_of_holds(ws) == ["holds.json"]
    if not has_ended:
        end(ws, ending)
    assert sweep_holds(ws, AFTER) == []
    assert status(ws, "r-1") == "received"
    assert active_ids(ws) == {staying.hold_id}
    assert [event.body for event in Ledger(ws).events(kind="requeued")] == [{"holds": [ending.hold_id]}]
    Ledger(ws).verify()


def test_what_a_released_hold_covered_is_forgotten_though_the_release_was_cut_short(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = hold_sample(ws)
    with monkeypatch.context() as patch:
        crash_at(patch, "before replacing")
        with pytest.raises(Crash):
            release_hold(ws, hold.hold_id, NOW)
    sweep_holds(ws, NOW)
    assert json.loads((ws.ledger / "holds.json").read_bytes()) == []


def test_whoever_reads_while_holds_are_added_and_released_finds_a_list_that_the_ledger_tells_of(ws: Workspace) -> None:
    found: list[int] = []
    errors: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                found.append(len(active_holds(ws, NOW)))
            except Exception as error:  # the test's verdict
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    added = [hold_sample(ws, f"{number:064x}") for number in range(12)]
    for hold in added[:6]:
        release_hold(ws, hold.hold_id, NOW)
    done.set()
    for reader in readers:
        reader.join(timeout=60)
    assert errors == []
    assert found
    assert active_ids(ws) == {hold.hold_id for hold in added[6:]}


@pytest.mark.parametrize("end", [release, expire])
def test_a_hold_that_ends_while_the_flow_runs_puts_the_request_back_as_soon_as_that_says_it_waits(
    ws: Workspace, end: Callable[[Workspace, Hold], None]
) -> None:
    hold = hold_sample(ws)
    receive(ws, "r-1")
    Ledger(ws).set_status("r-1", "retraining")
    end(ws, hold)
    assert (status(ws, "r-1"), Ledger(ws).events(kind="requeued")) == ("retraining", [])
    keep_waiting(ws, "r-1", hold)
    assert sweep_holds(ws, AFTER) == ["r-1"]
    assert sweep_holds(ws, AFTER) == []
    assert status(ws, "r-1") == "received"
    assert [event.body for event in Ledger(ws).events(kind="requeued", request_id="r-1")] == [{"holds": [hold.hold_id]}]


def test_a_request_that_is_wholly_held_by_a_hold_that_has_just_ended_waits_for_the_next_sweep_alone(ws: Workspace) -> None:
    hold = hold_sample(ws)
    receive(ws, "r-1")
    plan = ForgetPlan(
        request_id="r-1",
        request_digest=Digest(SAMPLE),
        issuer_key="",
        regulation="gdpr",
        owners=(),
        shards=(),
        hits=(),
        steps=0,
        steps_full_build=0,
        duplicates_elsewhere=(),
        held_samples=1,
        holds=(describe_hold(hold),),
    )
    release_hold(ws, hold.hold_id, NOW)
    assert wait_for_holds(Case(ws, "r-1"), plan)["holds"] == [describe_hold(hold)]
    assert status(ws, "r-1") == "held"
    assert sweep_holds(ws, NOW) == ["r-1"]


def test_what_waits_for_another_hold_or_for_none_of_them_stays(ws: Workspace) -> None:
    first, second = hold_sample(ws), hold_sample(ws, "1" * 64)
    for request_id in ("r-1", "r-2", "r-3", "r-4"):
        receive(ws, request_id)
    keep_waiting(ws, "r-1", first)
    keep_waiting(ws, "r-2", second)
    keep_waiting(ws, "r-3", first, second)
    Ledger(ws).set_status("r-4", "completed", {"holds": [describe_hold(first)]})
    assert release_hold(ws, first.hold_id, NOW) == ["r-1", "r-3"]
    assert {request_id: status(ws, request_id) for request_id in ("r-1", "r-2", "r-3", "r-4")} == {
        "r-1": "received",
        "r-2": "held",
        "r-3": "received",
        "r-4": "completed",
    }


def test_a_sweep_that_finds_nothing_writes_nothing(ws: Workspace) -> None:
    assert sweep_holds(ws, NOW) == []
    assert list(ws.ledger.iterdir()) == []
    receive(ws, "r-1")
    keep_waiting(ws, "r-1", hold_sample(ws))
    before, written = Ledger(ws).events(), (ws.ledger / "holds.json").stat().st_ino
    assert sweep_holds(ws, NOW) == []
    assert Ledger(ws).events() == before
    assert (ws.ledger / "holds.json").stat().st_ino == written


def test_a_list_that_the_ledger_does_not_tell_of_is_refused_and_a_later_one_beside_it_changes_nothing(ws: Workspace) -> None:
    hold_sample(ws)
    path, later = ws.ledger / "holds.json", ws.ledger / "holds.json.next"
    listed = path.read_bytes()
    path.write_bytes(listed.replace(SAMPLE.encode(), b"1" * 64))
    later.write_bytes(listed.replace(b"research", b"other"))
    with pytest.raises(StateError, match="the holds aren't those that the ledger tells of; restore it from a backup"):
        active_holds(ws, NOW)
    path.write_bytes(b"[{}]")
    with pytest.raises(StateError, match="the list of holds is damaged; restore it from a backup"):
        active_holds(ws, NOW)
    path.write_bytes(listed)
    later.write_bytes(b"[{}]")
    assert len(active_holds(ws, NOW)) == 1
    assert files_of_holds(ws) == ["holds.json"]


def test_what_is_no_hold_is_refused(ws: Workspace) -> None:
    with pytest.raises(InvalidInputError, match="no such hold; see: lethe hold list"):
        release_hold(ws, "none", NOW)
    with pytest.raises(InvalidInputError, match="ground: must be one of legal_claim"):
        add_hold(ws, sample_ids=[SAMPLE], owner_ids=[], ground="whim", until=UNTIL, note=None, now=NOW)
    with pytest.raises(InvalidInputError, match="until: has passed"):
        add_hold(ws, sample_ids=[SAMPLE], owner_ids=[], ground="other", until=NOW, note=None, now=NOW)
    with pytest.raises(InvalidInputError, match="a hold needs a sample or an owner"):
        add_hold(ws, sample_ids=[], owner_ids=[], ground="other", until=UNTIL, note=None, now=NOW)
    with pytest.raises(InvalidInputError, match="sample: must be a SHA-256 of 64 hexadecimal digits"):
        hold_sample(ws, "0" * 63)
