"""Why the scheduler does not compute what it was asked for."""

from __future__ import annotations

from jobonnx.errors import JobonnxError


class OverloadedError(JobonnxError):
    """The queue is full, or too long for the deadline.

    Attributes:
        retry_after: seconds after which there is room, at the measured rate.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLargeError(JobonnxError):
    """A request that could never be admitted."""


class DeadlineError(JobonnxError):
    """A request was not done by its deadline."""


class DrainingError(JobonnxError):
    """The service is about to stop and takes nothing new."""
