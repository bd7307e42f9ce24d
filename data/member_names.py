"""Names of members: which record a member belongs to, and which names are not taken.

In: the name of a tar's member. Out: (key, extension), or what is wrong with it.
"""

import re
from collections.abc import Iterable

from data.tar_index import MAX_NAME

# webdataset's rule: directories belong to the key, the extension begins at the first dot of the base name.
MEMBER_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


def split_name(name: str) -> tuple[str, str] | None:
    match = MEMBER_NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def looks_merged(extensions: Iterable[str]) -> bool:
    """True if the members of a record look like files whose names had dots: `img.01.jpg` and `img.02.jpg` are one record.

    By webdataset's rule both have the key `img`. Ours do so on purpose, but then there is a JSON that names the pictures,
    and no text but `txt` and `json`.
    """
    names = set(extensions)
    dotted = [name for name in names if "." in name]
    return any(name.endswith((".txt", ".json")) for name in dotted) or (len(dotted) > 1 and "json" not in names)


def name_fault(name: str, split: tuple[str, str] | None) -> str | None:
    if len(name) > MAX_NAME:
        return f"has a name of {len(name)} characters (the limit is {MAX_NAME})"
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return "has a name that leaves the folder"
    if not name.isprintable():  # control characters, and bytes that are not UTF-8 (read as surrogates)
        return "has a name with characters that cannot be printed"
    if split and split[1].startswith("__"):
        return "has an extension that begins with __, which readers keep for themselves"
    return None
