"""Pictures as a source has them: found below their folder and nowhere else, and of a kind that is stored as it is.

In: a name from a file that somebody else wrote. Out: the bytes, or a `BadRecord`. A name may not leave the folder: not by `..`, not
as an absolute path, not through a link. What is no JPEG, PNG or WebP is a fault: to convert it here would change pictures unasked.
"""

import errno
import os
import stat
from functools import cache
from pathlib import Path, PurePosixPath

from data.image_header import FORMATS, check_header
from data.sample import BadRecord
from data.tar import MAX_MEMBER_BYTES

OUTSIDE, MISSING, WRONG_KIND = "outside the folder", "missing picture", "no JPEG, PNG or WebP"
# What is wrong with a name, and not with the disk.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_EXTENSIONS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
_OTHER_KINDS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<svg": "SVG",
    b"<!DO": "HTML",
    b"<htm": "HTML",
}


def read_picture(root: Path, picture: str | bytes) -> bytes:
    """The bytes of a picture.

    Args:
        root: the folder that it must lie in.
        picture: its name in there, with `/` between folders; or the bytes themselves.

    Raises:
        BadRecord: it is not there, lies elsewhere, is no regular file, or too large.
        OSError: it cannot be read, which is no fault of the data.
    """
    if isinstance(picture, bytes):
        if len(picture) > MAX_MEMBER_BYTES:
            raise _too_large(f"picture of {len(picture):,} bytes")
        return picture
    return read_file(root, picture, "picture", MISSING)


def read_file(root: Path, name: str, what: str, missing: str) -> bytes:
    """A regular file below a folder, of bounded size.

    Args:
        what: what it is, for messages.
        missing: the reason of the fault when it is not there.

    Raises:
        BadRecord: as `read_picture`.
    """
    shown = f"{what} {name[:200]!r}"
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        raise BadRecord(f"{shown}: no file has this name", missing)
    if name.startswith("/") or ".." in parts:
        raise BadRecord(f"{shown} lies outside of {root}; names are relative to that folder, without ..", OUTSIDE)
    try:
        inside = _real(root)
        real = os.path.realpath(os.path.join(inside, name))
        if not real.startswith(os.path.join(inside, "")):
            raise BadRecord(f"{shown} is a link to a place outside of {root}", OUTSIDE)
        # Not to wait for the other end of a pipe.
        file = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise BadRecord(f"{shown} is not in {root} ({error.strerror})", missing) from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise BadRecord(f"{shown} is no file but a folder, a pipe or a device", missing)
        if status.st_size > MAX_MEMBER_BYTES:
            raise _too_large(f"{shown} of {status.st_size:,} bytes")
        with open(file, "rb", closefd=False) as opened:
            return opened.read(MAX_MEMBER_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, real) from None
    finally:
        os.close(file)


def picture_extension(data: bytes, verify: bool, shown: str) -> str:
    """How the member is called that holds this picture: by its content, whatever its name says.

    Args:
        verify: decode all of it, not only its header.
        shown: its name, for messages.

    Raises:
        BadRecord: it is of another kind, its header is damaged, or it cannot be decoded.
    """
    for magic, kind in _OTHER_KINDS.items():
        if data.startswith(magic):
            raise BadRecord(
                f"picture {shown} is {kind}; make it {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", WRONG_KIND
            )
    try:
        check_header(data)
        if verify:
            from data.image import decode

            decode(data)
    except BadRecord as fault:
        raise BadRecord(f"picture {shown}: {fault}", fault.reason) from None
    return next((extension for magic, extension in _EXTENSIONS.items() if data.startswith(magic)), "webp")


@cache
def _real(root: Path) -> str:
    return os.path.realpath(root)


def _too_large(what: str) -> BadRecord:
    return BadRecord(f"{what} is above the limit of {MAX_MEMBER_BYTES:,}", "picture too large")
