"""Requests made from the OpenAPI document, sound and not, by schemathesis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.full_server import full_server

pytestmark = pytest.mark.fuzz
EXAMPLES = int(os.environ.get("ARGOSY_FUZZ_REQUESTS", "20000")) // 12
"""Per operation; there are six, each run twice here, and what the coverage phase adds."""

# Not whether a body fits the schema: what a schema cannot say is refused too, or accepted.
CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "unsupported_method",
    )
)


def run(server_url: str) -> None:
    """A volley of schemathesis; its findings are the failure's text."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server_url}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--mode", "all", "--workers", "1"),
            *("--checks", CHECKS, "--max-examples", str(EXAMPLES)),
            *("--request-timeout", "60", "--suppress-health-check", "all", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    print(done.stdout[-600:])


def test_schema(tmp_path: Path) -> None:
    """No 5xx, no hang, no answer that the document does not name; memory stays where it was."""
    with full_server(tmp_path) as server:
        run(server.url)
        before = server.resident_bytes()
        run(server.url)
        after = server.resident_bytes()
        print(f"resident {before >> 20} -> {after >> 20} MiB")
        assert after <= 1.05 * before
        assert server.check() == "ok"
