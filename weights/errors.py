"""What programs report to their users: one line that says what, where, and what to do about it."""


class ReportedError(Exception):
    """Base of everything that a program prints as one line before it ends.

    Members
    -------
    status : exit status of the program
    """

    status = 1


class ModelError(ReportedError):
    """A checkpoint or model file cannot be used."""


class UsageError(ReportedError):
    """An argument cannot be used."""

    status = 2
