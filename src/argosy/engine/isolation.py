"""The request that runs alone: what it was given so far, so that it can wait, and go on later."""

from __future__ import annotations

from dataclasses import replace

from argosy.types import Event, Request


def children(request: Request) -> list[Request]:
    """Each sequence of `request` as a request of its own, which draws the same tokens."""
    if request.params.n == 1:
        return [request]
    params, first = request.params.clone(n=1), request.index
    return [
        replace(request, index=index, params=params)
        for index in range(first, first + request.params.n)
    ]


class Isolated:
    """Follows the sequences of one request through the events of the engine."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, int], Request] = {}

    def add(self, request: Request) -> None:
        """`request`, or another part of it, was let in."""
        self._children.update(
            ((child.request_id, child.index), child) for child in children(request)
        )

    def take(self, event: Event) -> None:
        """What a step did for some sequence; others than its own are ignored."""
        name = (event.request_id, event.index)
        child = self._children.get(name)
        if child is None:
            return
        if event.finish_reason is not None:
            del self._children[name]
        elif event.token_ids:
            self._children[name] = replace(child, token_ids=child.token_ids + event.token_ids)

    def remaining(self) -> list[Request]:
        """What is left to do, each sequence from where it stands."""
        return list(self._children.values())
