"""The models of a server, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from argosy.client.attachment import Attachment
from argosy.client.intake import Intake
from argosy.client.models import one_model
from argosy.client.remote import AsyncClient
from argosy.engine.board import Board
from argosy.errors import ConfigError, ModelNotFound
from unit.text.small_tokenizers import byte_level


@pytest.fixture
def client(tmp_path: Path) -> AsyncClient:
    intake = Intake(byte_level(), vocab_size=byte_level().num_ids, max_model_len=77)
    attachment = Attachment(str(tmp_path / "s"), Board.create())
    return AsyncClient(attachment, intake, sampling_defaults={"top_k": 3})


def test_names_and_aliases(client: AsyncClient) -> None:
    models = one_model(["first", "second"], client, "org/model", created=5)
    assert models.first.name == "first" and models.get(None) is models.get("first")
    assert [one.name for one in models] == ["first", "second"]
    served = models.get("second")
    assert served.client is client and served.intake is client.intake
    assert (served.root, served.created, served.max_model_len) == ("org/model", 5, 77)
    assert served.sampling_defaults == {"top_k": 3} and served.adapter is None


def test_an_unknown_name(client: AsyncClient) -> None:
    with pytest.raises(ModelNotFound, match=r"^The model `x` does not exist\.$"):
        one_model(["first"], client, "org/model").get("x")


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_are_at_least_one_and_different(client: AsyncClient, names: list[str]) -> None:
    with pytest.raises(ConfigError, match="each once"):
        one_model(names, client, "org/model")
