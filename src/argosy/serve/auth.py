"""Keys: who may come in."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from argosy.serve.errors import Refusal

OPEN_PATHS = frozenset(("/health", "/ping", "/ready", "/metrics", "/version", "/load"))
"""Open without a key, unless the probes are protected too."""

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


class Keys:
    """The keys of one server; without any, everybody may come in.

    protect_probes: ask for a key on OPEN_PATHS too.
    """

    def __init__(self, keys: Sequence[str], *, protect_probes: bool = False) -> None:
        self._keys = [key.encode() for key in keys]
        self._open = frozenset() if protect_probes else OPEN_PATHS

    def check(self, path: str, authorization: str | None) -> None:
        """Raises Refusal 401 unless `authorization`, as the client sent it, opens `path`."""
        if not self._keys or path in self._open:
            return
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Refusal(
                401,
                "this server wants an API key: send the header `Authorization: Bearer KEY`",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        if not self._knows(given.strip().encode("latin-1")):
            raise Refusal(
                401, "the API key is not valid", code="invalid_api_key", headers=_CHALLENGE
            )

    def _knows(self, given: bytes) -> bool:
        """Every key is compared, so that time tells nothing."""
        return any([hmac.compare_digest(given, key) for key in self._keys])
