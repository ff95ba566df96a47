"""Opening a model for the verbs that run it."""

from __future__ import annotations

from argosy.cli.environment import ended_by_sigterm, read_environment
from argosy.cli.options import EngineFlags
from argosy.cli.terminal import ProgressLine
from argosy.client.intake import read_template
from argosy.client.local import LocalClient
from argosy.client.open import open_client
from argosy.errors import TemplateError


def open_model(engine: EngineFlags, model: str | None) -> LocalClient:
    """A client for `model`, built into the cache first if need be.

    Raises ConfigError, ModelError or OutOfMemory.
    """
    template = None if engine.chat_template is None else read_template(engine.chat_template)
    with ended_by_sigterm():
        return open_client(
            engine.config(model),
            cache_dir=read_environment().cache,
            chat_template=template,
            progress=ProgressLine("building"),
            given=engine.given,
        )


def check_template(client: LocalClient) -> None:
    """Raise TemplateError where the model has no chat template."""
    if not client.intake.has_template:
        raise TemplateError(
            "this model has no chat template; give one with --chat-template FILE, or continue "
            "plain text with `argosy generate --raw`"
        )
