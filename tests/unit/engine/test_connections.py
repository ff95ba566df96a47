"""Fronts that read slowly, not at all, or go: nobody waits for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy.engine import connections as module
from argosy.engine.connections import Connection, Connections
from argosy.engine.wire import Ask, Submit, frame


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Connections]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(4)
    hub = Connections(listener, b"hello")
    yield hub
    hub.close()


@pytest.fixture
def front(tmp_path: Path, hub: Connections) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(tmp_path / "s"))
        yield sock


def only(hub: Connections) -> Connection:
    hub.receive(10.0)
    (connection,) = hub
    return connection


def test_a_front_is_greeted_and_heard_in_order(hub: Connections, front: socket.socket) -> None:
    connection = only(hub)
    assert front.recv(100) == b"hello"
    front.sendall(frame(Submit(1, [])) + frame(Ask(1, "a")) + frame(Ask(1, "b"))[:3])
    messages = [Submit(1, []), Ask(1, "a")]
    assert hub.receive(10.0) == [(connection, message) for message in messages]
    front.sendall(frame(Ask(1, "b"))[3:])
    assert hub.receive(10.0) == [(connection, Ask(1, "b"))]


def test_what_a_slow_front_has_not_read_waits_in_order(
    hub: Connections, front: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = only(hub)
    hub.send(connection, large := bytes(range(256)) * 4000)
    sent = b"hello" + large
    for number in range(200):
        data = bytes([number]) * 10_000
        hub.send(connection, data)
        sent += data
    assert connection.unsent
    got = b""
    while len(got) < len(sent):
        hub.receive(0.0)
        got += front.recv(100_000)
    assert got == sent
    hub.receive(0.0)
    assert not connection.unsent
    monkeypatch.setattr(connection, "flush", lambda: pytest.fail("nothing is to be sent"))
    hub.receive(0.0)
    front.sendall(frame(Ask(1, "a")))
    assert hub.receive(10.0) == [(connection, Ask(1, "a"))]


def test_one_that_reads_nothing_is_sent_away(
    hub: Connections, front: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD", 100_000)
    connection = only(hub)
    while list(hub):
        hub.send(connection, b"x" * 10_000)
        assert len(connection.unsent) < 120_000
    assert hub.take_lost() == [connection]
    assert hub.take_lost() == []


def test_one_that_went_is_told_of_once_and_nothing_is_sent_to_it(
    hub: Connections, front: socket.socket
) -> None:
    connection = only(hub)
    front.sendall(frame(Ask(1, "last")))
    front.close()
    messages = hub.receive(10.0)
    while list(hub):
        messages += hub.receive(10.0)
    assert messages == [(connection, Ask(1, "last"))]
    hub.send(connection, b"x")
    assert hub.take_lost() == [connection]
