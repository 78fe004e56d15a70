"""The fingerprint of this process: what the core measures, and the environment that it doesn't read."""

import os

from cdm_core.fingerprint import Fingerprint, measure_fingerprint


def measure_own_fingerprint() -> Fingerprint:
    """As `measure_fingerprint`; worker processes are forked, so theirs is the same."""
    return measure_fingerprint(os.environ)
