"""Conversations in prompt files: a column `messages` with [{"role": ..., "content": ...}, ...], the user's word last.

Takes a row, gives its messages. In a CSV file the column holds JSON, elsewhere the list itself.
"""

from __future__ import annotations

import json

from edge_eds.errors import InputError
from edge_eds.pipeline.prompt_files import Row
from edge_eds.runtime.chat_prompt import Message

MESSAGES_COLUMN = "messages"
ROLES = ("system", "user", "assistant")
_FORM = 'expected a list of {"role": "user", "content": "..."}'


def read_messages(row: Row) -> tuple[Message, ...]:
    """The conversation of a row.

    Raises:
        InputError: it is empty or no conversation, a role is unknown, a content is empty, or the user is not last.
    """
    try:
        items = json.loads(row.text(MESSAGES_COLUMN))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{row.where}: {MESSAGES_COLUMN} is not JSON; {_FORM}") from error
    if not isinstance(items, list) or not items:
        raise InputError(f"{row.where}: {MESSAGES_COLUMN} is no list with something in it; {_FORM}")
    messages = tuple(_message(row, number, item) for number, item in enumerate(items, 1))
    if messages[-1]["role"] != "user":
        raise InputError(f"{row.where}: the last message is the {messages[-1]['role']}'s, expected the user's")
    return messages


def _message(row: Row, number: int, item: object) -> Message:
    where = f"{row.where}: message {number}"
    if not isinstance(item, dict) or set(item) != {"role", "content"}:
        raise InputError(f"{where}: is no object of role and content; {_FORM}")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise InputError(f"{where}: role is {json.dumps(role)[:40]}, expected {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: content is empty or no text; expected what the {role} said")
    return {"role": role, "content": content.strip()}
