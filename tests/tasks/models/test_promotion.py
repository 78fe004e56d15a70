"""The alias moves once, whatever happens in between."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from composition_maker import CompositionMaker
from mlflow import MlflowClient

from cdm_core.digests import Json
from cdm_core.errors import StateError
from tasks.ledger.store import Ledger
from tasks.models import tracking
from tasks.models.model_registry import CHAMPION, champion
from tasks.models.promotion import promote, promotion_lock, reconcile_promotions

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


@dataclass(frozen=True)
class _Entry:
    kind: str
    request_id: str | None
    body: Mapping[str, Json]


@dataclass
class MemoryLog:
    """An event log whose writer can be made to die before an entry."""

    entries: list[_Entry] = field(default_factory=list)
    dies_before: str | None = None

    def append(self, kind: str, request_id: str | None, body: Mapping[str, Json], now: datetime) -> _Entry:
        if kind == self.dies_before:
            self.dies_before = None
            raise ConnectionAbortedError(kind)
        self.entries.append(_Entry(kind, request_id, body))
        return self.entries[-1]

    def events(self, *, request_id: str | None = None, kind: str | None = None) -> list[_Entry]:
        return [entry for entry in self.entries if request_id in (None, entry.request_id) and kind in (None, entry.kind)]

    def kinds(self) -> list[str]:
        """What happened, in order."""
        return [entry.kind.removeprefix("promotion_") for entry in self.entries]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def three(maker: CompositionMaker) -> CompositionMaker:
    """Versions 1, 2 and 3, none promoted."""
    for content in "abc":
        maker.register(content, step_key=f"step {content}")
    return maker


def _champion(maker: CompositionMaker) -> int | None:
    present = champion(maker.ws)
    return present.version if present else None


def _move_by_hand(maker: CompositionMaker, version: int) -> None:
    tracking.client(maker.ws).set_registered_model_alias(tracking.MODEL, CHAMPION, str(version))


def test_a_promotion_is_prepared_then_committed(three: CompositionMaker, log: MemoryLog) -> None:
    promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    assert _champion(three) == 1
    assert log.kinds() == ["prepared", "committed"]
    assert {(entry.request_id, str(entry.body)) for entry in log.entries} == {("r", "{'version': 1, 'expected': None, 'step': 'step a'}")}


def test_with_the_real_ledger(three: CompositionMaker) -> None:
    ledger = Ledger(three.ws)
    for _ in range(2):
        promote(three.ws, ledger, 1, expected=None, request_id="q", now=NOW)
        promote(three.ws, ledger, 2, expected=1, request_id="r", now=NOW)
        reconcile_promotions(three.ws, ledger, NOW)
    assert _champion(three) == 2
    assert [event.kind for event in ledger.events()] == ["promotion_prepared", "promotion_committed"] * 2


def test_a_build_brings_an_earlier_model_back_whenever_it_is_asked_to(three: CompositionMaker) -> None:
    ledger, champions = Ledger(three.ws), []
    for version, expected in [(1, None), (2, 1), (1, 2), (2, 1)]:
        promote(three.ws, ledger, version, expected=expected, request_id=None, now=NOW)
        champions.append(_champion(three))
    assert champions == [1, 2, 1, 2]


def test_another_champion_than_expected_is_refused(three: CompositionMaker, log: MemoryLog) -> None:
    promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    with pytest.raises(StateError, match="promoting version 3: the champion is version 1, expected version 2"):
        promote(three.ws, log, 3, expected=2, request_id="s", now=NOW)
    with pytest.raises(StateError, match="promoting version 3: the champion is version 1, expected none"):
        promote(three.ws, log, 3, expected=None, request_id="s", now=NOW)
    assert (_champion(three), log.kinds()) == (1, ["prepared", "committed"])


def test_an_unregistered_version_is_refused(three: CompositionMaker, log: MemoryLog) -> None:
    with pytest.raises(StateError, match="model version 9: not registered, or erased"):
        promote(three.ws, log, 9, expected=None, request_id="r", now=NOW)
    assert log.entries == []


def test_repeating_a_finished_promotion_brings_no_older_model_back(three: CompositionMaker, log: MemoryLog) -> None:
    """A flow that starts over repeats its stop although its last promotion has happened."""
    promote(three.ws, log, 1, expected=None, request_id="build", now=NOW)
    for _ in range(2):
        promote(three.ws, log, 2, expected=1, request_id="r", now=NOW)
        promote(three.ws, log, 3, expected=2, request_id="r", now=NOW)
    assert _champion(three) == 3
    assert log.kinds() == ["prepared", "committed"] * 3


@pytest.mark.parametrize("reconciled", [True, False])
def test_a_crash_before_the_commit_entry_is_closed_as_committed(reconciled: bool, three: CompositionMaker, log: MemoryLog) -> None:
    log.dies_before = "promotion_committed"
    with pytest.raises(ConnectionAbortedError):
        promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    assert (_champion(three), log.kinds()) == (1, ["prepared"])
    if reconciled:
        reconcile_promotions(three.ws, log, NOW)
    promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    reconcile_promotions(three.ws, log, NOW)
    assert (_champion(three), log.kinds()) == (1, ["prepared", "committed"])
    assert {entry.request_id for entry in log.entries} == {"r"}


def test_a_crash_before_the_alias_is_abandoned_and_may_be_tried_again(
    three: CompositionMaker, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise ConnectionAbortedError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", dying)
        for _ in range(2):
            with pytest.raises(ConnectionAbortedError):
                promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    assert (_champion(three), log.kinds()) == (None, ["prepared", "abandoned", "prepared"])
    promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    assert (_champion(three), log.kinds()) == (1, ["prepared", "abandoned", "prepared", "abandoned", "prepared", "committed"])


def test_an_alias_moved_by_hand_after_a_crash_needs_a_person(three: CompositionMaker, log: MemoryLog) -> None:
    promote(three.ws, log, 1, expected=None, request_id="r", now=NOW)
    log.dies_before = "promotion_committed"
    with pytest.raises(ConnectionAbortedError):
        promote(three.ws, log, 2, expected=1, request_id="r", now=NOW)
    _move_by_hand(three, 3)
    message = "the promotion of version 2 was interrupted, and the champion is now version 3: point the alias to version 2 or version 1"
    with pytest.raises(StateError, match=message):
        reconcile_promotions(three.ws, log, NOW)
    with pytest.raises(StateError, match=message):
        promote(three.ws, log, 1, expected=3, request_id="s", now=NOW)
    _move_by_hand(three, 2)
    reconcile_promotions(three.ws, log, NOW)
    assert log.kinds() == ["prepared", "committed"] * 2


def test_a_promotion_waits_for_the_lock(three: CompositionMaker, log: MemoryLog) -> None:
    waiting = threading.Thread(target=promote, args=(three.ws, log, 1), kwargs={"expected": None, "request_id": "r", "now": NOW})
    with promotion_lock(three.ws):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        assert (_champion(three), log.kinds()) == (None, [])
    waiting.join(timeout=30)
    assert (_champion(three), log.kinds()) == (1, ["prepared", "committed"])
