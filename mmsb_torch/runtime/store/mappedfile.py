"""Safetensors files whose tensors stay in the file."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

import torch
import xxhash

from mmsb_torch.device import empty
from mmsb_torch.runtime.store.files import FILES, Files, StrPath, explained
from mmsb_torch.runtime.store.streams import FileRecord, open_file
from mmsb_torch.runtime.store.tensorfile import check_size, shaped, tensor_layout, wrong_digest

_POPULATE_READ = 22
_CPU = torch.device("cpu")


def map_tensors(
    path: StrPath, expected: FileRecord, files: Files = FILES
) -> dict[str, torch.Tensor]:
    """As `read_tensors`, but the tensors lie in the file, mapped: nothing is copied.

    Every byte is read and compared with the digest before this returns. What is written into a
    tensor stays in this process. Processes that map the same file share its memory. If somebody
    cuts the file afterwards, touching what is gone kills the process; what somebody writes into it
    afterwards is seen here, unchecked. Neither can be helped, so the file must be nobody else's.

    Raises:
        as `read_tensors`.
    """
    with open_file(Path(path), files) as source:
        check_size(source, expected)
        if source.nbytes == 0:
            raise wrong_digest(source, expected, xxhash.xxh3_128_hexdigest(b""))
        with explained("map", source.path):
            mapping = mmap.mmap(source.fileno, source.nbytes, access=mmap.ACCESS_COPY)
        with contextlib.suppress(OSError, ValueError):  # Linux 5.14: all pages at once
            mapping.madvise(_POPULATE_READ)
        if (found := xxhash.xxh3_128_hexdigest(mapping)) != expected.digest:
            raise wrong_digest(source, expected, found)
        header, specs, _ = tensor_layout(source)
        start, where = source.nbytes - source.left, repr(str(source.path))
        return {
            name: shaped(
                _mapped(mapping, start + entry.start, entry.nbytes), specs[name], name, where
            )
            for name, entry in header.entries.items()
        }


def _mapped(mapping: mmap.mmap, start: int, nbytes: int) -> torch.Tensor:
    if nbytes == 0:
        return empty((0,), torch.uint8, _CPU)
    return torch.frombuffer(mapping, dtype=torch.uint8, count=nbytes, offset=start)
