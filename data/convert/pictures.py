"""A folder of pictures with captions: `cat.txt` beside `cat.jpg`, or one table of file and caption.

Out: a record for each picture, or for each line of the table, the picture first; its id is the picture's name in the folder. Names
decide what is a picture, contents whether it is one: a GIF is a fault and not passed over.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.convert.captioned import captioned
from data.convert.json_file import line_texts, read_object
from data.convert.picture_file import read_file
from data.convert.record import OTHER_FORMAT, Draft, Item, LeftOut, Wanted
from data.convert.settings import Settings
from data.sample import IMAGE_EXTENSIONS, BadRecord

# Files called so are meant as pictures, also those that cannot be stored.
SUFFIXES = {
    *(f".{extension}" for extension in IMAGE_EXTENSIONS),
    *(
        ".jpe",
        ".jfif",
        ".jp2",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".svg",
        ".ico",
        ".psd",
    ),
}
FILE_COLUMNS, CAPTION_COLUMNS = ("file", "file_name", "image"), ("caption", "text")
UNCAPTIONED, NO_CAPTION = "picture without a caption", "missing caption"


class Pictures:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if not settings.sources[0].exists():
            raise ValueError(f"cannot read {settings.sources[0]}: there is no such folder")
        if len(settings.sources) != 1 or not settings.sources[0].is_dir():
            raise ValueError(f"pictures takes one folder, got {', '.join(map(str, settings.sources))}")
        self._folder = settings.sources[0]

    def files(self) -> list[Path]:
        table = [] if self._settings.captions is None else [self._settings.captions]
        return [*table, *(self._folder / name for name in list_files(self._folder))]

    def size(self) -> int:
        return 0  # names alone are read

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        names = list_files(self._folder)
        pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
        if not pictures:
            raise ValueError(f"{self._folder} has no pictures; files end in {_suffixes_of(names) or 'nothing'}")
        table = self._settings.captions
        captions: list[tuple[str, str, object]]
        if table is None:
            texts = {name for name in names if name.endswith(".txt")}
            captions = [(name, name, None) for name in pictures if _beside(name) in texts]
        else:
            captions = read_table(table)
        captioned = {os.path.normpath(name) for _, name, _ in captions}
        alone = [name for name in pictures if name not in captioned]
        if alone and not self._settings.skip_uncaptioned:
            where = "NAME.txt beside them" if table is None else f"line in {table}"
            raise ValueError(
                f"{len(alone):,} of {len(pictures):,} pictures in {self._folder} have no {where}, the first is {alone[0]!r}; "
                "give captions, or --skip-uncaptioned to leave them out"
            )
        number, times = 0, Counter[str]()
        for where, name, caption in captions:
            times[name] += 1
            identity = name if times[name] == 1 else f"{name}#{times[name]}"
            yield Item(number, where, (name, identity, caption), self._folder, 0)
            number += 1
        for name in alone:
            fault = LeftOut(f"picture {name!r} has no caption", UNCAPTIONED)
            yield Item(number, name, fault, self._folder, 0)
            number += 1

    def identify(self, item: Item) -> str | None:
        return str(item.payload[1])

    def draft(self, item: Item) -> Draft:
        name, identity, caption = item.payload
        if caption is None:
            beside = _beside(name)
            data = read_file(item.root, beside, "caption", NO_CAPTION)
            try:
                caption = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BadRecord(f"caption {beside!r} is not UTF-8 (byte {error.start})", "bad text") from None
        if not isinstance(caption, str):
            raise BadRecord(f"needs a text as caption, got {caption!r:.80}", OTHER_FORMAT)
        if not caption.strip():
            raise BadRecord("has an empty caption", "empty caption")
        return captioned(self._settings, identity, name, [caption.strip()])


def list_files(folder: Path) -> list[str]:
    """The names of all files below a folder, with `/` between folders, in the order of their code points.

    Raises:
        ValueError: a name is not UTF-8, or a link leads to a folder.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                raise ValueError(
                    f"{os.path.join(place, name)} is a link to a folder, which is not followed; copy its files"
                )
        found += [Path(place, name).relative_to(folder).as_posix() for name in files]
    for name in found:
        if not name.isprintable():
            raise ValueError(
                f"{folder}: the file {name!r} has a name that cannot be printed or is not UTF-8; rename it"
            )
    return sorted(found)


def read_table(path: Path) -> list[tuple[str, str, object]]:
    """(`captions.csv line 7`, file, caption) of each line of a .csv, .tsv or .jsonl.

    Raises:
        ValueError: it cannot be read, or lacks one of the two columns.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            return list(_jsonl_table(path))
        if path.suffix.lower() in (".csv", ".tsv"):
            return list(_csv_table(path, "\t" if path.suffix.lower() == ".tsv" else ","))
    except OSError as error:
        raise ValueError(f"captions {path}: {error.strerror}") from None
    raise ValueError(f"captions {path}: needs a file that ends in .csv, .tsv or .jsonl")


def _jsonl_table(path: Path) -> Iterator[tuple[str, str, object]]:
    for where, line, _ in line_texts(path):
        try:
            if isinstance(line, BadRecord):
                raise line
            fields = read_object(line)
        except BadRecord as fault:
            raise ValueError(f"captions {path}, {where}: {fault}") from None
        file, caption = _columns(fields, f"{path}, {where}")
        if not isinstance(fields[file], str):
            raise ValueError(f"captions {path}, {where}: needs a text as {file}, got {fields[file]!r:.80}")
        yield f"{path.name} {where}", fields[file], fields[caption]


def _csv_table(path: Path, delimiter: str) -> Iterator[tuple[str, str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, strict=True)
            name, caption = _columns(rows.fieldnames or (), str(path))
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(
                        f"captions {path} line {rows.line_num}: needs {len(rows.fieldnames or ())} columns; "
                        "a text with the separator in it needs quotes"
                    )
                yield f"{path.name} line {rows.line_num}", row[name], row[caption]
    except UnicodeDecodeError as error:
        raise ValueError(f"captions {path} is not UTF-8 ({error.reason})") from None
    except csv.Error as error:
        raise ValueError(f"captions {path} line {rows.line_num}: {error}") from None


def _columns(names: object, where: str) -> tuple[str, str]:
    """What the two columns are called here."""
    found = []
    for kinds in (FILE_COLUMNS, CAPTION_COLUMNS):
        here = [kind for kind in kinds if kind in names]  # type: ignore[operator]  # a mapping or a sequence
        if len(here) != 1:
            has = ", ".join(map(str, names)) or "nothing"  # type: ignore[call-overload]
            raise ValueError(f"captions {where}: needs one column of {', '.join(kinds)}, it has {has[:200]}")
        found.append(here[0])
    return found[0], found[1]


def _beside(name: str) -> str:
    """Where the caption of a picture lies."""
    return str(PurePosixPath(name).with_suffix(".txt"))


def _suffixes_of(names: list[str]) -> str:
    return ", ".join(sorted({PurePosixPath(name).suffix or "no suffix" for name in names})[:10])


def _raise(error: OSError) -> None:
    raise error
