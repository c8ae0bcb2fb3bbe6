"""The order of an epoch and its minibatches, from any step on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from twins_nas.data.folder import FolderImages, ImageSet
from twins_nas.errors import UserError


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation of `range(n)` (int64) of one epoch; it depends on the arguments only."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))


def batches(
    images: ImageSet, batch_size: int, order_B: Tensor, start: int = 0, drop_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches of pixels (uint8, BCHW) and labels (int64, B) in an order.

    Args:
        images: what to take from.
        batch_size: images of a minibatch.
        order_B: indices into the images, such as `epoch_order` or `torch.arange(len(images))`.
        start: steps to skip, without reading them: a resumed epoch goes on exactly.
        drop_last: leave out an incomplete last minibatch; for training.

    Raises:
        UserError: `drop_last` would leave nothing; an image file is not readable.
    """
    assert batch_size > 0 and start >= 0 and len(order_B) > 0
    if drop_last and len(order_B) < batch_size:
        raise UserError(
            f"A minibatch of {batch_size} is more than the {len(order_B)} images there are; choose"
            " a batch size of at most that."
        )
    chunks = torch.split(order_B, batch_size)
    if drop_last and len(chunks[-1]) < batch_size:
        chunks = chunks[:-1]
    if isinstance(images, FolderImages):
        yield from _decoded_ahead(images, chunks[start:])
    else:
        for indices_B in chunks[start:]:
            yield images.batch(indices_B)


def _decoded_ahead(
    images: FolderImages, chunks: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches of which the next is decoded while one is worked on."""
    if not chunks:
        return
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(images.batch, chunks[0])
        for indices_B in chunks[1:]:
            ready = coming.result()
            coming = ahead.submit(images.batch, indices_B)
            yield ready
        yield coming.result()
