"""`argosy bench`: how fast the engine is on this machine."""

from __future__ import annotations

import json
import random
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Annotated, Protocol, runtime_checkable

import typer

from argosy.cli.opening import open_model
from argosy.cli.options import EngineFlags, Model, takes
from argosy.client.local import LocalClient
from argosy.engine.engine import Engine
from argosy.errors import ConfigError
from argosy.types import RequestOutputKind, SamplingParams

HELP = """Sends random prompts, so nothing is found in the prefix cache, and lets every answer run
to its full length. Batch size 1 measures latency, larger ones throughput. Each row is the median of
--repeat runs after a warm-up. A server is measured by `argosy bench serve`."""

EXAMPLES = """\b
Examples:
  argosy bench
  argosy bench ~/models/my-llama --quantize w4 --batch-size 1 --batch-size 16
  argosy bench --input-len 1024 --output-len 32 --json
  argosy bench ~/models/my-llama -q w4 --batch-size 32 --profile"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One row. Rates in tokens per second; first_token_s: the median request's wait.

    prompt: all prompts' tokens until every request has its first token.  decode: tokens after
    that, all requests together.
    """

    batch_size: int
    input_len: int
    output_len: int
    first_token_s: float
    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    total_s: float


@takes(engine=EngineFlags)
def run(
    model: Model = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, help="Requests at once; may be repeated.", show_default="1, 4, 16"
        ),
    ] = None,
    input_len: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a prompt.")] = 128,
    output_len: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of an answer.")] = 64,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Runs per row.")] = 3,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Under each row, where the steps spent their time.")
    ] = False,
    *,
    engine: EngineFlags,
) -> None:
    """Measure and print a table."""
    client = open_model(engine, model)
    measure(client, 1, min(input_len, 16), 2)
    watch = Watch(client) if profile else None
    if not as_lines:
        print(HEAD)
    for size in batch_size or [1, 4, 16]:
        if watch:
            watch.start()
        runs = [measure(client, size, input_len, output_len, seed) for seed in range(1, repeat + 1)]
        row, spent = middle(runs), watch.stop() if watch else None
        print(as_json(row, spent) if as_lines else as_row(row, spent), flush=True)


def measure(
    client: LocalClient, batch_size: int, input_len: int, output_len: int, seed: int = 0
) -> Figures:
    """Run `batch_size` requests with random prompts at once, and time their tokens."""
    draw = random.Random(f"{batch_size} {seed}")
    params = SamplingParams(
        temperature=0.0,
        max_tokens=output_len,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    vocab_size = client.intake.vocab_size
    prompts = [[draw.randrange(vocab_size) for _ in range(input_len)] for _ in range(batch_size)]
    accepted = [client.intake.accept(prompt, params) for prompt in prompts]
    start = time.perf_counter()
    first: dict[str, float] = {}
    late = 0
    with closing(client.stream(accepted)) as outputs:
        for output in outputs:
            if len(first) == batch_size:
                late += len(output.outputs[0].token_ids)
            first.setdefault(output.request_id, time.perf_counter() - start)
    total = time.perf_counter() - start
    prompts_s = max(first.values())
    return Figures(
        batch_size,
        input_len,
        output_len,
        first_token_s=median(first.values()),
        prompt_tokens_per_s=batch_size * input_len / prompts_s,
        decode_tokens_per_s=late / (total - prompts_s),
        total_s=total,
    )


def middle(runs: list[Figures]) -> Figures:
    """The median of each figure."""
    names = ("first_token_s", "prompt_tokens_per_s", "decode_tokens_per_s", "total_s")
    return replace(runs[0], **{n: median(getattr(run, n) for run in runs) for n in names})


@runtime_checkable
class Timed(Protocol):
    """A runtime that knows where its steps spend their time."""

    def profile(self) -> None:
        """Count from zero."""
        ...

    def times(self) -> dict[str, tuple[float, float]]:
        """Seconds of each operation's work, and of waiting at its end."""
        ...


class Watch:
    """Where the steps of an engine in this process spend their time.

    Raises ConfigError for a runtime that does not tell.
    """

    def __init__(self, client: LocalClient) -> None:
        assert isinstance(client.engine, Engine)
        runtime = client.engine.runtime
        if not isinstance(runtime, Timed):
            raise ConfigError("--profile needs --runtime native: the reference keeps no times")
        self._runtime, self._begun = runtime, 0.0

    def start(self) -> None:
        """Count from zero."""
        self._runtime.profile()
        self._begun = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Shares of the time since: operations by what they took, waits, and all around them."""
        whole = time.perf_counter() - self._begun
        times = self._runtime.times()
        spent = {name: work / whole for name, (work, _) in times.items()}
        spent = dict(sorted(spent.items(), key=lambda item: -item[1]))
        spent["waiting for threads"] = sum(wait for _, wait in times.values()) / whole
        return spent | {"around the steps": 1 - sum(spent.values())}


HEAD = "batch  input  output  first token (ms)  prompt (tok/s)  decode (tok/s)  total (s)"


def as_row(row: Figures, spent: dict[str, float] | None) -> str:
    """A line under HEAD, and the shares under it."""
    told = "" if spent is None else "\n" + "\n".join(f"  {v:6.1%}  {k}" for k, v in spent.items())
    return (
        f"{row.batch_size:5}  {row.input_len:5}  {row.output_len:6}  "
        f"{1000 * row.first_token_s:16.1f}  {row.prompt_tokens_per_s:14.1f}  "
        f"{row.decode_tokens_per_s:14.1f}  {row.total_s:9.2f}{told}"
    )


def as_json(row: Figures, spent: dict[str, float] | None) -> str:
    """One line of JSON."""
    return json.dumps(asdict(row) | ({} if spent is None else {"shares": spent}))
