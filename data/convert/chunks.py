"""Items some at a time: what a worker gets at once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data.convert.record import Item

CHUNK_RECORDS, CHUNK_BYTES = 32, 8 * 2**20


def chunked(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Some items at a time, fewer where they are large."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += _weight(item.payload)
        if len(chunk) == CHUNK_RECORDS or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _weight(payload: Any) -> int:
    """Bytes of pictures and texts, about."""
    if isinstance(payload, (bytes, str)):
        return len(payload)
    if isinstance(payload, Mapping):
        return sum(_weight(value) for value in payload.values())
    return sum(_weight(value) for value in payload) if isinstance(payload, (list, tuple)) else 8
