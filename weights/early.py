"""Imported first by a program: from here on its imports end in one line, or in none after Ctrl-C.

`weights.commandline.program` does the same for the program's own work. This is for the time before,
in which its modules are imported, and may find a package missing. After Ctrl-C the process then
ends by the signal, as a shell expects.
"""

import sys
from types import TracebackType

_report = sys.excepthook


def _shortly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        from .commandline import report_failure

        report_failure(error)
    elif not issubclass(kind, KeyboardInterrupt):
        _report(kind, error, trace)


sys.excepthook = _shortly
