"""What goes wrong between host and device; messages are those of `weights.errors`."""

from weights.errors import ReportedError, UsageError

__all__ = ["DeviceError", "FitError", "HostError", "UsageError"]


class HostError(ReportedError):
    """Base of everything that a program of the host reports."""


class DeviceError(HostError):
    """A device is silent, refuses, or answers nonsense."""


class FitError(HostError):
    """A model is larger than the device."""
