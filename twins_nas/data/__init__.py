"""Images of data sets by name, their augmentation and their minibatches.

`load` reads the training images and parts them; the test images are read by `ImageData.test` only.
"""

from twins_nas.data.augment import augment, normalise
from twins_nas.data.batches import batches, epoch_order
from twins_nas.data.folder import FolderImages, ImageSet
from twins_nas.data.images import Images
from twins_nas.data.sources import DATA_SETS, EMBEDDED, ImageData, load

__all__ = [
    "DATA_SETS",
    "EMBEDDED",
    "FolderImages",
    "ImageData",
    "ImageSet",
    "Images",
    "augment",
    "batches",
    "epoch_order",
    "load",
    "normalise",
]
