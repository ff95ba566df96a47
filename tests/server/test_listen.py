"""Where the server listens, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from argosy.config import ServerConfig
from argosy.errors import ConfigError
from argosy.serve.listen import address, listening
from server.small import serving


def test_a_port_in_use() -> None:
    with listening(ServerConfig(port=0)) as (sock,):
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use; choose ano"):  # noqa: SIM117
            with listening(ServerConfig(port=port)):
                pass
    with listening(ServerConfig(port=port)) as (sock,):
        assert address(ServerConfig(port=port), sock) == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("host", ["nowhere.invalid", "1.2.3.4", "x" * 300, "a..b"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(ConfigError), listening(ServerConfig(host=host, port=0)):
        pass


def test_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    config = ServerConfig(host="::1", port=0)
    with listening(config) as (sock,):
        assert address(config, sock) == f"http://[::1]:{sock.getsockname()[1]}"


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    config = ServerConfig(uds=path)
    with listening(config) as (sock,):
        assert address(config, sock) == f"unix:{path}"
        with pytest.raises(ConfigError, match="in use"), listening(config):
            pass
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with listening(config):  # what a dead server left is no obstacle
        pass
    Path(path).write_text("mine")
    with pytest.raises(ConfigError), listening(config):
        pass
    assert Path(path).read_text() == "mine"


def test_several_fronts_share_a_port_with_nobody_else() -> None:
    with listening(ServerConfig(port=0, api_server_count=3)) as sockets:
        ports = {sock.getsockname()[1] for sock in sockets}
        assert (len(sockets), len(ports)) == (3, 1)
        for count in (1, 3):
            config = ServerConfig(port=min(ports), api_server_count=count)
            with pytest.raises(ConfigError, match="in use"), listening(config):
                pass


def get(connection: http.client.HTTPConnection) -> int:
    with closing(connection):
        connection.request("GET", "/version")
        answer = connection.getresponse()
        answer.read()
        return answer.status


class UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def test_http_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def run() -> int:
        async with serving({}, uds=path):
            return await asyncio.to_thread(get, UnixConnection(path))

    assert asyncio.run(run()) == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    names = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -out {names[0]} -keyout {names[1]}"
    made = subprocess.run(command.split(), capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no openssl here")
    return names


def test_tls(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)

    async def run() -> int:
        async with serving({}, ssl_certfile=cert, ssl_keyfile=key) as small:
            connection = http.client.HTTPSConnection("127.0.0.1", small.port, context=context)
            return await asyncio.to_thread(get, connection)

    assert asyncio.run(run()) == 200


def test_a_certificate_that_is_none(certificate: tuple[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("hello")
    cert, key = certificate
    for files in ((str(broken), key), (cert, str(broken)), ("/nowhere", None), (cert, None)):
        config = ServerConfig(port=0, ssl_certfile=files[0], ssl_keyfile=files[1])
        with pytest.raises(ConfigError, match="ssl_certfile"), listening(config):
            pass
