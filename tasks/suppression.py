"""The suppression list: what was erased on request may not come back.

It holds keyed hashes. With the workspace's secret a sample can be tested against the list; the list alone gives no sample back.
"""

from cdm_core.digests import keyed_hash
from tasks.keys import owner_secret
from tasks.workspace import Workspace


def suppression_hash(ws: Workspace, sample_id: str) -> str:
    """What the list holds of a sample."""
    return keyed_hash(owner_secret(ws), "suppressed", sample_id)
