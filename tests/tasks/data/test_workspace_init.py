from collections.abc import Iterator
from pathlib import Path

import pytest
from small_workspace import ARRIVED_AT, OWNERS, SECRET, png, source_pictures

from cdm_core.errors import InvalidInputError, StateError
from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_versions import data_revision
from tasks.data.git import run_git
from tasks.data.manifest_store import load_manifests
from tasks.data.packs import read_pack
from tasks.data.pictures import SourcePicture
from tasks.data.samples import pack_name
from tasks.data.shipped import shipped_file
from tasks.data.workspace_init import InitSummary, check_directory, create_workspace
from tasks.workspace import Workspace, open_workspace


def create(directory: Path, pictures: list[SourcePicture] | Iterator[SourcePicture], **options: int) -> InitSummary:
    options = {"shards": 3, "stages": 2} | options
    return create_workspace(directory, pictures=pictures, secret=SECRET, progress=lambda done, total: None, **options)


def picture(owner: str, grey: int, caption: str = "", tier: str | int | None = None) -> SourcePicture:
    return SourcePicture(owner_id=owner, tier=tier, png=png(grey), caption=caption, arrived_at=ARRIVED_AT)


def test_what_the_summary_says_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "ws"
    heard: list[tuple[int, int]] = []
    summary = create_workspace(
        directory, shards=3, stages=2, pictures=source_pictures(), secret=SECRET, progress=lambda *call: heard.append(call)
    )
    ws = Workspace(directory)
    manifests = load_manifests(ws)
    assert (summary.samples, summary.owners) == (12, 4)
    assert [(s.shard, s.samples, s.owners) for s in summary.shards] == [
        (shard, len(frame), frame["owner_key"].nunique()) for shard, frame in manifests.items()
    ]
    assert summary.dvc_revision == data_revision(ws)
    assert heard == [(done, 4) for done in range(1, 5)]
    for number, owner in enumerate(OWNERS):
        rows = find_samples(manifests, owner_keys={compute_owner_key(SECRET, owner)})
        pack = read_pack(ws.packs(rows["shard"].iloc[0]) / rows["pack"].iloc[0])
        assert set(pack) == set(rows["sample_id"])
        assert set(pack.values()) == {png(10 * number + index) for index in range(3)}
    assert run_git(ws.root, "status", "--porcelain") == ""
    assert sorted(path.name for path in directory.iterdir()) == [
        ".dvc",
        ".dvcignore",
        ".git",
        ".gitignore",
        ".lethe",
        "data_manifests",
        "data_packs",
        "dvc.yaml",
        "params.yaml",
    ]


def test_no_name_of_an_owner_is_in_any_file(tmp_path: Path) -> None:
    create(tmp_path / "ws", [picture("johanna-of-ghent", 1)])
    for path in (tmp_path / "ws").rglob("*"):
        assert "johanna" not in path.name
        assert not path.is_file() or b"johanna" not in path.read_bytes()


def test_parameters_are_set_and_their_comments_kept(tmp_path: Path) -> None:
    create(tmp_path / "ws", source_pictures(), shards=5, stages=3)
    settings = Workspace(tmp_path / "ws").settings()
    assert (settings.shard_ids, settings.stages) == ([0, 1, 2, 3, 4], 3)
    template, text = (path.read_text().splitlines() for path in (shipped_file("params.yaml"), tmp_path / "ws" / "params.yaml"))
    changed = {new for old, new in zip(template, text, strict=True) if old != new}
    assert changed == {
        "shard_ids: [0, 1, 2, 3, 4]",
        "stages: 3",
        "  epochs: [4, 1, 1] # one number a stage, or one for all; about the steps of 3 for all, spent where deletions are rare",
    }


def test_of_an_owners_equal_pictures_the_first_stays_and_other_owners_keep_theirs(tmp_path: Path) -> None:
    pictures = [picture("anna", 1, "first"), picture("ben", 1, "mine"), picture("anna", 1, "second")]
    assert create(tmp_path / "ws", pictures).samples == 2
    manifests = load_manifests(Workspace(tmp_path / "ws"))
    assert find_samples(manifests, owner_keys={compute_owner_key(SECRET, "anna")})["caption"].tolist() == ["first"]
    assert find_samples(manifests, owner_keys={compute_owner_key(SECRET, "ben")})["caption"].tolist() == ["mine"]


def test_the_declared_tier_is_the_stage(tmp_path: Path) -> None:
    create(tmp_path / "ws", [picture("anna", 1, tier=1), picture("ben", 2, tier=0), picture("cleo", 3, tier=1)])
    manifests = load_manifests(Workspace(tmp_path / "ws"))
    for owner, stage in (("anna", 1), ("ben", 0), ("cleo", 1)):
        assert find_samples(manifests, owner_keys={compute_owner_key(SECRET, owner)})["stage"].tolist() == [stage]


@pytest.mark.parametrize("stages", [1, 2, 4, 5, 100])
def test_any_number_of_stages_fits_the_tiers(tmp_path: Path, stages: int) -> None:
    create(tmp_path / "ws", [picture("anna", 1, tier="contract"), picture("ben", 2, tier="contested")], stages=stages)
    ws = Workspace(tmp_path / "ws")
    training, manifests = ws.settings().training, load_manifests(ws)
    epochs = [training.stage_epochs(stage) for stage in range(stages)]
    assert epochs == sorted(epochs, reverse=True)
    cold, hot = (find_samples(manifests, owner_keys={compute_owner_key(SECRET, owner)})["stage"].item() for owner in ("anna", "ben"))
    assert cold <= (stages - 1) // 4
    assert hot >= stages * 3 // 4


def test_keys_may_be_there_before_and_make_it_a_workspace(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    ws.keys.mkdir(parents=True)
    (ws.keys / "secret").write_text("s")
    create(tmp_path / "ws", source_pictures())
    assert open_workspace(tmp_path / "ws") == ws
    assert (ws.keys / "secret").read_text() == "s"


def test_the_same_pictures_make_the_same_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create(tmp_path / name, source_pictures())
    data = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).glob("data_*/**/*") if path.is_file()}
        for name in ("a", "b")
    ]
    assert data[0] == data[1]
    assert len(data[0]) == 4 + 3 + 3 + 3 + 2  # packs, manifests, and what git tracks of them


def test_used_directories_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"file: is a file, not a folder$"):
        create(tmp_path / "file", [])
    with pytest.raises(InvalidInputError, match=r": is not empty, file is there; give a new folder$"):
        create(tmp_path, [])
    (tmp_path / "old" / ".lethe" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match=r"old: is not empty, .lethe/checkpoints is there; give a new folder$"):
        create(tmp_path / "old", [])
    create(tmp_path / "ws", source_pictures())
    revision = data_revision(Workspace(tmp_path / "ws"))
    with pytest.raises(StateError, match=r"ws: is a workspace already$"):
        create(tmp_path / "ws", source_pictures())
    assert data_revision(Workspace(tmp_path / "ws")) == revision


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"^tier: must be one of contract, opt-in, opt-out, contested, or a stage's number"):
        create(tmp_path / "ws", [picture("anna", 1), picture("ben", 2, tier="unheard-of")])
    with pytest.raises(InvalidInputError, match=r"^tier 2 is not between 0 and 1$"):
        create(tmp_path / "ws", [picture("anna", 1), picture("ben", 2, tier=2)])
    assert not (tmp_path / "ws").exists()

    def interrupted() -> Iterator[SourcePicture]:
        yield picture("anna", 1)
        raise KeyboardInterrupt

    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path / "empty", interrupted())
    assert list((tmp_path / "empty").iterdir()) == []


def test_after_a_kill_the_same_command_succeeds(tmp_path: Path) -> None:
    (tmp_path / "ws" / ".init.partial" / "data_packs").mkdir(parents=True)
    (tmp_path / "ws" / ".init.partial" / "params.yaml").write_text("left by the first attempt")
    check_directory(tmp_path / "ws")
    assert create(tmp_path / "ws", source_pictures()).samples == 12
    assert not (tmp_path / "ws" / ".init.partial").exists()


def test_a_workspace_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(InvalidInputError, match=r"file/ws/params\.yaml: can't be written: .*/file is not a folder$"):
        check_directory(tmp_path / "file" / "ws")


def test_a_workspace_without_pictures_is_a_workspace(tmp_path: Path) -> None:
    summary = create(tmp_path / "ws", [])
    assert (summary.samples, summary.owners) == (0, 0)
    assert all(frame.empty for frame in load_manifests(Workspace(tmp_path / "ws")).values())
    assert pack_name(compute_owner_key(SECRET, "anna")).endswith(".tar")
