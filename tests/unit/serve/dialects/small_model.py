"""A model that is served by name alone: a tokenizer and a template, no engine."""

from __future__ import annotations

from typing import Any, cast

from argosy.client.intake import Accepted, Intake
from argosy.client.models import Served
from argosy.client.outputs import CompletionOutput, Logprob, RequestOutput
from argosy.client.remote import AsyncClient
from argosy.serve.dialects.openai_body import CHAT, COMPLETION, read
from argosy.serve.dialects.openai_parse import Call, Terms, chat_call, completion_call
from unit.text.small_tokenizers import byte_level

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if documents %}({{ documents|length }} documents){% endif %}"
    "{% if reasoning_effort %}({{ reasoning_effort }}){% endif %}"
    "{% if mood %}({{ mood }}){% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOKENIZER = byte_level()


def served(max_model_len: int = 100, template: str | None = TEMPLATE, **defaults: Any) -> Served:
    intake = Intake(
        TOKENIZER,
        template,
        vocab_size=400,
        max_model_len=max_model_len,
        eos_token_ids=[1],
        seed=0,
    )
    return Served(
        name="small",
        client=cast(AsyncClient, None),
        intake=intake,
        sampling_defaults=defaults,
        root="org/small",
        created=1,
        max_model_len=max_model_len,
    )


def chat(body: bytes, model: Served | None = None, **terms: Any) -> Call:
    request, _ = read(body, CHAT)
    return chat_call(request, model or served(), Terms(**terms), "7")


def completion(body: bytes, model: Served | None = None, **terms: Any) -> Call:
    request, _ = read(body, COMPLETION)
    return completion_call(request, model or served(), Terms(**terms), "7")


def prompt_text(accepted: Accepted) -> str:
    return TOKENIZER.decode(accepted.request.token_ids, skip_special_tokens=False)


def place(*entries: tuple[str, float]) -> tuple[int, dict[int, Logprob]]:
    """The first entry stands there, the others are ranked by their logprob."""
    ranked = sorted(entries, key=lambda entry: -entry[1])
    found = {
        ids(text)[0]: Logprob(value, ranked.index((text, value)) + 1, text)
        for text, value in entries
    }
    return next(iter(found)), found


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def news(index: int, text: str, end: str | None = None, **more: Any) -> CompletionOutput:
    more.setdefault("token_ids", ids(text) if text else [])
    return CompletionOutput(index=index, text=text, finish_reason=end, **more)


def output(call: Call, *outputs: CompletionOutput, place: int = 0, **more: Any) -> RequestOutput:
    more.setdefault("prompt_logprobs", None)
    return RequestOutput(
        request_id="1",
        prompt=call.accepted[place].prompt,
        prompt_token_ids=list(call.accepted[place].request.token_ids),
        outputs=list(outputs),
        finished=all(one.finished() for one in outputs),
        **more,
    )
