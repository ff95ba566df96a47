"""What every measurement leaves behind: lines in results/, tables between marks in the READMEs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def append(path: Path, rows: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Append rows to a file of JSON lines, each with `about`, machine, commit and date."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout.strip()
    stamp = {
        **about,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({**stamp, **row}) + "\n")


def publish(mark: str, text: str) -> None:
    """Put a table into the pages that have its marks, between them."""
    for page in (HERE / "README.md", HERE.parent / "README.md"):
        before, found, rest = page.read_text().partition(f"<!-- {mark} -->\n")
        if found:
            _, end, after = rest.partition(f"<!-- /{mark} -->")
            page.write_text(f"{before}{found}{text}\n{end}{after}")


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
