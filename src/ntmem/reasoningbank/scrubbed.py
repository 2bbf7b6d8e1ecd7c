"""Where text is scrubbed on its way into the store, and where what is asked for is scrubbed alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..conditions import MAX_DEPTH
from ..values import CODECS
from .checks import check_text
from .events import Acted, Begun, Event, Judged, Seen

if TYPE_CHECKING:
    from ..scrubbing import Scrubber

_CODEC = CODECS["msgpack"]
MOST_TASK = 4096


def no_scrubber() -> Scrubber | None:
    """Return None: what is kept is kept as it is."""
    return None


def scrubbed(event: Event, scrubber: Scrubber | None) -> Event:
    """Return an event without what is to be scrubbed of its text; itself if there is nothing."""
    if scrubber is None:
        return event
    if isinstance(event, Begun):
        task = scrubber(event.task)
        if task is not event.task:
            check_text(task, "task, scrubbed,", MOST_TASK, least=0)
            return replace(event, task=task)
    elif isinstance(event, Seen):
        value = _CODEC.decode(event.data)
        found = scrubber.nested(value)
        return event if found is value else replace(event, data=_CODEC.encode(found))
    elif isinstance(event, Acted):
        value = _CODEC.decode(event.parameters)
        found = scrubber.nested(value)
        return event if found is value else replace(event, parameters=_CODEC.encode(found))
    elif isinstance(event, Judged):
        return replace(event, feedback=scrubber(event.feedback))
    return event


def as_kept(text: str, scrubber: Scrubber | None) -> str:
    """Return a text as it is kept."""
    return text if scrubber is None else scrubber(text)


def where_kept(where: Any, scrubber: Scrubber | None, *, is_task: bool = False, depth: int = 0) -> Any:
    """Return conditions in which tasks are as they are kept; other facts are names, and stay."""
    if scrubber is None or depth > MAX_DEPTH:  # who compiles them refuses what is deeper
        return where
    if isinstance(where, Mapping):
        return {
            name: where_kept(each, scrubber, is_task=is_task or name == "task", depth=depth + 1)
            for name, each in where.items()
        }
    if isinstance(where, list | tuple | set):
        return type(where)(where_kept(each, scrubber, is_task=is_task, depth=depth + 1) for each in where)
    return scrubber(where) if is_task and isinstance(where, str) else where
