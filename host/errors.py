"""What goes wrong between host and device; messages are those of `weights.errors`."""

import weights.errors
from weights.errors import ReportedError


class HostError(ReportedError):
    """Base of everything that a program of the host reports."""


class DeviceError(HostError):
    """A device is silent, refuses, or answers nonsense."""


class RefusedError(DeviceError):
    """A device refuses a command.

    Members
    -------
    reason : the code that it gives, a `hw.arch.protocol.Reason` if it is known
    """

    def __init__(self, text: str, reason: int):
        super().__init__(text)
        self.reason = reason


class LostError(DeviceError):
    """A device does not hold what this host put there: its model is not to be trusted."""


class FitError(HostError):
    """A model is larger than the device."""


class UsageError(HostError, weights.errors.UsageError):
    """An argument cannot be used."""
