"""Programs of others: finding the one that a variable names, and saying why one failed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
OUT_OF_MEMORY = re.compile(
    r"bad_alloc|out of memory|memory exhausted|cannot allocate memory|memory allocation\b.*\bfailed"
    r"|MemoryError",
    re.IGNORECASE,
)
CHILD_KILLED = re.compile(
    r".*(?:signal terminated program|terminated with signal|unable to execute command:).*"
)
"""What compilers' drivers say of a program of theirs that was killed."""

FATAL = {
    getattr(signal, f"SIG{name}")
    for name in "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL SEGV PIPE ALRM TERM XCPU XFSZ".split()
    if hasattr(signal, f"SIG{name}")
}


def find_command(text: str) -> list[str] | None:
    """Words of a command as people set it in a variable, the path of its program made absolute.

    That is a program, whose path may have blanks, or a program and options: ``ccache g++``. None if
    there is no such program.
    """
    try:
        choices = [[text.strip()], shlex.split(text)]
    except ValueError:  # a quote that does not end
        choices = [[text.strip()]]
    for program, *options in filter(None, choices):
        if found := shutil.which(os.path.expanduser(program)):
            return [os.path.abspath(found), *options]
    return None


BOUND = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.set_inheritable(int(sys.argv[1]), False)
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    os.write(int(sys.argv[1]), str(error.errno).encode())
"""


def start(command: list[str], **options) -> subprocess.Popen:
    """A ``Popen`` of a program that the system ends with the thread that started it.

    So it is on Linux; elsewhere it outlives a parent that is killed. Raises OSError if the program
    cannot be started.
    """
    if sys.platform != "linux":
        return subprocess.Popen(command, **options)
    reader, writer = os.pipe()  # which the program's start closes, or says why there is none
    try:
        bound = [sys.executable, "-I", "-c", BOUND, str(writer), *command]
        process = subprocess.Popen(bound, pass_fds=[writer], **options)
    finally:
        os.close(writer)
    with open(reader, "rb") as answer:
        failed = answer.read()
    if failed:
        process.communicate()
        raise OSError(int(failed), os.strerror(int(failed)))
    return process


def first_error(output: str) -> str:
    """The line of a program's output that tells most: the first on an error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error\b", line, re.IGNORECASE)]
    return (errors[:1] or lines[-1:] or ["no message"])[0]


def killed(tool: str, status: int, output: str) -> str | None:
    """That a program was killed, or found memory or disk full; None if it failed by itself.

    Parameters
    ----------
    status : int
        As `subprocess` has it. Shells and scripts report a signal as 128 more than its number.
    """
    if DISK_FULL.search(output):
        return f"{tool} found no space left on the disk: free some"
    number = _signal(status, output)
    if OUT_OF_MEMORY.search(output):
        cause = f" ({_name(number)})" if number else ""
        return f"{tool} ran out of memory{cause}: close other programs, or run fewer at a time"
    if number == signal.SIGKILL:
        return (
            f"{tool} was killed (SIGKILL), often because memory ran out: "
            "close other programs, or run fewer at a time"
        )
    return f"{tool} was killed ({_name(number)})" if number else None


def _signal(status: int, output: str) -> int | None:
    if status < 0:
        return -status
    if status - 128 in FATAL:
        return status - 128
    if line := CHILD_KILLED.search(output):
        for number in FATAL:
            if (signal.strsignal(number) or "") in line[0]:
                return number
    return None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
