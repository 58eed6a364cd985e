"""What the project's command lines have in common: complaints in one line, and exit statuses."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

FAILED = 1
WRONG_USAGE = 2


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage in one line, with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def report_failure(error: Exception) -> int:
    """Says in one line on standard error why a run failed. Returns its exit status."""
    message = str(error)
    if isinstance(error, OSError):
        message = f"{error.filename or 'file'}: {error.strerror or error}"
    print(" ".join(message.split()), file=sys.stderr)
    return FAILED
