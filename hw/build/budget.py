"""What machines may take of an ECP5: ``python -m hw.build.budget`` fails where one takes more.

``budget.json`` holds, for each of a few boards, what its machine took when the file was written. A
machine that takes 3 % more is too large; one that takes 3 % less has earned a lower budget, which
``--update`` writes.
"""

from weights import early as early  # isort: split

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hw.build.steps import synthesise, synthesised_board
from weights.commandline import OneLineParser, program
from weights.files import user_path, write_file

BUDGET = Path(__file__).with_name("budget.json")
TOLERANCE = 0.03


def compare(budget: dict[str, int], taken: dict[str, int]) -> tuple[list[str], list[str]]:
    """Resources of which too much is taken, and those whose budget can be lowered, a line each."""
    over, under = [], []
    for resource, allowed in budget.items():
        used = taken[resource]
        line = f"{resource} {used:,} of {allowed:,} ({used / allowed - 1:+.1%})"
        if used > (1 + TOLERANCE) * allowed:
            over.append(line)
        elif used < (1 - TOLERANCE) * allowed:
            under.append(line)
    return over, under


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m hw.build.budget", description="Compare machines with their budgets."
    )
    parser.add_argument("--update", action="store_true", help="write what they take now")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    budgets = json.loads(BUDGET.read_text())
    say = functools.partial(print, flush=True)
    failed = False
    for name, budget in budgets.items():
        taken = synthesise(synthesised_board(name), output=options.output, say=say)
        print(f"{name}: {', '.join(f'{resource} {used:,}' for resource, used in taken.items())}")
        over, under = compare(budget, taken)
        for line in over:
            print(f"{name} takes more than its budget: {line}")
        for line in under:
            print(f"{name} takes less than its budget, which should be lowered: {line}")
        failed |= bool(over)
        budgets[name] = taken
    if options.update:
        write_file(BUDGET, f"{json.dumps(budgets, indent=2)}\n".encode())
        return 0
    if failed:
        print("make it smaller, or accept it: python -m hw.build.budget --update", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
