"""The versions of a workspace's data: git and DVC together. One change of data is one git commit, and its id is the data's revision.

The flows train in process, so they tell DVC the result (`dvc commit`) where an auditor would run `dvc repro`; afterwards that finds
nothing to do. Git is committed before the remote is filled, so that whatever a remote holds is named by some revision, where
erasure can find it; a crash between the two is mended by calling again.

Committing reads the working tree and touches nothing in it: DVC isn't let put links in the place of what it has taken into its cache, so
that workers may read packs and adapters meanwhile.

DVC finds its cache by a path relative to the workspace, so that a clone has a cache of its own. The remote stands in the committed
configuration by its absolute path, where a clone on this machine finds it, and once more in the workspace's own `config.local` by its
relative one, so that a workspace can be moved. DVC's database of file states lies in the workspace as well: it names packs, and erasure
has to reach it.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NewType

os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from dvc.exceptions import DvcException
from dvc.repo import Repo

from cdm_core.errors import StateError
from tasks.data.git import run_git, write_git
from tasks.files import PARTIAL_PATTERN, write_atomically
from tasks.workspace import Workspace

# DVC sets its loggers up on import, and shows progress bars unless they are this quiet; what fails is raised.
for _name in ("dvc", "dvc_data", "dvc_objects"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_NOT_IN_CACHE = "not in cache"

Revision = NewType("Revision", str)
"""A git commit id of the workspace."""

_CONFIG = """\
[core]
    analytics = false
    check_update = false
    autostage = false
    remote = local
[cache]
    dir = ../.lethe/dvc/cache
    type = "reflink,copy"
['remote "local"']
    url = {remote}
"""
_CONFIG_LOCAL = """\
['remote "local"']
    url = ../.lethe/dvc/remote
"""
_TRACKED = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "adapters/.gitignore",
    "data_*/.gitignore",
    "data_*/*.dvc",
)


def init_repository(ws: Workspace, home: Path | None = None) -> None:
    """Make the workspace a git and DVC repository, without a commit yet; `home` is where it will lie, if it's elsewhere for now."""
    run_git(ws.root, "init", "--quiet", "--initial-branch=main")
    with _as_state_error(ws):
        Repo.init(str(ws.root)).close()
    remote = Workspace(home or ws.root).dvc_remote
    write_atomically(ws.root / ".dvc" / "config", _CONFIG.format(remote=remote).encode())
    write_atomically(ws.root / ".dvc" / "config.local", _CONFIG_LOCAL.encode())
    write_atomically(ws.root / ".dvcignore", f"{PARTIAL_PATTERN}\n".encode())
    write_atomically(ws.root / ".gitignore", f"/.lethe/\n{PARTIAL_PATTERN}\n".encode())


def commit_data(ws: Workspace, shards: Iterable[int], message: str) -> Revision:
    """Version the packs and manifests of `shards`; returns the revision, the present one if nothing changed.

    Raises:
        StateError: DVC or git fails.
    """
    paths = [str(path) for shard in shards for path in (ws.packs(shard), ws.manifest(shard))]
    with open_repo(ws) as repo:
        repo.add(paths, relink=False)
        revision = _commit(ws, message)
        repo.push(paths)
    return revision


def commit_training(ws: Workspace, shards: Iterable[int], message: str) -> Revision:
    """Record that the adapters of `shards` are what their stages of `dvc.yaml` make; returns the revision.

    Raises:
        StateError: DVC or git fails.
    """
    # Stages are addressed by their file, or DVC would look for it in the current directory.
    stages = [f"{ws.root / 'dvc.yaml'}:train@{shard}" for shard in shards]
    with open_repo(ws) as repo:
        # Nothing was run by DVC, so there is no run for it to remember (and to erase later).
        repo.stage_cache.save = lambda stage: None
        for stage in stages:
            repo.commit(stage, force=True, relink=False)
        revision = _commit(ws, message)
        repo.push(stages)
    return revision


def is_up_to_date(ws: Workspace) -> bool:
    """Whether `dvc status` has nothing to say: all data as committed, all adapters made from it."""
    with open_repo(ws) as repo:
        return not repo.status()


def is_committed(ws: Workspace, shards: Iterable[int]) -> bool:
    """Whether the packs and manifests of `shards` are what the present revision names, and in the cache."""
    return not _find_deviations(ws, shards)


def require_committed(ws: Workspace, shards: Iterable[int], *, in_cache: bool = True) -> None:
    """Return if the packs and manifests are what the present revision names: a change that nobody committed is a mistake, or worse.

    Raises:
        StateError: they aren't, or, with `in_cache`, some aren't in the DVC cache.
    """
    deviations = _find_deviations(ws, shards)
    if deviations - {_NOT_IN_CACHE}:
        raise StateError(f"{ws.root}: packs or manifests were changed since their revision; undo it with: dvc checkout --force")
    if deviations and in_cache:
        raise StateError(f"{ws.root}: packs or manifests are missing in the DVC cache; put them there with: lethe build")


def restore_committed(ws: Workspace, shards: Iterable[int]) -> None:
    """Put packs and manifests of `shards` back to what the present revision names: what a crash left half stored goes.

    DVC sees no change while its cache lacks what it would compare with, so what is missing is fetched first; nothing is touched unless all
    of it is there. If DVC tells of nothing but a missing cache, and no remote fills it, what lies there stays for `lethe build` to version.

    Raises:
        StateError: git fails, or some of it was changed and what it was before is neither in the cache nor in the remote.
    """
    shards = list(shards)
    found = _find_deviations(ws, shards)
    if not found:
        return
    paths = [str(path) for shard in shards for path in (ws.packs(shard), ws.manifest(shard))]
    write_git(ws.root, "restore", "--source=HEAD", "--staged", "--worktree", "--", *(f"{path}.dvc" for path in paths))
    with suppress(StateError), open_repo(ws) as repo:
        repo.fetch(paths)
    if _NOT_IN_CACHE not in _find_deviations(ws, shards):
        with open_repo(ws) as repo:
            repo.checkout(paths, force=True)
    elif found != {_NOT_IN_CACHE}:
        raise StateError(f"{ws.root}: packs or manifests of the present revision are neither in the DVC cache nor in the remote")


def committed_last(ws: Workspace, message: str, parent: str) -> bool:
    """Whether the present revision is the one that a commit of that message made of `parent`."""
    return run_git(ws.root, "log", "-1", "--format=%P %s").strip() == f"{parent} {message}"


def _find_deviations(ws: Workspace, shards: Iterable[int]) -> set[str]:
    """What DVC calls the states of packs and manifests that aren't as committed: "modified", "deleted", "not in cache"…"""
    data_files = [f"{path}.dvc" for shard in shards for path in (ws.packs(shard), ws.manifest(shard))]
    with open_repo(ws) as repo:
        changes = [change for entry in repo.status(data_files).values() for change in entry]
    found = {state for change in changes if isinstance(change, dict) for outs in change.values() for state in outs.values()}
    found |= {change for change in changes if isinstance(change, str)}
    if run_git(ws.root, "diff", "HEAD", "--name-only", "--", *data_files, "dvc.lock"):
        found.add("not committed")
    return found


def data_revision(ws: Workspace) -> Revision:
    """The present revision.

    Raises:
        StateError: there is none yet.
    """
    return Revision(run_git(ws.root, "rev-parse", "--verify", "HEAD").strip())


def site_cache(ws: Workspace) -> Path:
    """Where DVC keeps file states and indices of what remotes hold; may be deleted at any time."""
    return ws.private / "dvc" / "site"


@contextmanager
def open_repo(ws: Workspace) -> Iterator[Repo]:
    """The workspace's DVC repository; what DVC raises comes out as a StateError."""
    with _as_state_error(ws), Repo(str(ws.root), config={"core": {"site_cache_dir": str(site_cache(ws))}}) as repo:
        yield repo


def _commit(ws: Workspace, message: str) -> Revision:
    tracked = sorted(str(path.relative_to(ws.root)) for pattern in _TRACKED for path in ws.root.glob(pattern))
    # Named one by one: requests and other files of a user's never get into the history.
    write_git(ws.root, "add", "--", *tracked)
    if run_git(ws.root, "diff", "--cached", "--name-only", "--", *tracked):
        write_git(ws.root, "commit", "--quiet", f"--message={message}", "--", *tracked)
    return data_revision(ws)


@contextmanager
def _as_state_error(ws: Workspace) -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        raise StateError(f"{ws.root}: DVC: {str(error).splitlines()[0]}") from error
