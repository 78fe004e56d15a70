import io
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from cdm_core.errors import StateError
from tasks.data.openmoji import render_openmoji, render_picture
from tasks.data.pictures import normalise_picture
from tasks.data.shipped import shipped_file


def test_a_picture_is_normal_and_the_same_every_time() -> None:
    png = render_picture("1F600")
    assert render_picture("1F600") == png == normalise_picture(png, "p")
    with Image.open(io.BytesIO(png)) as image:
        grid = np.asarray(image)
    assert (grid[0, 0] == 255).all(), "the ground is white"
    assert (grid[9, 16] == (252, 234, 43)).all(), "the face is OpenMoji's yellow"


@pytest.mark.slow
def test_the_whole_set_and_its_repetitions() -> None:
    heard: list[tuple[int, int]] = []
    owners = defaultdict(list)
    for picture in render_openmoji(lambda done, total: heard.append((done, total))):
        owners[picture.png].append(picture.owner_id)
    assert heard == [(done, 4495) for done in range(1, 4496)]
    # The numbers that the module's docstring states.
    assert len(owners) == 4247
    assert sum(len(set(names)) for names in owners.values()) == 4371
    assert sum(len(set(names)) == 2 for names in owners.values()) == 124


def test_shipped_files_are_found_or_missed_by_name() -> None:
    for name in ("openmoji.csv", "params.yaml", "dvc.yaml"):
        assert shipped_file(name).is_file()
    with pytest.raises(StateError, match=r"^nothing.csv: missing from this installation of Lethe"):
        shipped_file("nothing.csv")
