"""Write what an expansion must give: the number and the digest of each set's records, to compare other machines with.

The digest is of keys, JSON and decoded pixels: PNG bytes may change with the image library, pixels may not.
"""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from data.assets.expand import builders, write_set
from data.assets.pieces import Pieces, replace_file
from data.shards import open_shards


def digest(folder: Path) -> dict[str, Any]:
    """Return the number of samples of a shard folder, and the hash of what they say and show."""
    shards, total = open_shards(folder), hashlib.sha256()
    for index in range(len(shards)):
        key, members = shards.read(index)
        total.update(key.encode())
        for extension, data in sorted(members.items()):
            if extension != "json":
                picture = Image.open(io.BytesIO(data))
                data = f"{picture.mode}{picture.size}".encode() + picture.tobytes()
            total.update(hashlib.sha256(data).digest())
    return {"samples": len(shards), "sha256": total.hexdigest()}


def build_expected(work: Path, assets: Path) -> None:
    """Expand everything into the work folder and write `expected.json`."""
    folder = work / "expected"
    shutil.rmtree(folder, ignore_errors=True)
    found = {}
    for name, make in builders(Pieces(assets)).items():
        write_set(folder / name, make())
        found[name] = digest(folder / name)
        print(f"{name}: {found[name]['samples']} samples")
    replace_file(assets / "expected.json", (json.dumps(found, indent=1) + "\n").encode())
