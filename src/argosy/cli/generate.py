"""`argosy generate`: one prompt, its answer, and out."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer

from argosy.cli.environment import read_environment
from argosy.cli.opening import check_template, open_model
from argosy.cli.options import EngineFlags, ModelOption, SamplingFlags, sampling_settings, takes
from argosy.cli.terminal import Screen, figures
from argosy.client.intake import Accepted
from argosy.client.local import LocalClient
from argosy.client.outputs import CompletionOutput, Logprobs, RequestOutput
from argosy.errors import InvalidPrompt, StepFailed
from argosy.types import RequestOutputKind, SamplingParams

HELP = """PROMPT comes from stdin where it is - or, through a pipe, absent. With a chat template the
prompt is a question; --raw continues it as text instead."""

EXAMPLES = """\b
Examples:
  argosy generate "What is a KV cache?" --max-tokens 60
  argosy generate "Once upon a time" --model ~/models/my-llama --raw --temperature 0.8 --seed 7
  argosy generate "Hello" --n 3 --json
  cat question.txt | argosy generate --stop "Human:" """

DEFAULT_MAX_TOKENS = 256
_TOLD = {f.name for f in fields(CompletionOutput)} - {"lora_request", "is_refusal"}


@dataclass(frozen=True, kw_only=True)
class AnswerFlags:
    """How many answers, and how they are told."""

    n: Annotated[int, typer.Option("--n", metavar="N", help="Answers to the prompt.")] = 1
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", help="Log probabilities: the drawn token and N best.")
    ] = None
    prompt_logprobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Likewise for the prompt's tokens; told by --json."),
    ] = None
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, at the end.")] = False
    stream: Annotated[bool, typer.Option(help="Show text as it comes.")] = True
    stats: Annotated[bool, typer.Option("--stats", help="Figures after the answer.")] = False

    def given(self) -> dict[str, Any]:
        """Sampling parameters among them."""
        values = {"n": self.n, "logprobs": self.logprobs, "prompt_logprobs": self.prompt_logprobs}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def streams(self) -> bool:
        """Whether text can be shown before the end."""
        return self.stream and not self.as_object and self.n == 1 and self.logprobs is None


@takes(answer=AnswerFlags, sampling=SamplingFlags, engine=EngineFlags)
def run(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Text, or - for stdin.")
    ] = None,
    model: ModelOption = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Ask with the chat template, or continue the text."),
    ] = None,
    *,
    answer: AnswerFlags,
    sampling: SamplingFlags,
    engine: EngineFlags,
) -> None:
    """Answer one prompt."""
    text = read_prompt(prompt)
    screen = Screen.of_process(read_environment().colour)
    settings = sampling_settings(sampling, engine, answer.given())
    client = open_model(engine, model)
    kind = RequestOutputKind.DELTA if answer.streams else RequestOutputKind.FINAL_ONLY
    values = {"max_tokens": DEFAULT_MAX_TOKENS} | client.sampling_defaults
    values |= settings | {"output_kind": kind}
    accepted = accept(client, text, chat, SamplingParams(**values))
    if answer.streams:
        _stream(client, accepted, screen, answer.stats)
    else:
        _whole(client, accepted, screen, answer)


def read_prompt(prompt: str | None) -> str:
    """The prompt given, or stdin without its last line end.

    Raises typer.BadParameter for none, InvalidPrompt for an empty one.
    """
    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter("give a PROMPT, or pipe one in")
    text = sys.stdin.read().removesuffix("\n") if prompt in (None, "-") else str(prompt)
    if not text:
        raise InvalidPrompt("the prompt is empty; give some text")
    return text


def accept(client: LocalClient, text: str, chat: bool | None, params: SamplingParams) -> Accepted:
    """The request: a question where the model has a chat template, unless `chat` says which."""
    intake = client.intake
    if chat is None:
        chat = intake.has_template
    if not chat:
        return intake.accept(text, params)
    check_template(client)
    rendered = intake.render([{"role": "user", "content": text}])
    return intake.accept(rendered, params, add_special_tokens=False)


def _stream(client: LocalClient, accepted: Accepted, screen: Screen, stats: bool) -> None:
    num_tokens = 0
    try:
        with closing(client.stream([accepted])) as outputs:
            for output in outputs:
                num_tokens += len(output.outputs[0].token_ids)
                screen.show(output.outputs[0].text)
    finally:
        screen.end_line()
    _check(output)
    if stats:
        screen.note(figures(output, num_tokens))


def _whole(client: LocalClient, accepted: Accepted, screen: Screen, answer: AnswerFlags) -> None:
    [output] = client.run([accepted])
    _check(output)
    if answer.as_object:
        utf8 = (sys.stdout.encoding or "").lower() == "utf-8"  # others lack most characters
        print(json.dumps(as_json(output), ensure_ascii=not utf8))
    else:
        for one in output.outputs:
            screen.show(f"[{one.index}] {one.text}" if answer.n > 1 else one.text)
            screen.end_line()
            if one.logprobs is not None:
                screen.show(logprob_lines(one.token_ids, one.logprobs))
    if answer.stats:
        screen.note(figures(output, sum(len(one.token_ids) for one in output.outputs)))


def _check(output: RequestOutput) -> None:
    for one in output.outputs:
        if one.finish_reason == "error":
            raise StepFailed(f"the answer ended early: {one.stop_reason}")


def as_json(output: RequestOutput) -> dict[str, Any]:
    """What --json prints; log probabilities as a list of {token id: {...}} per place."""
    plain = asdict(output)
    answers = [{k: v for k, v in one.items() if k in _TOLD} for one in plain["outputs"]]
    return {
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "num_cached_tokens": output.num_cached_tokens,
        "prompt_logprobs": output.prompt_logprobs
        and [
            place and {k: asdict(v) for k, v in place.items()} for place in output.prompt_logprobs
        ],
        "outputs": answers,
    }


def logprob_lines(token_ids: list[int], places: list[Logprobs]) -> str:
    """One line per token: its text, log probability and rank, then the alternatives."""
    lines = []
    for token_id, place in zip(token_ids, places, strict=True):
        own, others = place[token_id], [v for k, v in place.items() if k != token_id]
        line = f"{own.decoded_token!r:<16} {own.logprob:9.4f}  rank {own.rank}"
        rest = "  ".join(f"{v.decoded_token!r} {v.logprob:.4f}" for v in others)
        lines.append(f"{line}  {rest}".rstrip() + "\n")
    return "".join(lines)
