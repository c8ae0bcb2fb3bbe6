"""Fetching data sets through torchvision: its addresses and its checksums; only when asked to."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Any

from twins_nas.errors import UserError

TORCHVISION = {
    "fashion-mnist": "FashionMNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def raw_folder(name: str, root: Path) -> Path:
    """Where torchvision keeps the IDX files of a data set."""
    return root / TORCHVISION[name] / "raw"


def fetch(name: str, root: Path) -> None:
    """Downloads and unpacks the files of a data set into torchvision's layout below `root`.

    Raises:
        UserError: a file could not be had from any of its addresses, whole.
    """
    import torchvision.datasets as published

    entry = getattr(published, TORCHVISION[name])
    if hasattr(entry, "mirrors"):
        for file, md5 in entry.resources:
            urls = [f"{mirror}{file}" for mirror in entry.mirrors]
            _fetch_first(urls, raw_folder(name, root), file, md5)
    else:
        _fetch_first([entry.url], root, entry.filename, entry.tgz_md5)


def _fetch_first(urls: list[str], folder: Path, file: str, md5: str) -> None:
    """One file from the first address that gives it with the right MD5, unpacked beside itself."""
    faults = []
    for url in urls:
        try:
            _fetch_one(url, folder, file, md5)
            return
        # URLError and a full disk are OSErrors; RuntimeError is torchvision's for a wrong MD5.
        except (OSError, RuntimeError, EOFError, HTTPException) as error:
            (folder / file).unlink(missing_ok=True)
            faults.append(f"{url}: {error}")
    raise UserError(
        f"{file} could not be downloaded to {folder} ({'; '.join(faults)}); try again, or put the"
        " file there by hand and leave --download out."
    )


def _fetch_one(url: str, folder: Path, file: str, md5: str) -> None:
    from torchvision.datasets import utils as torchvision_files

    download: Any = torchvision_files.download_and_extract_archive
    download(url, download_root=str(folder), filename=file, md5=md5)
