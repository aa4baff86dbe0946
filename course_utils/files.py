"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes the name when the block ends without an error.

    A killed process or a full disk leaves the old file as it was. Missing folders are made.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{getpid()}.tmp")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write(path: str | Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8 with its line ends as they are; a file that has this content is left alone."""
    content, path = content.encode("utf-8") if isinstance(content, str) else content, Path(path)
    if path.exists() and path.read_bytes() == content:
        return
    with replacing(path) as scratch:
        scratch.write_bytes(content)
