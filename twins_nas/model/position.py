"""Positional encodings: APE (learned table).

CPE (the PEG of CPVT) and RPE (bias per relative offset).

Shapes: B batch, H W grid, C channels, h heads, R reach (a table holds the offsets -(R-1)..R-1 of
each axis), S tokens a window, N tokens, M sub-sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins_nas.arch import Grid
from twins_nas.model.slicing import Elastic, ElasticConv2d, _copy


class AbsoluteTable(Elastic):
    """APE: a learned vector a grid position of the stage (PVT, arXiv 2102.12122).

    Resized to other grids.
    """

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(*grid, dim))

    def at(self, dim: int, grid: Grid) -> Tensor:
        """The table [H, W, dim] for a grid; bilinear where it is not the table's own."""
        table = self.table if dim == self.table.shape[-1] else self.table[..., :dim]
        if grid == tuple(self.table.shape[:2]):
            return table
        resized = F.interpolate(
            table.permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=False
        )
        return resized[0].permute(1, 2, 0)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Adds the table; keeps the shape."""
        return x_BHWC + self.at(x_BHWC.shape[-1], (x_BHWC.shape[1], x_BHWC.shape[2]))

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, AbsoluteTable)
        rows, columns, dim = self.table.shape
        _copy(self.table, source.at(dim, (rows, columns)))


ON_GRID: dict[str, Callable[[int, Grid], Elastic]] = {"ape": AbsoluteTable}
"""The kinds that a stage adds to the tokens of its grid, before its blocks."""


class ClassToken(Elastic):
    """The learned token that is classified, with its own entry of the APE table (as in PVT)."""

    def __init__(self, dim: int, ape: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(dim))
        self.position = nn.Parameter(torch.empty(dim)) if ape else None

    def forward(self, dim: int, ape: bool) -> Tensor:
        """The token [dim]."""
        whole = dim == self.token.shape[0]
        token = self.token if whole else self.token[:dim]
        if not ape:
            return token
        assert self.position is not None
        return token + (self.position if whole else self.position[:dim])

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, ClassToken)
        dim = self.token.shape[0]
        _copy(self.token, source.token[:dim])
        if self.position is not None:
            assert source.position is not None
            _copy(self.position, source.position[:dim])


class PEG(ElasticConv2d):
    """CPE: x + 3x3 depth-wise convolution of x, zero-padded (CPVT, arXiv 2102.10882)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel=3, padding=1, depthwise=True)

    def forward(self, x_BHWC: Tensor, out_dim: int | None = None) -> Tensor:
        """Adds the encoding; keeps the shape."""
        return x_BHWC + super().forward(x_BHWC)


class RelativeBias(Elastic):
    """RPE: one table of biases per head and relative offset, read by windows and by GSA.

    A window of side w reads the centre crop of (2w-1) x (2w-1) offsets. GSA's queries stand at
    integers, its keys at the centres of their r x r patches; its offsets are read bilinearly from
    the table of the `grid`, which is resized for other grids. So a window that covers the grid and
    GSA with ratio 1 read the same numbers.
    """

    def __init__(self, heads: int, reach: Grid, grid: Grid) -> None:
        super().__init__()
        self.reach, self.grid = reach, grid
        self.table = nn.Parameter(torch.empty(heads, 2 * reach[0] - 1, 2 * reach[1] - 1))
        self._index: dict[tuple[int, int, int, str], Tensor] = {}

    def crop(self, heads: int, reach: Grid) -> Tensor:
        """The offsets [heads, 2 Rh - 1, 2 Rw - 1] up to a reach.

        Bicubic where the table does not reach so far.
        """
        table = self.table if heads == self.table.shape[0] else self.table[:heads]
        (rows, columns), (own_rows, own_columns) = reach, self.reach
        if reach == self.reach:
            return table
        if rows > own_rows or columns > own_columns:
            return resize(table, reach)
        top, left = own_rows - rows, own_columns - columns
        return table[:, top : top + 2 * rows - 1, left : left + 2 * columns - 1]

    def on_grid(self, heads: int, grid: Grid) -> Tensor:
        """The offsets [heads, 2 H - 1, 2 W - 1] of a whole grid.

        Resized from those of the space's grid.
        """
        table = self.crop(heads, self.grid)
        return table if grid == self.grid else resize(table, grid)

    def window(self, heads: int, window: Grid) -> Tensor:
        """The bias [heads, S, S] inside a window."""
        return self._gather(self.crop(heads, window), window, 1)

    def subsampled(self, heads: int, grid: Grid, ratio: int) -> Tensor:
        """The bias [heads, N, M] of GSA's queries and sub-sampled keys.

        A key's centre is (r - 1) / 2 into its patch.
        """
        table = self.on_grid(heads, grid)
        if ratio % 2 == 0:
            table = F.avg_pool2d(table[None], 2, stride=1)[0]
        return self._gather(table, grid, ratio)

    def _gather(self, table: Tensor, grid: Grid, ratio: int) -> Tensor:
        place = (*grid, ratio, str(table.device))
        if place not in self._index:
            with torch.inference_mode(False):  # A later training step may read it too.
                rows = _offsets(grid[0], ratio)
                columns = _offsets(grid[1], ratio)
                flat = rows[:, None, :, None] * table.shape[-1] + columns[None, :, None, :]
                self._index[place] = flat.reshape(-1).to(table.device)
        keys = (grid[0] // ratio) * (grid[1] // ratio)
        bias = table.flatten(1).index_select(1, self._index[place])
        return bias.view(table.shape[0], grid[0] * grid[1], keys)

    def take(self, source: Elastic) -> None:
        """See `Elastic.take`."""
        assert isinstance(source, RelativeBias)
        heads = self.table.shape[0]
        whole = self.reach == self.grid and self.grid != source.grid
        _copy(
            self.table,
            source.on_grid(heads, self.grid) if whole else source.crop(heads, self.reach),
        )


def resize(table: Tensor, reach: Grid) -> Tensor:
    """A table [h, ., .] for another reach, bicubic; offset 0 stays in the centre."""
    size = (2 * reach[0] - 1, 2 * reach[1] - 1)
    return F.interpolate(table[None], size=size, mode="bicubic", align_corners=True)[0]


def _offsets(side: int, ratio: int) -> Tensor:
    """Index [side, side // ratio] of floor(query - key centre) in an axis of 2 side - 1 offsets."""
    query = torch.arange(side)[:, None]
    key = torch.arange(side // ratio)[None, :] * ratio + ratio // 2
    return query - key + side - 1
