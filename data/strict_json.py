"""JSON that means the same to every reader, and that no file of a bounded size makes expensive.

In: bytes of unknown origin. Out: the value, or a ValueError that says what is wrong.
"""

import json
import math
from typing import Any, NoReturn

MAX_JSON_BYTES = 16 * 2**20
# How deep Python's own reader gets depends on who calls it; whether a record is good must depend on its bytes alone.
MAX_DEPTH = 100


def strict_json(data: bytes) -> Any:
    """Read JSON that means the same to every reader: UTF-8, finite numbers, no key twice, bounded size and depth.

    Raises:
        ValueError: what is wrong, without naming the record (the caller knows it).
    """
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"the JSON has {len(data):,} bytes, the limit is {MAX_JSON_BYTES:,}")
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique_keys
        )
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(value):
            raise RecursionError
        # A lone surrogate can be written in JSON but not in UTF-8, and no tokenizer takes it.
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the JSON is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ValueError("the JSON has a lone surrogate, which is not a character") from None
    except RecursionError:
        raise ValueError(f"the JSON is nested too deeply, the limit is {MAX_DEPTH}") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))]
        level = [value for part in inner for value in part]
        if not inner:
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the JSON has {constant}, which is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the JSON has the number {text[:40]}, which is too large")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the JSON has the key {twice[:80]!r} twice")
    return fields
