"""`lethe unlink`: a closed request is taken out of the ledger, whose proofs go on holding."""

from pathlib import Path

from flows.session import open_for_flow
from tasks.clock import utc_now


def run_unlink(directory: Path, request_id: str) -> dict[str, object]:
    """Destroy what leads from the ledger's leaves to a closed request."""
    from tasks.ledger.unlinking import unlink_request

    return dict(unlink_request(open_for_flow(directory), request_id, utc_now()))
