"""The server by its own description: what that allows is answered as it says, all else refused."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.services import LONG, listening, ready, service_of

pytestmark = pytest.mark.whole

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method"),
)


def test_what_its_document_leads_to(stories_nano, tmp_path):
    with service_of(stories_nano) as service, listening(service) as address:
        ready(service)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                "http://{}:{}/openapi.json".format(*address),
                *("--exclude-path", "/events"),  # without end
                *("--phases", "coverage,fuzzing", "--max-examples", "10", "--seed", "1"),
                *("--checks", ",".join(CHECKS), "--generation-database", "none", "--no-color"),
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=6 * LONG,
        )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"Tested: +(\d+)", done.stdout)[1]) >= 9, done.stdout
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) >= 100, done.stdout
