"""The models one server serves, by name. Today they share one engine; aliases name the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from argosy.client.intake import Intake
from argosy.client.remote import AsyncClient
from argosy.errors import ConfigError, ModelNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One name clients may use.

    sampling_defaults: what the model asks for, by SamplingParams' names.  root: the model as it was
    named to the server.  created: seconds since 1970.  adapter: a LoRA adapter; none is served yet.
    """

    name: str
    client: AsyncClient
    intake: Intake
    sampling_defaults: Mapping[str, Any]
    root: str
    created: int
    max_model_len: int
    adapter: str | None = None


class Models:
    """From names to models; the first name is the one that is told."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = {one.name: one for one in served}
        if not self._served or len(self._served) != len(served):
            raise ConfigError(
                f"served model names {[one.name for one in served]} must be at least one, each once"
            )

    def get(self, name: str | None = None) -> Served:
        """The model of this name, the first for None. Raises ModelNotFound."""
        if name is None:
            return self.first
        if name not in self._served:
            raise ModelNotFound(f"The model `{name}` does not exist.")
        return self._served[name]

    @property
    def first(self) -> Served:
        """The model under the name that is told."""
        return next(iter(self._served.values()))

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())


def one_model(
    names: Sequence[str], client: AsyncClient, root: str, *, created: int | None = None
) -> Models:
    """Models with one engine behind all `names`. Raises ConfigError for none, or one twice."""
    return Models(
        [
            Served(
                name=name,
                client=client,
                intake=client.intake,
                sampling_defaults=client.sampling_defaults,
                root=root,
                created=int(time.time()) if created is None else created,
                max_model_len=client.intake.max_model_len,
            )
            for name in names
        ]
    )
