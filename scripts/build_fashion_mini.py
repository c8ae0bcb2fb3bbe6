"""Builds the embedded data set `fashion-mnist-mini` from the four IDX files of Fashion-MNIST.

    python scripts/build_fashion_mini.py FOLDER_OF_FASHION_MNIST

It takes the first images of every class, in the order of the files: 1,200 of each for training, 200
for testing. The test images come from the test files. The same bytes come out every time.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import struct
import sys
from pathlib import Path

import torch
from torch import Tensor

from twins_nas.data.idx import KINDS, PARTS, UNSIGNED_BYTE, file_name, read_idx
from twins_nas.data.sources import EMBEDDED_FOLDER
from twins_nas.errors import exit_with

PER_CLASS = {"train": 1200, "test": 200}
SHA256 = {
    "train-images": "282c0240c93d5546409456394b9db9d00d73ef2bb2d12abe24c0d8ee203565bb",
    "train-labels": "95f443b4986a5195ae1ab02d934d30b891a82fdb406b8da95a5cd44c4665069a",
    "test-images": "e60ede7714c657ced2d723c33140572b5476b46df34b385a6e176b0757dc4318",
    "test-labels": "e6d25f5f3e85bb315a10172898c1c8f69ce52c4f9306c5821205c821bfca8847",
}
LICENSE = """\
The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def first_of_each_class(labels_B: Tensor, count: int) -> Tensor:
    """Ascending indices of the first `count` images of every class."""
    of_class = [(labels_B == label).nonzero()[:count, 0] for label in torch.unique(labels_B)]
    return torch.cat(of_class).sort().values


def pack_idx(values: Tensor) -> bytes:
    """A gzipped IDX file of uint8 values, without a time or a name in its header."""
    head = struct.pack(f">4B{values.ndim}I", 0, 0, UNSIGNED_BYTE, values.ndim, *values.shape)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(head + values.numpy().tobytes())
    return packed.getvalue()


def build(source: Path, target: Path, per_class: dict[str, int]) -> dict[str, str]:
    """Writes the four files and the LICENSE; gives the SHA-256 of each (`train-images`, ...)."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "LICENSE").write_text(LICENSE)
    sums = {}
    for part in PARTS:
        whole = {
            kind: read_idx(source / f"{file_name(part, kind)}.gz", ndim, "fetch it again")
            for kind, (_, ndim) in KINDS.items()
        }
        chosen = first_of_each_class(whole["labels"], per_class[part])
        for kind, values in whole.items():
            packed = pack_idx(values[chosen])
            (target / f"{file_name(part, kind)}.gz").write_bytes(packed)
            sums[f"{part}-{kind}"] = hashlib.sha256(packed).hexdigest()
    return sums


def main() -> int:
    """Builds, prints the sums and compares them with the recorded ones; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of the four .gz files of Fashion-MNIST")
    parser.add_argument("--target", type=Path, default=EMBEDDED_FOLDER, help="where to write")
    args = parser.parse_args()
    sums = build(args.source, args.target, PER_CLASS)
    for name, value in sums.items():
        print(value, name)
    if sums != SHA256:
        print("These are not the recorded sums: another source, or another zlib.", file=sys.stderr)
    return int(sums != SHA256)


if __name__ == "__main__":
    exit_with(main)
