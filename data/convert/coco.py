"""Captions as COCO has them: `{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}`.

Out: a record for each caption, in the order of the annotations, its id that of the annotation; or, together, one for each picture in
the order of the pictures, its captions a line each in the order of their ids. The file is read as a whole: captions_train2017 has 92 MB.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.captioned import captioned
from data.convert.json_file import find_files
from data.convert.record import OTHER_FORMAT, Draft, Item, LeftOut, Wanted
from data.convert.settings import Settings
from data.sample import BadRecord

SUFFIXES = (".json",)
MAX_BYTES = 2 * 2**30
UNCAPTIONED = "picture without a caption"


class Coco:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if len(self.files()) != 1:
            raise ValueError(
                f"coco takes one annotation file at a time, got {len(self.files())}: each has its own pictures and ids"
            )

    def files(self) -> list[Path]:
        return find_files(self._settings.sources, SUFFIXES)

    def size(self) -> int:
        return 0  # it is read at once

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        (file,) = self.files()
        pictures, annotations = read_captions(file)
        root = file.parent if self._settings.images is None else self._settings.images
        by_picture: dict[Any, list[dict[str, Any]]] = {}
        for annotation in annotations:
            by_picture.setdefault(_hashable(annotation.get("image_id")), []).append(annotation)
        names = {_hashable(picture.get("id")): picture.get("file_name") for picture in pictures}
        alone = [picture for picture in pictures if _hashable(picture.get("id")) not in by_picture]
        if alone and not self._settings.skip_uncaptioned:
            raise ValueError(
                f"{file}: {len(alone):,} of {len(pictures):,} pictures have no caption, the first is "
                f"{alone[0].get('file_name')!r}; --skip-uncaptioned leaves them out"
            )
        number = 0
        if self._settings.together:
            for index, picture in enumerate(pictures):
                if own := by_picture.get(_hashable(picture.get("id"))):
                    yield Item(
                        number, f"{file.name} images[{index}]", (picture.get("file_name"), picture, own), root, 0
                    )
                    number += 1
            left = [one for name, some in by_picture.items() if name not in names for one in some]
        else:
            left = annotations
        for index, annotation in enumerate(left):
            name = names.get(_hashable(annotation.get("image_id")))
            yield Item(number, f"{file.name} annotations[{index}]", (name, annotation, [annotation]), root, 0)
            number += 1
        for picture in alone:
            fault = LeftOut(f"picture {picture.get('file_name')!r} has no caption", UNCAPTIONED)
            yield Item(number, file.name, fault, root, 0)
            number += 1

    def identify(self, item: Item) -> str | None:
        return self.draft(item).id

    def draft(self, item: Item) -> Draft:
        name, own, annotations = item.payload
        if name is None:
            raise BadRecord(f"has image_id {own.get('image_id')!r:.80}, which no picture has", "missing picture")
        if not isinstance(name, str):
            raise BadRecord(f"needs a text as file_name, got {name!r:.80}")
        captions = [_caption(one) for one in sorted(annotations, key=_by_id)]
        identity = own.get("id")
        if type(identity) is not int and not (isinstance(identity, str) and identity):
            raise BadRecord(f"needs a whole number or a text as id, got {identity!r:.80}")
        return captioned(self._settings, str(identity), name, captions)


def read_captions(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pictures and the annotations.

    Raises:
        ValueError: the file is something else; says what it has.
    """
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes, the limit for COCO is {MAX_BYTES:,}; split it")
    try:
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file} is not one JSON object as COCO's are ({error})") from None
    lists = [found.get(name) for name in ("images", "annotations")] if isinstance(found, dict) else []
    if not lists or not all(isinstance(one, list) and all(isinstance(entry, dict) for entry in one) for one in lists):
        has = f"the keys {', '.join(map(str, found))[:200]}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise ValueError(f"{file} needs the lists images and annotations, it has {has}")
    pictures, annotations = lists
    assert pictures is not None
    assert annotations is not None
    if annotations and not any("caption" in one for one in annotations):
        raise ValueError(
            f"{file} has annotations without captions, the first has {', '.join(annotations[0])[:200]}; "
            "COCO's captions are in captions_*.json"
        )
    return pictures, annotations


def _caption(annotation: dict[str, Any]) -> str:
    caption = annotation.get("caption")
    if not isinstance(caption, str):
        raise BadRecord(f"needs a text as caption, got {caption!r:.80}", OTHER_FORMAT)
    if not caption.strip():
        raise BadRecord("has an empty caption", "empty caption")
    return caption.strip()


def _by_id(annotation: dict[str, Any]) -> tuple[bool, Any]:
    name = annotation.get("id")
    return (False, name) if type(name) is int else (True, str(name))


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else repr(value)
