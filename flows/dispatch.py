"""Dispatch: from the inbox to the flows that receive, by way of Prefect's events.

1. A look at the inbox every second finds what is new and emits an event for it.
2. Each of the two deployments has a trigger on its event, which makes a run with the item's name as parameter.
3. The runner starts runs, one at a time, each in a process of its own.
4. An event can be lost, and a run can fail: an item that is still in the inbox after a while, and has no run, is given one. The pause
   doubles with each, up to an hour, so what can't succeed yet is tried for ever and costs little.

What an earlier server left as running is closed first: only this process starts runs, so they have ended. One run at a time is asked for
three times over: by the runner, which knows both deployments; by each deployment, against a second runner; and by the workspace's flow
lock, on which correctness rests.
"""

import asyncio
import multiprocessing
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun, StateType
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.flows import Flow
from prefect.runner import Runner
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from cdm_core.errors import StateError
from flows.console import say
from flows.receive import receive_arrival, receive_request
from flows.standby.keeper import keep_standby
from tasks.clock import utc_now
from tasks.ledger.store import Ledger
from tasks.requests.holds import sweep_holds
from tasks.requests.inbox import REQUEUED, InboxItem, Kind, scan_inbox
from tasks.requests.notifying import deliver_callbacks
from tasks.workspace import Workspace

_FLOWS: Mapping[Kind, Flow[Any, Any]] = {"request": receive_request, "arrival": receive_arrival}
_LOOK_SECONDS = 1.0
_MOST_SECONDS = 3600.0
_STOP_SECONDS = 5.0
_PAGE = 200

Deployments = Mapping[Kind, UUID]


@dataclass(slots=True)
class _Waiting:
    """An item in the inbox: when it is due for a run if it has none, on the event loop's clock, and the pause after that."""

    due: float
    pause: float


async def dispatch(
    ws: Workspace,
    server: "subprocess.Popen[bytes]",
    *,
    url: str,
    on_ready: Callable[[dict[str, object]], None],
    standby: bool,
    reconcile_seconds: float,
) -> None:
    """Serve the inbox until SIGINT or SIGTERM, then end the run that is under way.

    Raises:
        StateError: the Prefect server ended by itself.
    """
    runner = Runner(name="lethe", limit=1, query_seconds=_LOOK_SECONDS, pause_on_shutdown=False)
    deployments = {kind: await _deploy(runner, kind, ws) for kind in _FLOWS}
    async with get_client() as client:
        for run in await _read_open_runs(client, deployments):
            await client.set_flow_run_state(run.id, Crashed(message="lethe serve ended before this run"), force=True)
        running = asyncio.create_task(runner.start())
        while not (runner.started or running.done()):
            await asyncio.sleep(0.05)
        stopping = asyncio.create_task(_catch_signals().wait())
        readying = asyncio.create_task(keep_standby(ws) if standby else asyncio.Event().wait())
        watching = asyncio.create_task(_watch(ws, client, deployments, server, reconcile_seconds))
        say(f"serving on {url}; the inbox is {ws.inbox}")
        on_ready({"url": url, "inbox": str(ws.inbox)})
        try:
            ended, _ = await asyncio.wait({running, watching, stopping, readying}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what ended it
        finally:
            watching.cancel()
            stopping.cancel()
            readying.cancel()
            await _stop_runs()
            if runner.started and server.poll() is None:
                await runner.astop()
                await running
            else:
                running.cancel()
            await asyncio.wait({readying})


async def _deploy(runner: Runner, kind: Kind, ws: Workspace) -> UUID:
    trigger = DeploymentEventTrigger(
        name=f"lethe: {kind} received",
        expect={f"lethe.{kind}.received"},
        match={"prefect.resource.id": "lethe.inbox.*"},
        parameters={"item": {"__prefect_kind": "jinja", "template": "{{ event.payload.item }}"}},
    )
    return await runner.aadd_flow(
        _FLOWS[kind],
        name="inbox",
        parameters={"root": str(ws.root)},
        triggers=[trigger],
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


async def _watch(
    ws: Workspace, client: PrefectClient, deployments: Deployments, server: "subprocess.Popen[bytes]", reconcile_seconds: float
) -> None:
    loop = asyncio.get_running_loop()
    waiting: dict[str, _Waiting] = {}
    while True:
        if server.poll() is not None:
            raise StateError(f"the Prefect server ended; its log lies in {ws.prefect}")
        found = await asyncio.to_thread(scan_inbox, ws, utc_now())
        found += await asyncio.to_thread(_find_requeued, ws)
        for item in found:
            if item.name not in waiting:
                say(f"{item.name} received")
                _emit(item)
        await asyncio.to_thread(deliver_callbacks, ws, utc_now())
        fresh = loop.time() + reconcile_seconds
        waiting = {item.name: waiting.get(item.name) or _Waiting(due=fresh, pause=reconcile_seconds) for item in found}
        if overdue := [item for item in found if waiting[item.name].due <= loop.time()]:
            with suppress(HTTPError):  # the server is too busy: they are overdue the next second too
                await _reconcile(client, deployments, {item: waiting[item.name] for item in overdue})
        await asyncio.sleep(_LOOK_SECONDS)


def _find_requeued(ws: Workspace) -> list[InboxItem]:
    """Requests whose hold has ended, as items, unless their new plan has to be approved first."""
    if not (ws.ledger / "holds.json").is_file() or ws.settings().approvals.required > 0:
        return []
    sweep_holds(ws, utc_now())
    ledger = Ledger(ws)
    waiting = [stored.request_id for stored in ledger.requests() if stored.status == "received"]
    requeued = [request_id for request_id in waiting if ledger.last("requeued", request_id) is not None]
    return [InboxItem(name=f"{REQUEUED}{request_id}", kind="request", path=ws.inbox / request_id) for request_id in requeued]


def _emit(item: InboxItem) -> None:
    emit_event(
        event=f"lethe.{item.kind}.received", resource={"prefect.resource.id": f"lethe.inbox.{item.name}"}, payload={"item": item.name}
    )


async def _reconcile(client: PrefectClient, deployments: Deployments, overdue: Mapping[InboxItem, _Waiting]) -> None:
    """Give a run to each item that has none."""
    served = {run.parameters.get("item") for run in await _read_open_runs(client, deployments)}
    for item, pending in overdue.items():
        if item.name not in served:
            parameters = {"item": item.name}
            await client.create_flow_run_from_deployment(deployments[item.kind], parameters=parameters, tags=["reconciled"])
            pending.pause = min(2 * pending.pause, _MOST_SECONDS)
        pending.due = asyncio.get_running_loop().time() + pending.pause


async def _read_open_runs(client: PrefectClient, deployments: Deployments) -> list[FlowRun]:
    """The deployments' runs that are scheduled or under way."""
    of_ours = DeploymentFilter(id=DeploymentFilterId(any_=list(deployments.values())))
    is_open = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(set(StateType) - TERMINAL_STATES))))
    runs: list[FlowRun] = []
    while page := await client.read_flow_runs(deployment_filter=of_ours, flow_run_filter=is_open, limit=_PAGE, offset=len(runs)):
        runs += page
    return runs


def _catch_signals() -> asyncio.Event:
    received = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):  # in place of the runner's handler, which exits at once
        asyncio.get_running_loop().add_signal_handler(sign, received.set)
    return received


async def _stop_runs() -> None:
    """End the runs' processes. They are begun again from the top next time, so there is nothing to wait for but their tidying up."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
    while any(child.is_alive() for child in children) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    for child in children:
        child.kill()
