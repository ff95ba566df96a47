"""What llama.cpp holds likely: `python llamacpp_logits.py FOLDER KIND WORK THREADS`.

Reads a JSON line {"ids": [...], "out": "x.npy"} for each text, writes the logits of every position
but the last to the file, (positions, vocabulary) fp32, and answers with a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from llamacpp_engine import LlamaCpp


def main() -> None:
    folder, kind, work, threads = sys.argv[1:]
    engine = LlamaCpp(Path(folder), int(threads), kind, Path(work))
    for line in sys.stdin:
        ask = json.loads(line)
        np.save(ask["out"], engine.logits(ask["ids"]))
        print(json.dumps({"name": engine.description}), flush=True)


if __name__ == "__main__":
    main()
