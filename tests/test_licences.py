"""THIRD_PARTY.md against what is installed: each direct dependency is in it, and so is whatever isn't under a permissive licence."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
PERMISSIVE = r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MIT-CMU|Zope|0BSD|Unlicense"
RESTRICTIVE = r"GPL|GNU|MPL|Mozilla|EPL|Eclipse|NVIDIA|Proprietary|CC-BY|Artistic"
# Their metadata name no licence; the licence file in the package says MIT.
MIT_BY_FILE = {"huey", "resvg-py", "skops"}


def _direct() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


def _installed(start: list[Requirement]) -> set[str]:
    """Canonical names of all that the requirements bring along on this machine."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(start)
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        for requirement in map(Requirement, distribution(wanted.name).requires or []):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *wanted.extras}):
                waiting.append(requirement)
    return {name for name, _ in seen}


def _licence(name: str) -> str:
    metadata = distribution(name).metadata
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    return " ".join([metadata.get("License-Expression") or (metadata.get("License") or "").partition("\n")[0], *classifiers])


def test_direct_dependencies_are_listed() -> None:
    listed = (REPOSITORY / "THIRD_PARTY.md").read_text()
    assert [name for name in sorted(canonicalize_name(r.name) for r in _direct()) if not re.search(rf"\b{name}\b", listed)] == []


def test_whatever_is_not_permissive_is_listed() -> None:
    listed = (REPOSITORY / "THIRD_PARTY.md").read_text()
    missing = {}
    for name in _installed(_direct()) - MIT_BY_FILE:
        licence = _licence(name)
        is_permissive = re.search(PERMISSIVE, licence) and not re.search(RESTRICTIVE, licence)
        if not is_permissive and not name.startswith("nvidia-") and not re.search(rf"\b{name}\b", listed):
            missing[name] = licence
    assert missing == {}
