"""Lethe's errors. A class exists only where a caller would act differently.

LetheError                  every error that a user can cause or mend; the command line prints it as one line, exit code 1
├── InvalidInputError       a file, folder or option is not what it must be
├── RequestRefusedError     a request was understood well enough to be refused, and the refusal is recorded
├── VerificationError       a signature, digest or chain doesn't hold
├── SuppressedError         data that was erased on request is offered again
└── StateError              the workspace is not in the state that the command needs
"""


class LetheError(Exception):
    """Root of everything that is a user's matter; anything else is a bug and shows its traceback."""


class InvalidInputError(LetheError):
    """A file, folder or option is not what it must be."""


class RequestRefusedError(LetheError):
    """A request was refused; `reason` is a short code for the record."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class VerificationError(LetheError):
    """A signature, digest or chain of records doesn't hold."""


class SuppressedError(LetheError):
    """Data that was erased on request is offered again."""


class StateError(LetheError):
    """The workspace is not in the state that the command needs."""
