"""Rebuild the committed pieces: `python -m data.assets.build --work FOLDER [STEP ...]`.

The steps run in the order below, each from the files that the earlier ones left:
    fetch      download, check and unpack the packages into the work folder
    emoji      lists/emoji.jsonl, pieces/emoji-*.tar.gz
    clipart    lists/clipart.jsonl, pieces/clipart-*.tar.gz
    text       pieces/text.tar.gz
    questions  lists/test-*.jsonl
    tokenizer  tokenizer/tokenizer.json, from the training sets expanded into the work folder
    checksums  checksums.json
    expected   expected.json, from everything expanded into the work folder
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data.assets.build.clipart import build_clipart
from data.assets.build.emoji import build_emoji
from data.assets.build.expected import build_expected
from data.assets.build.glosses import build_glosses
from data.assets.build.questions import build_questions
from data.assets.build.sources import fetch, file_sha256
from data.assets.build.tokenizer import build_tokenizer
from data.assets.expand import expand
from data.assets.pieces import ASSETS, Pieces, replace_file

STEPS = ("fetch", "emoji", "clipart", "text", "questions", "tokenizer", "checksums", "expected")
MAX_TOTAL_BYTES = 12 * 1024 * 1024


def write_checksums(assets: Path) -> None:
    """Write the hash of every committed file, and check that they are small enough together.

    Raises:
        ValueError: the files have more than 12 MiB.
    """
    files = [path for name in ("lists", "pieces", "tokenizer") for path in sorted((assets / name).iterdir())]
    total = sum(path.stat().st_size for path in files)
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"{assets} holds {total} bytes, the limit is {MAX_TOTAL_BYTES}; choose fewer pictures")
    sums = {path.relative_to(assets).as_posix(): file_sha256(path) for path in files}
    replace_file(assets / "checksums.json", (json.dumps(sums, indent=1) + "\n").encode())
    print(f"{len(files)} files, {total / 1e6:.2f} MB")


def expand_training(assets: Path, work: Path) -> Path:
    """Expand the training sets, of the pieces as they are now, into the work folder."""
    write_checksums(assets)
    folder = work / "expanded"
    shutil.rmtree(folder, ignore_errors=True)
    expand(folder, only=[f"train/{source}" for source in ("emoji", "presence", "scenes", "clipart", "text")])
    return folder


def run_step(step: str, work: Path) -> None:
    """Run one step of the build."""
    if step == "fetch":
        fetch(work)
    elif step == "emoji":
        build_emoji(work, ASSETS)
    elif step == "clipart":
        build_clipart(work, ASSETS)
    elif step == "text":
        build_glosses(work, ASSETS)
    elif step == "questions":
        write_checksums(ASSETS)
        build_questions(ASSETS, Pieces().members(""))
    elif step == "tokenizer":
        build_tokenizer(expand_training(ASSETS, work), ASSETS)
    elif step == "checksums":
        write_checksums(ASSETS)
    else:
        build_expected(work, ASSETS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.assets.build", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; all without any")
    parser.add_argument("--work", type=Path, required=True, help="folder for the packages, 500 MB")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.steps) - set(STEPS)
    if unknown:
        parser.error(f"unknown step {', '.join(sorted(unknown))}; steps: {', '.join(STEPS)}")
    for step in STEPS:
        if not chosen.steps or step in chosen.steps:
            print(f"step {step}")
            run_step(step, chosen.work)


if __name__ == "__main__":
    main()
