"""`argosy bench serve`: load for a server of the OpenAI API, and what its users felt."""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from argosy.cli.options import parse_count, takes
from argosy.errors import ConfigError
from argosy.load.api import Api, find_model
from argosy.load.arrivals import Arrival, fit, poisson, read_trace
from argosy.load.connection import Target
from argosy.load.drive import Driver, Run, Users
from argosy.load.limits import Objective, parse_limits, parse_objectives
from argosy.load.measure import summarize
from argosy.load.prompts import learn
from argosy.load.report import (
    level_json,
    level_line,
    plot_levels,
    plot_run,
    require_plots,
    table,
    verdict,
    write_json,
)  # fmt: skip
from argosy.load.search import best, search

HELP = """Sends streamed requests to a running server and times every token: Argosy, vLLM, llama.cpp
or any other with the OpenAI API. Load is a number of users who each ask again and again (--users),
random arrivals (--rate), or a recorded trace (--trace: Azure's CSV or Mooncake's JSON lines). With
--slo it looks for the most users that the server can please.

Prompts are random words, so nothing is found in a prefix cache; their length in tokens is learned
from the server. Answers go on to their full length where the server knows ignore_eos."""

EXAMPLES = """\b
Examples:
  argosy bench serve http://127.0.0.1:8000 --users 32
  argosy bench serve http://127.0.0.1:8000 --rate 4 --duration 60 --limit ttft=200ms,itl=50ms
  argosy bench serve http://127.0.0.1:8000 --slo ttft_p95=200ms --plot users.png
  argosy bench serve http://127.0.0.1:8000 --trace azure.csv --scale-lengths 0.1 --rate 2"""

DURATION_S = 30.0


@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """What is sent, and for how long."""

    users: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Users at once, in a closed loop.")
    ] = None
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Requests a second: Poisson, or a trace's mean made so."),
    ] = None
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Arrivals from a trace.")] = (
        None
    )
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="Seconds after --ramp.", show_default="30"),
    ] = None
    requests: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after so many requests instead.")
    ] = None
    ramp: Annotated[
        float | None,
        typer.Option(
            metavar="S", min=0.0, show_default="a quarter of --duration, at most 10",
            help="Seconds over which users join; what they ask meanwhile does not count.",
        ),
    ] = None  # fmt: skip
    input_len: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Tokens of a prompt.")
    ] = 128
    output_len: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Tokens of an answer.")
    ] = 64
    scale_lengths: Annotated[
        float, typer.Option(metavar="X", help="Factor on a trace's lengths.")
    ] = 1.0
    max_model_len: Annotated[
        int | None,
        typer.Option(
            parser=parse_count, metavar="N", show_default="what the server tells",
            help="A trace's requests are cut to this many tokens.",
        ),
    ] = None  # fmt: skip
    seed: Annotated[int, typer.Option(metavar="N", help="Makes words and arrivals repeatable.")] = 0
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Seconds until a request has failed.")
    ] = 600.0

    def check(self) -> None:
        """Raise ConfigError for flags that contradict each other."""
        if self.users is not None and (self.rate is not None or self.trace is not None):
            raise ConfigError("--users is a closed loop; give it without --rate and --trace")
        if self.duration is not None and self.requests is not None:
            raise ConfigError("--duration and --requests both end the load; give one of them")

    @property
    def bound_s(self) -> float | None:
        """Seconds of load, where requests do not end it."""
        return self.duration or (None if self.requests else DURATION_S)

    def closed(self) -> Users:
        """The closed loop asked for."""
        ramp = min(10.0, (self.bound_s or 0) / 4) if self.ramp is None else self.ramp
        return Users(
            users=self.users or 1,
            input_len=self.input_len,
            output_len=self.output_len,
            ramp_s=0.0 if self.users == 1 and self.ramp is None else ramp,
            duration_s=self.bound_s,
            requests=self.requests,
            drain_s=self.timeout,
        )

    def arrivals(self, max_model_len: int | None) -> list[Arrival]:
        """The arrivals asked for; `max_model_len`: what the server told."""
        if self.trace is not None:
            return fit(
                read_trace(self.trace),
                rate=self.rate,
                lengths=self.scale_lengths,
                max_model_len=self.max_model_len or max_model_len,
                requests=self.requests,
                duration_s=self.bound_s,
            )
        assert self.rate is not None
        bounds: dict[str, Any] = {"requests": self.requests, "duration_s": self.bound_s}
        return list(poisson(self.rate, self.input_len, self.output_len, **bounds, seed=self.seed))


@dataclass(frozen=True)
class Wanted:
    """What is looked at, and where it is written."""

    limits: dict[str, float] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()
    max_users: int = 4096
    json: Path | None = None
    plot: Path | None = None


@takes(load=LoadFlags)
def run(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the server is.")] = (
        "http://127.0.0.1:8000"
    ),
    api: Annotated[
        str, typer.Option("--api", metavar="KIND", help="completions or chat.")
    ] = "completions",
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As the server lists it.", show_default="its first"),
    ] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="Sent as a bearer token.")] = (
        None
    ),
    ignore_eos: Annotated[
        bool, typer.Option(help="Ask for answers of full length; a field beyond OpenAI's own.")
    ] = True,
    limit: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="For goodput: ttft=200ms,itl=50ms (and tpot, e2e)."),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Search the most users with, say, ttft_p95=200ms."),
    ] = None,
    max_users: Annotated[
        int, typer.Option(metavar="N", min=1, help="The search goes no higher.")
    ] = 4096,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a PNG; needs matplotlib.")
    ] = None,
    *,
    load: LoadFlags,
) -> None:
    """Measure and print a table."""
    load.check()
    wanted = Wanted(
        parse_limits(limit) if limit else {},
        parse_objectives(slo) if slo else (),
        max_users,
        json,
        plot,
    )
    if wanted.objectives and (load.rate is not None or load.trace is not None):
        raise ConfigError("--slo searches a number of users; give it without --rate and --trace")
    if plot is not None:
        require_plots()
    _allow_many_files()
    target = Target(url, api_key)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(target, model, (api, ignore_eos), load, wanted))


def _allow_many_files() -> None:
    """Each stream is an open file: take as many as the system gives."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _measure(
    target: Target, name: str | None, how: tuple[str, bool], load: LoadFlags, wanted: Wanted
) -> None:
    async with target:
        api = Api(target, await find_model(target, name), *how)
        prompts = await learn(api.count)
        if load.trace is None:
            prompts.require(load.input_len)
        line = ProgressLine()
        driver = Driver(api, prompts, load.seed, load.timeout, line)
        about = {"url": f"{target.host}:{target.port}", "model": api.model.name, "api": api.kind}
        about |= {key: str(v) if isinstance(v, Path) else v for key, v in asdict(load).items()}
        measure = _search if wanted.objectives else _once
        await measure(driver, load, wanted, about, line)


async def _once(
    driver: Driver, load: LoadFlags, wanted: Wanted, about: dict[str, Any], line: ProgressLine
) -> None:
    result = await _drive(driver, load, driver.api.model.max_model_len)
    line.end()
    cpu = result.client_cpu
    summary = summarize(result.outcomes, result.window, limits=wanted.limits, client_cpu=cpu)
    print(table(summary, wanted.limits))
    if wanted.json:
        write_json(wanted.json, {**about, "limits": wanted.limits, **asdict(summary)})
    if wanted.plot:
        plot_run(wanted.plot, result.outcomes, f"{about['model']} at {about['url']}")


async def _drive(driver: Driver, load: LoadFlags, max_model_len: int | None) -> Run:
    if load.rate is None and load.trace is None:
        return await driver.closed_loop(load.closed())
    return await driver.open_loop(load.arrivals(max_model_len))


async def _search(
    driver: Driver, load: LoadFlags, wanted: Wanted, about: dict[str, Any], line: ProgressLine
) -> None:
    if load.requests is not None:
        raise ConfigError("a search goes by time; give --duration in place of --requests")

    def told(level: Any) -> None:
        line.end()
        print(level_line(level), flush=True)

    levels = await search(
        driver, load.closed(), wanted.objectives, most=wanted.max_users, told=told
    )
    print(verdict(levels, wanted.objectives))
    if wanted.json:
        found = {"users": best(levels), "slo": [asdict(o) for o in wanted.objectives]}
        write_json(wanted.json, about | found | {"levels": [level_json(v) for v in levels]})
    if wanted.plot:
        plot_levels(wanted.plot, levels, wanted.objectives)


class ProgressLine:
    """How far the load is, once a second, on a terminal only."""

    def __init__(self) -> None:
        self._moving = sys.stderr.isatty()
        self._shown = False

    def __call__(self, seconds: float, under_way: int, ended: int, failed: int) -> None:
        """As `load.drive.Progress`."""
        if self._moving:
            text = f"{seconds:5.0f} s  {under_way} under way, {ended} ended, {failed} failed"
            print(f"\r{text:70}", end="", file=sys.stderr, flush=True)
            self._shown = True

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)
            self._shown = False
