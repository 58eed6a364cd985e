"""What the host reports to its user: one line that says where, what, and what to do about it."""


class HostError(Exception):
    """Base of everything that a program of the host prints as one line."""


class DeviceError(HostError):
    """A device is silent, refuses, or answers nonsense."""


class FitError(HostError):
    """A model is larger than the device."""


class UsageError(HostError):
    """An argument cannot be used."""
