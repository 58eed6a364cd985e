"""Bitstreams of boards: ``python -m hw.build BOARD``.

`plan.plan` is pure: it makes the files and commands of a build and its digest, and runs nothing.
`steps.build` runs the tools in ``build/BOARD/DIGEST-TOOLS`` (digests of the plan and of the
versions of the tools), where every finished step stays, so that no step of a plan runs twice. The
best seed's bitstream and report go to ``build/BOARD/top.bit`` and ``report.json``, a picture of a
token's time to ``profile.svg``, and all of it as a page to ``report.html``. These are removed
before anything else happens: what lies there is of the last build, and a ``top.bit`` has met its
timing.
"""

from weights.errors import ReportedError


class BuildError(ReportedError):
    """A build that did not end in a bitstream; the message is for users."""
