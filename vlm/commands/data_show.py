"""`vlm data show`: one record of a shard, as it is stored and as it is read."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.doctor.find import Found

UNSAFE = re.compile(r"[^\w.-]+")  # in the name of a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from vlm.data_report.layout import add_reading_arguments

    parser.epilog = (
        "With --tokenizer, --config or --encoder the record's tokens are shown too: those with loss in bold on a terminal, "
        "in [brackets] elsewhere, and the slots of a picture as one group."
    )
    parser.add_argument("shard", metavar="SHARD", help="a tar; or a folder, pattern or manifest to look through")
    parser.add_argument("record", metavar="KEY_OR_NUMBER", help="a key; where there is none such, a number from 0")
    add_reading_arguments(parser)
    parser.add_argument("--questions", action="store_true", help="read it as a benchmark's question")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="write its pictures into this folder, as they are stored"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with its pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Find it and print it.

    Raises:
        ValueError: there is no such record, or it is bad: what is stored was printed before.
    """
    from vlm.commands.data_doctor import place_of
    from vlm.commands.folders import require_writable
    from vlm.commands.imports import collector_paused

    if args.html is not None:
        require_writable(args.html.parent, "--html")
    with collector_paused():
        from data.doctor.find import find_record
        from vlm.data_report.layout import read_reading
        from vlm.data_report.record_text import as_text
        from vlm.data_report.shown import as_dict, read_shown
        from vlm.data_report.tokens import COLOURED, WRITTEN

    found = find_record(place_of(args.shard), args.record)
    counts = args.tokenizer or args.config or args.encoder
    shown = read_shown(found, read_reading(args) if counts else None, args.questions)
    if args.json:
        print(json.dumps(as_dict(shown), indent=2))
    else:
        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(as_text(shown, COLOURED if in_colour else WRITTEN))
    if args.save is not None:
        for path in save_pictures(found, args.save):
            print(f"picture: {path}", file=sys.stderr if args.json else sys.stdout)
    if args.html is not None:
        from eval.predictions import write_atomically
        from vlm.data_report.record_page import draw_record_page

        write_atomically(args.html, draw_record_page(shown))
        print(f"page: {args.html}", file=sys.stderr if args.json else sys.stdout)
    if shown.faults:
        raise ValueError("; ".join(shown.faults))
    return 0


def save_pictures(found: "Found", folder: Path) -> list[Path]:
    """Write the pictures, byte for byte.

    Raises:
        ValueError: a file of that name is there.
    """
    from data.sample import pictures_of
    from vlm.commands.folders import require_writable

    require_writable(folder, "--save")
    written = []
    for name, data in pictures_of(found.members).items():
        # A key may hold slashes, and is a stranger's: it is no path.
        path = folder / f"{UNSAFE.sub('_', found.key).lstrip('.')}.{UNSAFE.sub('_', name)}"
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            raise ValueError(f"{path} is there already; give --save another folder, or move it away") from None
        written.append(path)
    return written
