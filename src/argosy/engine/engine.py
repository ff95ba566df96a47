"""The engine loop: arrivals in, one step, events out. Read this page first."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from importlib import import_module
from typing import TYPE_CHECKING

from argosy.bundle.open import Bundle
from argosy.config import EngineConfig
from argosy.engine.batch import build_batch, read_result
from argosy.engine.calibrate import UNMEASURED_TOKENS, Speed, measure_speed
from argosy.engine.machine import Machine, read_machine
from argosy.engine.pages import PagePool
from argosy.engine.plan import MemoryPlan, max_model_len, plan_memory
from argosy.engine.scheduler import Scheduler
from argosy.engine.step import (
    Counters,
    Limits,
    Observer,
    Outcome,
    Plan,
    prompt_share,
)
from argosy.errors import ConfigError, RequestError, UnsupportedParameter
from argosy.model.formats import AUTO_DTYPE, Kind, parse_cache_dtype, parse_dtype
from argosy.runtime.reference import ReferenceRuntime
from argosy.types import Abort, Event, Request, Runtime

if TYPE_CHECKING:
    from argosy.types import U64

_log = logging.getLogger(__name__)


class Engine:
    """A scheduler and a runtime; whoever owns it calls `step` while it `has_work`.

    memory: how the memory was divided, one line as text; None where nothing was.
    observer: is told of every step that has work.
    tokens_per_s: prompt tokens a second, as measured when it was opened; 0.0 if it was not.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runtime: Runtime,
        *,
        memory: MemoryPlan | None = None,
        observer: Observer | None = None,
        tokens_per_s: float = 0.0,
    ) -> None:
        self.scheduler = scheduler
        self.runtime = runtime
        self.memory = memory
        self.observer = observer
        self.tokens_per_s = tokens_per_s
        self._inbox: list[Request | Abort] = []
        self._queued: set[tuple[str, int]] = set()
        self._unsent: list[Event] = []  # of a step that was interrupted

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._inbox or self._unsent) or self.scheduler.has_work

    def add(self, request: Request) -> None:
        """Queue a request for the next step.

        Raises RequestError for a name still in use, UnsupportedParameter for an adapter.
        """
        if request.adapter is not None:
            raise UnsupportedParameter(
                f"adapter={request.adapter!r} is not served: adapters are not built; leave it out"
            )
        first, name = request.index, request.request_id
        for index in range(first, first + request.params.n):
            if (name, index) in self._queued or self.scheduler.roster.find(name, index):
                raise RequestError(f"request id {name!r} ({index}) is in use; give each its own")
        self._queued.update((name, index) for index in range(first, first + request.params.n))
        self._inbox.append(request)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences, with the next step; unknown names are ignored."""
        self._inbox.append(Abort(request_id, index))

    def step(self, now: float) -> list[Event]:
        """Run one step; what it did for each sequence. now: seconds of the caller's clock.

        Interrupted (KeyboardInterrupt), its sequences end with an error, which the next step tells.
        """
        inbox, self._inbox = self._inbox, []
        self._queued.clear()
        self.scheduler.admit(inbox, now)
        plan = self.scheduler.plan()
        try:
            outcomes = self._execute(plan) if plan.work else ()
        except BaseException as exc:  # what was planned is committed, or no step could follow
            self._unsent += self.scheduler.commit(plan, _failed(plan, exc))
            raise
        unsent, self._unsent = self._unsent, []
        return unsent + self.scheduler.commit(plan, outcomes)

    def _execute(self, plan: Plan) -> Seq[Outcome]:
        """What the plan, which has work, gave, with the observer told before and after."""
        if self.observer is not None:
            self.observer.planned(plan)
        outcomes = self._submit(plan)
        if self.observer is not None:
            self.observer.ran(plan)
        return outcomes

    def _submit(self, plan: Plan) -> Seq[Outcome]:
        """What the plan gave; if the whole step fails, that it failed, for each sequence."""
        try:
            batch = build_batch(plan, vocab_size=self.scheduler.limits.vocab_size)
            return read_result(plan, self.runtime.submit(batch).result())
        except Exception as exc:  # whatever it was, the engine lives on
            _log.exception("a step of %d sequences failed", len(plan.work))
            return _failed(plan, exc)

    def reset_prefix_cache(self) -> None:
        """Forget what could be found again; sequences that run keep their pages."""
        for pool in self.scheduler.tables.pools:
            pool.forget()

    @property
    def counters(self) -> Counters:
        """What was done since it was opened."""
        return self.scheduler.counters

    @property
    def pages_held(self) -> int:
        """Pages that sequences and steps under way hold; known ones that nobody holds are not."""
        return sum(pool.num_held for pool in self.scheduler.tables.pools)

    @property
    def pages_usable(self) -> int:
        """Pages that can be held at all, of all cache groups."""
        return sum(pool.num_usable for pool in self.scheduler.tables.pools)

    def check(self) -> None:
        """Raise AssertionError, saying what is wrong, unless every page is where it belongs."""
        self.scheduler.check()

    def close(self) -> None:
        """Give memory and threads back; the engine is of no use after."""
        self.runtime.close()


def _failed(plan: Plan, exc: BaseException) -> list[Outcome]:
    error = f"the step failed: {type(exc).__name__}: {exc}"
    return [Outcome(error=error)] * len(plan.work)


def open_engine(
    bundle: Bundle,
    config: EngineConfig,
    machine: Machine | None = None,
    *,
    heartbeat: U64 | None = None,
) -> Engine:
    """An engine for an opened bundle, by default on the machine as it is found.

    Without config.max_num_batched_tokens the machine is timed first, for a fraction of a second.
    heartbeat: see Runtime.watch; it is advanced while the engine is opened, too.
    Raises ConfigError for options that do not go together, OutOfMemory if it does not fit.
    """
    machine = machine or read_machine()
    program = bundle.program
    cache_dtype = choose_cache_dtype(bundle, config)
    memory = plan_memory(program, config, machine, cache_dtype)
    pools = [
        PagePool(num_pages, window=group.window)
        for num_pages, group in zip(memory.num_pages, program.caches, strict=True)
    ]
    runtime = _open_runtime(bundle, config, machine, memory.num_pages, cache_dtype, heartbeat)
    length = max_model_len(program, config)
    speed = None
    if config.max_num_batched_tokens is None and config.runtime != "reference":
        speed = measure_speed(runtime, pools, vocab_size=program.vocab_size, max_model_len=length)
    most, aim = _step_tokens(config, memory, speed)
    limits = Limits(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=most,
        step_tokens=aim,
        max_model_len=length,
        vocab_size=program.vocab_size,
        by_priority=config.scheduling_policy == "priority",
        prefix_caching=config.enable_prefix_caching,
    )
    tokens_per_s = speed.tokens_per_s if speed else 0.0
    return Engine(Scheduler(limits, pools), runtime, memory=memory, tokens_per_s=tokens_per_s)


def _step_tokens(
    config: EngineConfig, memory: MemoryPlan, speed: Speed | None
) -> tuple[int, int | None]:
    """The most tokens of a step, and those it should have; see Limits."""
    if config.max_num_batched_tokens is not None:
        return config.max_num_batched_tokens, None
    aim = speed.tokens_per_step if speed else UNMEASURED_TOKENS
    most = max(aim, config.max_num_seqs + prompt_share(aim))  # all decode, a prompt gets on
    return min(most, memory.max_num_batched_tokens), aim


def choose_cache_dtype(bundle: Bundle, config: EngineConfig) -> str:
    """fp32, bf16 or int8, as asked; "auto" follows the weights. Raises ConfigError."""
    formats = {str(matrix.format) for matrix in bundle.program.matrices.values()}
    if parse_dtype(config.dtype) == "fp32" and formats != {Kind.FP32}:
        raise ConfigError(
            f"dtype=float32 means weights, activations and cache in fp32, and this bundle holds "
            f"{', '.join(sorted(formats))}; build it with --quantize fp32, or set dtype=auto"
        )
    if config.kv_cache_dtype != "auto":
        return parse_cache_dtype(config.kv_cache_dtype)
    is_quantized = any(matrix.format.quantized for matrix in bundle.program.matrices.values())
    return "int8" if is_quantized else AUTO_DTYPE["cpu"][bundle.dtype][1]


def _open_runtime(
    bundle: Bundle,
    config: EngineConfig,
    machine: Machine,
    num_pages: tuple[int, ...],
    cache_dtype: str,
    heartbeat: U64 | None,
) -> Runtime:
    if config.runtime == "reference":
        if config.num_threads is not None:
            raise ConfigError(
                f"num_threads={config.num_threads}: the reference runtime has no threads; drop it"
            )
        return ReferenceRuntime(
            bundle,
            num_pages=num_pages,
            cache_dtype=cache_dtype,
            keep_logits=config.keep_logits,
            heartbeat=heartbeat,
        )
    # By name and only now: the reference runtime works where the C++ core was not built.
    native = import_module("argosy.runtime.native")
    runtime: Runtime = native.NativeRuntime(
        bundle,
        num_pages=num_pages,
        cache_dtype=cache_dtype,
        num_threads=config.num_threads or machine.cores,
        keep_logits=config.keep_logits,
    )
    if heartbeat is not None:
        runtime.watch(heartbeat)
    return runtime
