"""A script written for vLLM runs unchanged, as a file and in a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from random_models import write_model

SCRIPT = """\
from argosy import LLM, SamplingParams
llm = LLM(model={model!r}, tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_len=4096,
          dtype="auto", trust_remote_code=True, enforce_eager=True)
params = SamplingParams(temperature=0.7, top_p=0.9, top_k=50, max_tokens=512, presence_penalty=0.1,
                        frequency_penalty=0.1, stop=["</s>", "Human:"])
outputs = llm.generate(["What is LLMOps?"], params)
print(outputs[0].outputs[0].text)
"""
TAIL = (
    "print('tokens', len(outputs[0].outputs[0].token_ids), outputs[0].outputs[0].finish_reason)\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", arch="llama", max_position=4096, vocab=512)


def assert_answered(text: str) -> None:
    words = text.split()[-3:]
    assert words[0] == "tokens"
    assert words[2] in ("stop", "length")
    assert 1 <= int(words[1]) <= 512


def test_as_a_file(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(model)) + TAIL)
    ran = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert_answered(ran.stdout)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_in_a_notebook(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the oracle's environment, which has Jupyter's kernel."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HOME", str(tmp_path))
    cells = [SCRIPT.format(model=str(model)), TAIL]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert_answered(notebook.cells[-1].outputs[0]["text"])
