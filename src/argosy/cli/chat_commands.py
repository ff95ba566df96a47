"""The /commands of `argosy chat`: a table, and how one is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from argosy.cli.conversation import Conversation
from argosy.errors import ArgosyError


class EndOfChat(Exception):
    """The user asked to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is written, what it does, and what it answers."""

    usage: str
    help: str
    run: Callable[[Conversation, str], str]


def run_command(line: str, conversation: Conversation) -> str:
    """Run "/name argument"; what to tell the user. Raises EndOfChat for /exit."""
    name, *rest = line.split(maxsplit=1)
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        return (
            f"{name} is no command; /help lists them. "
            f'To send a line that begins so, write """{line}"""'
        )
    try:
        return command.run(conversation, "".join(rest).strip())
    except FileExistsError:
        return f"{name}: {rest[0]} exists and is not overwritten; choose another name"
    except (ArgosyError, OSError) as exc:
        return f"{name}: {exc}"


def _help(_: Conversation, __: str) -> str:
    lines = [f"  {c.usage:<20} {c.help}" for c in COMMANDS.values()]
    return "\n".join([*lines, '  """ ... """          a question of several lines'])


def _clear(conversation: Conversation, _: str) -> str:
    conversation.clear()
    return "forgotten"


def _system(conversation: Conversation, text: str) -> str:
    conversation.set_system(text)
    return "system message set" if text else "system message removed"


def _set(conversation: Conversation, argument: str) -> str:
    name, _, value = argument.partition(" ")
    if not value:
        given = ", ".join(f"{k}={v}" for k, v in conversation.settings.items())
        return f"usage: /set NAME VALUE; set so far: {given or 'nothing'}"
    conversation.set(name, value.strip())
    return f"{name} = {value.strip()}"


def _stats(conversation: Conversation, _: str) -> str:
    conversation.show_stats = not conversation.show_stats
    return f"figures after each answer: {'on' if conversation.show_stats else 'off'}"


def _save(conversation: Conversation, path: str) -> str:
    if not path:
        return "usage: /save FILE"
    conversation.save(Path(path).expanduser())
    return f"saved to {path}"


def _exit(_: Conversation, __: str) -> str:
    raise EndOfChat


COMMANDS = {
    "/help": Command("/help", "this list", _help),
    "/clear": Command("/clear", "forget what was said", _clear),
    "/system": Command("/system TEXT", "say how to answer; without TEXT, stop that", _system),
    "/set": Command("/set NAME VALUE", "a sampling setting, as in /set temperature 0.7", _set),
    "/stats": Command("/stats", "figures after each answer: on or off", _stats),
    "/save": Command("/save FILE", "write the conversation as JSON to a new file", _save),
    "/exit": Command("/exit", "leave (or /bye, /quit, Ctrl-D)", _exit),
}
ALIASES = {"/bye": "/exit", "/quit": "/exit"}
