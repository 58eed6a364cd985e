"""Imported first by a program: from here on Ctrl-C ends it without a traceback.

`weights.commandline.program` does the same for the program's own work. This is for the time before,
in which its modules are imported. The process then ends by the signal, as a shell expects.
"""

import sys
from types import TracebackType

_report = sys.excepthook


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _report(kind, error, trace)


sys.excepthook = _quietly
