"""One Prefect server, one built workspace and one that forgot an owner, for all tests of the flows. Building takes seconds, so it is done
once; a test that changes something does so in a copy, by which it's tested that a workspace can be moved.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten, copy_workspace, generate_cells
from tiny_workspace import lethe, make_workspace, owners_of, set_parameters, signed_request
from workspace_snapshot import read_adapters

from tasks.locks import exclusive_lock
from tasks.workspace import Workspace


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def built(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All owners' model. Shared by all tests of all test processes, so only to be read; the first that asks builds it."""
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "built"
    folder.mkdir(exist_ok=True)
    ws, answer = Workspace(folder / "ws"), folder / "answer.json"
    with exclusive_lock(folder / "lock"):
        if not answer.is_file():
            make_workspace(ws.root)
            answer.write_text(json.dumps(lethe(ws, "build").document))
    return Built(ws=ws, answer=json.loads(answer.read_text()))


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Workspace:
    """A built workspace of the test's own."""
    return copy_workspace(built.ws, tmp_path / "ws")


@pytest.fixture(scope="session")
def forgotten(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Forgotten:
    """What forgot an owner who was in the last stage of shard 0. Shared by all tests, so only to be read."""
    folder = tmp_path_factory.mktemp("forgotten")
    ws, owner = copy_workspace(built.ws, folder / "ws"), owners_of(0, 1)[0]
    set_parameters(ws, membership_samples=4)
    before = {"pictures_before": generate_cells(ws, folder / "before.png"), "adapters_before": read_adapters(ws)}
    request = signed_request(ws, folder / "requests", owner_ids=[owner.owner_id])
    plan, answer = lethe(ws, "plan", request).document, lethe(ws, "submit", request).document
    return Forgotten(ws=ws, owner=owner, request=request, plan=plan, answer=answer, **before)
