"""Files that ship with Lethe: the OpenMoji table and the templates of `params.yaml` and `dvc.yaml`.

A wheel carries them under `tasks/data/`; in a checkout (and an editable installation of it) they lie where the project itself uses them.
"""

from pathlib import Path

from cdm_core.errors import StateError

_HERE, _CHECKOUT = Path(__file__).parent, Path(__file__).parents[2]
_PLACES = (_HERE, _CHECKOUT, _CHECKOUT / "data_manifests")


def shipped_file(name: str) -> Path:
    """Where the shipped file `name` lies.

    Raises:
        StateError: the installation lacks it.
    """
    for place in _PLACES:
        if (place / name).is_file():
            return place / name
    raise StateError(f"{name}: missing from this installation of Lethe; install it again")
