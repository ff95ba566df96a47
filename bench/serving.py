"""How well do servers serve? Argosy beside llama.cpp's server and vLLM on a CPU, part by part.

    slo    most users at once whose first token comes within 200 ms for 95 % of requests
    http   tokens per second through HTTP against the same engine without it, 32 streams
    cpu    the server's CPU per streamed token at 1, 100 and 1000 connections, all its processes
    trace  end-to-end latency under a recorded trace at shares of the slowest server's capacity
    soak   --minutes of a trace at the first of --shares of its own capacity: errors and memory

Servers run one at a time and in turn, A B C A B C; the load comes from this process, on the same
cores. Prompts have the same number of tokens everywhere, answers the same length (ignore_eos).
Every figure is appended to results/serving.jsonl with machine, commit and date; --publish puts the
table into the pages that have a place for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import uvloop

from argosy.load.api import Api, find_model
from argosy.load.arrivals import Arrival, fit, read_trace
from argosy.load.connection import Target
from argosy.load.drive import Driver, Users
from argosy.load.limits import parse_objectives
from argosy.load.measure import summarize
from argosy.load.prompts import learn
from argosy.load.report import level_line
from argosy.load.search import best, search

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import argosy_server  # noqa: E402
import llamacpp_server  # noqa: E402
import vllm_cpu  # noqa: E402
from checkpoints import bundle, checkpoint  # noqa: E402
from processes import Command, Server  # noqa: E402
from records import append, processor, publish  # noqa: E402
from settings import Settings  # noqa: E402

Row = dict[str, Any]
SLO = "ttft_p95=200ms"
STREAMS = 32
SOAK_ROW_S = 60.0
"""A soak is told of as often."""


def main() -> None:
    args = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    args.work.mkdir(parents=True, exist_ok=True)
    rows = PARTS[args.part](args)
    record(args, rows)
    text = TABLES[args.part](rows)
    print(text)
    if args.publish:
        publish(f"{args.part} {args.model}", f"{heading(args)}\n\n{text}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--model", choices=["embedded", "0.5b"], default="embedded")
    parser.add_argument("--servers", default="argosy", help="of argosy,llamacpp,vllm")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server")
    parser.add_argument("--duration", type=float, default=10, help="slo: seconds of each level")
    parser.add_argument("--max-users", type=int, default=1024, help="slo: no level above it")
    parser.add_argument("--input-len", type=int, help="default: 128; cpu 16; http 32")
    parser.add_argument("--output-len", type=int, help="default: 64; cpu 256; http 128")
    parser.add_argument("--connections", default="1,100,1000", help="cpu: how many at once")
    parser.add_argument("--requests", type=int, default=0, help="cpu, http, trace: how many")
    parser.add_argument("--trace", type=Path, help="trace: the file")
    parser.add_argument("--scale-lengths", type=float, default=0.25, help="trace: factor")
    parser.add_argument("--shares", default="0.5,0.7,0.9", help="trace: of the least capacity")
    parser.add_argument("--minutes", type=float, default=30, help="soak: how long")
    parser.add_argument("--slots", type=int, default=256, help="sequences at once in every server")
    parser.add_argument(
        "--threads", type=int, help="of engines; default: all cores, but one for the embedded model"
    )
    parser.add_argument("--work", type=lambda p: Path(p).resolve(), default=HERE / "work")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "serving.jsonl")
    parser.add_argument("--publish", action="store_true", help="renew the READMEs' tables")
    parser.add_argument("--llama-server", type=Path, help="the program llama-server")
    parser.add_argument("--llamacpp", type=Path, help="python of an environment with gguf")
    parser.add_argument("--argosy-args", default="", help="more for argosy serve")
    parser.add_argument("--llamacpp-args", default="", help="more for llama-server")
    parser.add_argument("--vllm", type=Path, help="python of vLLM's environment")
    args = parser.parse_args()
    if args.threads is None:  # what is best for each server
        args.threads = max(1, len(os.sched_getaffinity(0)) - (args.model == "embedded"))
    lengths = {"cpu": (16, 256), "http": (STREAMS, 128)}.get(args.part, (128, 64))
    args.input_len, args.output_len = args.input_len or lengths[0], args.output_len or lengths[1]
    return args


def settings_of(args: argparse.Namespace) -> Settings:
    longest = args.input_len + args.output_len
    most = 2048 if args.part in ("trace", "soak") else max(512, -(-longest // 256) * 256)
    return Settings(
        args.model,
        args.work,
        args.threads,
        args.slots,
        most,
        argosy_args=tuple(args.argosy_args.split()),
        llamacpp_args=tuple(args.llamacpp_args.split()),
    )


def commands(args: argparse.Namespace) -> list[Command]:
    """The servers asked for; their models are made first, so that no start waits for that."""
    settings, made = settings_of(args), []
    for name in args.servers.split(","):
        if name == "argosy":
            made.append(argosy_server.command(settings, bundle(args.model, args.work)))
        elif name == "llamacpp":
            need(args, "llama_server", "llamacpp")
            folder = checkpoint(args.model, args.work)
            made.append(llamacpp_server.command(settings, args.llama_server, folder, args.llamacpp))
        elif name == "vllm":
            need(args, "vllm")
            made.append(vllm_cpu.command(settings, args.vllm, checkpoint(args.model, args.work)))
        else:
            raise SystemExit(f"no server {name!r}: choose of argosy, llamacpp, vllm")
    return made


def need(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        path = getattr(args, name)
        if path is None or not path.exists():
            raise SystemExit(f"give --{name.replace('_', '-')} a path that exists (got {path})")


def in_turn(
    args: argparse.Namespace,
    measure: Callable[[Server, Driver], Awaitable[list[Row]]],
) -> list[Row]:
    """Each server, started anew in every round, warmed up and measured."""
    rows: list[Row] = []
    made = commands(args)
    for number in range(args.rounds):
        for command in made:
            say(f"round {number + 1}: {command.name}")
            with Server(command, args.work / f"{command.name}.log") as server:
                found = asyncio_run(connected(server, measure, args))
            about = {"server": command.name, "precision": command.precision, "round": number}
            rows += [about | {"start_s": server.start_s} | row for row in found]
            for row in rows[-len(found) :]:
                say(json.dumps({k: v for k, v in row.items() if not isinstance(v, dict | list)}))
    return rows


def asyncio_run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def connected(
    server: Server,
    measure: Callable[[Server, Driver], Awaitable[list[Row]]],
    args: argparse.Namespace,
) -> list[Row]:
    async with Target(server.url) as target:
        api = Api(target, await find_model(target))
        driver = Driver(api, await learn(api.count), timeout_s=900)
        warm = Users(users=4, requests=8, input_len=args.input_len, output_len=16)
        await driver.closed_loop(warm)
        return await measure(server, driver)


def slo(args: argparse.Namespace) -> list[Row]:
    """Most users within SLO."""
    objectives = parse_objectives(SLO)

    async def measure(server: Server, driver: Driver) -> list[Row]:
        load = Users(
            users=1, input_len=args.input_len, output_len=args.output_len,
            ramp_s=args.duration / 2, duration_s=args.duration,
        )  # fmt: skip
        levels = await search(
            driver, load, objectives, most=args.max_users, told=lambda v: say(level_line(v))
        )
        users = best(levels)
        met = next((v.summary for v in levels if v.users == users and v.met), None)
        return [
            {
                "users": users,
                "tokens_per_s": met.output_per_s if met else 0.0,
                "levels": [{"users": v.users, "met": v.met, **finite(v.values)} for v in levels],
                "tokens": asdict(met.tokens) if met else {},
                "prompt_tokens": asdict(met.prompt_tokens) if met else {},
                "memory_mib": server.memory_mib(),
            }
        ]

    return in_turn(args, measure)


def finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value == float("inf") else value for name, value in values.items()}


def cpu(args: argparse.Namespace) -> list[Row]:
    """CPU of a streamed token."""

    async def measure(server: Server, driver: Driver) -> list[Row]:
        rows = []
        for users in map(int, args.connections.split(",")):
            load = Users(
                users=users, requests=max(args.requests, users, 20),
                input_len=args.input_len, output_len=args.output_len,
            )  # fmt: skip
            before = server.cpu()
            run = await driver.closed_loop(load)
            used, s = server.cpu() - before, summarize(run.outcomes, run.window)
            tokens = sum(o.tokens for o in run.outcomes)
            rows.append(
                {
                    "connections": users,
                    "engine_us": used.engine / tokens * 1e6,
                    "rest_us": used.rest / tokens * 1e6,
                    "total_us": (used.engine + used.rest) / tokens * 1e6,
                    "streamed": tokens,
                    "tokens_a_chunk": tokens / max(1, sum(len(o.times) for o in run.outcomes)),
                    "tokens_per_s": tokens / (run.window.end - run.window.begin),
                    "failed": sum(o.failed for o in run.outcomes),
                    "client_cpu": s.client_cpu or run.client_cpu,
                    "memory_mib": server.memory_mib(),
                }
            )
        return rows

    return in_turn(args, measure)


def http(args: argparse.Namespace) -> list[Row]:
    """Argosy's server, then its engine alone, in turn; both stay loaded, one is idle."""
    settings, model = settings_of(args), bundle(args.model, args.work)
    requests = args.requests or 8 * STREAMS
    ask = {"users": STREAMS, "requests": requests}
    ask |= {"input_len": args.input_len, "output_len": args.output_len}
    rows: list[Row] = []
    command = argosy_server.command(settings, model)
    bare = subprocess.Popen(
        argosy_server.bare_command(settings, model),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def alone(wanted: dict[str, int]) -> float:
        assert bare.stdin is not None and bare.stdout is not None
        bare.stdin.write(json.dumps(wanted) + "\n")
        bare.stdin.flush()
        return float(json.loads(bare.stdout.readline())["tokens_per_s"])

    async def measure(server: Server, driver: Driver) -> list[Row]:
        alone(ask | {"requests": STREAMS})
        for number in range(args.rounds):
            rate = alone(ask)
            run = await driver.closed_loop(Users(**ask))
            seconds = max(o.ended for o in run.outcomes) - min(o.sent for o in run.outcomes)
            through = sum(o.tokens for o in run.outcomes) / seconds
            row = {"bare": rate, "http": through, "ratio": through / rate, "round": number}
            rows.append(row | {"server": "argosy", "precision": server.command.precision})
            rows[-1]["client_cpu"] = run.client_cpu
            rows[-1]["failed"] = sum(o.failed for o in run.outcomes)
            say(json.dumps(rows[-1]))
        return rows

    assert bare.stdout is not None and bare.stdout.readline(), "the engine did not start"
    try:
        with Server(command, args.work / "argosy.log") as server:
            asyncio_run(connected(server, measure, args))
    finally:
        assert bare.stdin is not None
        bare.stdin.close()
        bare.wait(30)
    return rows


def trace(args: argparse.Namespace) -> list[Row]:
    """Capacity of each server first: the trace's head all at once. Then shares of the least."""
    recorded, scaled = recording(args)

    async def flood(server: Server, driver: Driver) -> list[Row]:
        return [{"capacity": await capacity(driver, fit(recorded, rate=1e6, **scaled))}]

    capacities = in_turn(argparse.Namespace(**vars(args) | {"rounds": 1}), flood)
    least = min(row["capacity"] for row in capacities)

    async def measure(server: Server, driver: Driver) -> list[Row]:
        rows = []
        for share in map(float, args.shares.split(",")):
            run = await driver.open_loop(fit(recorded, rate=share * least, **scaled))
            s = summarize(run.outcomes, replace(run.window, begin=0.0))
            figures = {"e2e": asdict(s.e2e), "ttft": asdict(s.ttft), "itl": asdict(s.itl)}
            brief = {"e2e_p95_s": s.e2e.p95, "ttft_p95_s": s.ttft.p95, "errors": s.errors}
            rows.append({"share": share, "rate": share * least, **brief, **figures})
        return rows

    return capacities + in_turn(args, measure)


def recording(args: argparse.Namespace) -> tuple[list[Arrival], dict[str, Any]]:
    """The trace, and how its head is to be made to fit."""
    if args.trace is None:
        raise SystemExit(f"the part {args.part} needs --trace FILE")
    number = args.requests or 200
    scaled = {"lengths": args.scale_lengths, "max_model_len": 2048 - 64, "requests": number}
    return read_trace(args.trace), scaled


async def capacity(driver: Driver, flood: list[Arrival]) -> float:
    """Requests per second with all of them there at once."""
    whole = [o for o in (await driver.open_loop(flood)).outcomes if not o.error]
    return len(whole) / max(o.ended for o in whole)


def soak(args: argparse.Namespace) -> list[Row]:
    """The trace again and again, its arrivals at a share of the capacity measured just before.

    Memory is flat once each page of the cache was used: --argosy-args "--memory 300M" gives few.
    """
    recorded, scaled = recording(args)
    share = float(args.shares.split(",")[0])

    async def measure(server: Server, driver: Driver) -> list[Row]:
        rate = share * await capacity(driver, fit(recorded, rate=1e6, **scaled))
        whole = fit(recorded, rate=rate, **scaled | {"requests": None})
        end, rows, start = time.monotonic() + 60 * args.minutes, [], 0.0
        while (left := end - time.monotonic()) > 0:
            run = await driver.open_loop(part(whole, start, min(left, SOAK_ROW_S)))
            start = (start + SOAK_ROW_S) % whole[-1].at_s
            s = summarize(run.outcomes, replace(run.window, begin=0.0))
            figures = {"e2e_p95_s": s.e2e.p95, "ttft_p95_s": s.ttft.p95, "errors": s.errors}
            counts = {"share": share, "rate": rate, "requests": len(run.outcomes)}
            rows.append(counts | figures | {"memory_mib": server.memory_mib()})
            say(json.dumps(rows[-1]))
        return rows

    return in_turn(args, measure)


def soak_table(rows: list[Row]) -> str:
    memory = [row["memory_mib"] for row in rows]
    half, end = memory[(len(memory) - 1) // 2], memory[-1]
    errors = [row["errors"] for row in rows if row["errors"]]
    return (
        f"{sum(row['requests'] for row in rows)} requests at {rows[0]['rate']:.1f} a second; "
        f"errors: {errors or 'none'}; resident {half:.0f} MiB after the first half, {end:.0f} "
        f"after the second ({end / half:.3f}); worst p95 first token of a minute "
        f"{max(row['ttft_p95_s'] for row in rows):.3f} s"
    )


def part(whole: list[Arrival], start: float, seconds: float) -> list[Arrival]:
    """The arrivals of so many seconds, from `start` on."""
    return [replace(a, at_s=a.at_s - start) for a in whole if 0 <= a.at_s - start < seconds]


def slo_table(rows: list[Row]) -> str:
    lines = [
        "| server | weights | most users | rounds | tokens/s there | p95 of 1 user, ms |",
        "|---" * 6 + "|",
    ]
    for name, mine in by_server(rows):
        users = [row["users"] for row in mine]
        rate = statistics.median(row["tokens_per_s"] for row in mine)
        told = ", ".join(map(str, users))
        weights = mine[0]["precision"]
        one = statistics.median(row["levels"][0]["ttft_p95"] for row in mine) * 1000
        most = statistics.median(users)
        lines.append(f"| {name} | {weights} | {most:g} | {told} | {rate:.0f} | {one:.0f} |")
    return "\n".join(lines)


def cpu_table(rows: list[Row]) -> str:
    lines = [
        "| server | weights | connections | CPU, us a token | engine | rest | tokens a chunk "
        "| tokens/s |",
        "|---" * 8 + "|",
    ]
    for name, mine in by_server(rows):
        for count in dict.fromkeys(row["connections"] for row in mine):
            at = [row for row in mine if row["connections"] == count]
            names = ("total_us", "engine_us", "rest_us", "tokens_a_chunk", "tokens_per_s")
            cells = [f"{statistics.median(row[key] for row in at):.1f}" for key in names]
            if not any(row["engine_us"] for row in at):  # one process, or told as one
                cells[1] = cells[2] = "-"
            weights = mine[0]["precision"]
            lines.append(f"| {name} | {weights} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def http_table(rows: list[Row]) -> str:
    lines = ["| tokens/s, 32 streams | median (low to high) |", "|---|---|"]
    for key, title in (("bare", "engine alone"), ("http", "through HTTP"), ("ratio", "ratio")):
        v = sorted(row[key] for row in rows)
        lines.append(f"| {title} | {statistics.median(v):.3g} ({v[0]:.3g} to {v[-1]:.3g}) |")
    return "\n".join(lines)


def trace_table(rows: list[Row]) -> str:
    lines = [
        "| server | weights | share | requests/s | p95 e2e, s | p95 ttft, s |",
        "|---" * 6 + "|",
    ]
    for name, mine in by_server([row for row in rows if "share" in row]):
        for share in dict.fromkeys(row["share"] for row in mine):
            at = [row for row in mine if row["share"] == share]
            e2e, ttft = (
                statistics.median(row[key] for row in at) for key in ("e2e_p95_s", "ttft_p95_s")
            )
            about = f"| {name} | {mine[0]['precision']} | {share:g} | {at[0]['rate']:.2f} "
            lines.append(f"{about}| {e2e:.2f} | {ttft:.3f} |")
    told = {row["server"]: f"{row['capacity']:.2f}" for row in rows if "capacity" in row}
    return "\n".join(lines) + f"\n\nrequests/s with all at once: {told}"


def by_server(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    names = dict.fromkeys(row["server"] for row in rows)
    return [(name, [row for row in rows if row["server"] == name]) for name in names]


PARTS = {"slo": slo, "http": http, "cpu": cpu, "trace": trace, "soak": soak}
TABLES = {
    "slo": slo_table,
    "http": http_table,
    "cpu": cpu_table,
    "trace": trace_table,
    "soak": soak_table,
}


def heading(args: argparse.Namespace) -> str:
    """When, where and on what was measured."""
    lengths = f", prompts of {args.input_len} tokens, answers of {args.output_len}"
    prompts = "" if args.trace else lengths
    model = {"embedded": "the embedded model", "0.5b": "a 0.5 B model"}[args.model]
    threads = f"{args.threads} thread{'s' * (args.threads > 1)}"
    cores = f"{threads} of {processor()}, clients on the same {os.cpu_count()} cores"
    return f"{time.strftime('%Y-%m-%d')}, {cores}; {model}{prompts}."


def record(args: argparse.Namespace, rows: list[Row]) -> None:
    """Append to the results."""
    names = ("part", "model", "input_len", "output_len", "slots", "threads")
    names += ("argosy_args", "llamacpp_args")
    append(args.results, rows, {name: getattr(args, name) for name in names})


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
