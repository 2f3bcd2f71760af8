"""Text files as blocks of whole lines in UTF-8."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from shoal.errors import PipelineError
from shoal.store import is_url, open_file

__all__ = ["blocks", "encoding_of", "readable", "whole_text"]

_BLOCK = 8 * 1024 * 1024
_PACKED = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}


def encoding_of(options: Mapping[str, str]) -> str:
    """The name of the encoding that the reader options give.

    Raises:
        PipelineError: There is no such encoding.
    """
    name = options.get("encoding", options.get("charset", "UTF-8"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise PipelineError(
            f"There is no encoding '{name}'.", hint='For example .option("encoding", "ISO-8859-1")'
        ) from None


@contextlib.contextmanager
def readable(path: str) -> Iterator[Any]:
    """A file's bytes, unpacked by its ending (.gz, .bz2, .zst, .lz4).

    Raises:
        PipelineError: The file is gone or damaged.
    """
    import pyarrow as pa

    try:
        if not is_url(path):
            with pa.input_stream(path, compression="detect") as stream:
                yield stream
            return
        with open_file(path) as raw:
            packed = _PACKED.get(path.rpartition(".")[2].lower())
            with pa.input_stream(raw, compression=packed) as stream:
                yield stream
    except (OSError, EOFError, pa.ArrowException) as error:
        raise PipelineError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            hint="Replace or remove it, then run again; the other files are read then.",
        ) from error


def blocks(path: str, options: Mapping[str, str]) -> Iterator[bytes]:
    """A file's text in blocks of whole lines: UTF-8, no byte order mark, line feeds only.

    Bytes that are no text in the file's encoding become U+FFFD.

    Raises:
        PipelineError: The file is gone or damaged.
    """
    encoding = encoding_of(options)
    decoder = None
    if encoding not in {"utf-8", "ascii"}:
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    rest, first = b"", True
    with readable(path) as stream:
        while True:
            data = stream.read(_BLOCK)
            last = not data
            if decoder is not None:
                data = decoder.decode(data, final=last).encode()
            if first:
                data = data.removeprefix(codecs.BOM_UTF8)
                first = False
            if last:
                break
            end = data.rfind(b"\n")
            if end < 0:
                rest += data
                continue
            yield _clean(rest + data[: end + 1])
            rest = data[end + 1 :]
        if rest + data:
            yield _clean(rest + data)


def _clean(data: bytes) -> bytes:
    if b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode(errors="replace").encode()
    return data


def whole_text(path: str, options: Mapping[str, str]) -> str:
    """All of a file's text.

    Raises:
        PipelineError: The file is gone or damaged.
    """
    return b"".join(blocks(path, options)).decode()
