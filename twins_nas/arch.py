"""`ArchConfig`: the frozen, normalised description of one network.

And the words that it is written in.

A search dimension is one field of `StageConfig` or `ArchConfig`; its metadata say whether its
values have an order, whether MACs grow or fall with them, and what it belongs to (network, stage
or block). The YAML schema, the choices, sampling, mutation, the samplers' distributions and the
report columns are derived from these fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal

LSA, SHIFTED, GSA = "L", "S", "G"
MIXERS = {LSA: ("window_size",), SHIFTED: ("window_size",), GSA: ("sr_ratio",)}
"""The letters of a mixer, each with the fields that it alone makes a block use."""
PE_KINDS = ("ape", "cpe", "rpe")
WINDOW_FITS = ("clamp", "pad")
CONV, MERGE = "conv", "merge"
DOWNSAMPLES = (CONV, MERGE)
SUBSAMPLINGS = (CONV, "separable", "pool")
GAP, CLS = "gap", "cls"
POOLS = (GAP, CLS)

Grid = tuple[int, int]
Owner = Literal["arch", "stage", "block"]


def dimension(
    owner: Owner,
    grows: int,
    meaning: str,
    default: Any = None,
    *,
    words: Sequence[str] = (),
    used: Callable[[StageConfig, int], bool] | None = None,
) -> Any:
    """A field that can be searched.

    `grows` is the sign of d MACs / d value, 0 for unordered values. `words` are all legal values of
    a field that is one word. `used` says which blocks use a value that the stage shares; where none
    does, the normal form has the default.
    """
    metadata = {"owner": owner, "grows": grows, "meaning": meaning, "words": words, "used": used}
    return (
        field(metadata=metadata) if default is None else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True)
class StageConfig:
    """One stage in normal form; per-block fields hold one value a block.

    0 where the block does not use it.

    Raises:
        ValueError: a value out of its range, or fields that contradict each other; names the field.
    """

    embed_dim: int = dimension("stage", +1, "channels C of the stage")
    head_dim: int = dimension("stage", 0, "channels of a head; heads = embed_dim / head_dim")
    depth: int = dimension("stage", +1, "number of blocks")
    mixer: str = dimension(
        "stage", 0, "pattern of L (LSA), S (shifted LSA), G (GSA), repeated over the blocks"
    )
    window_size: tuple[int, ...] = dimension("block", +1, "side of an LSA window, in tokens")
    sr_ratio: tuple[int, ...] = dimension("block", -1, "GSA's sub-sampling ratio: kernel = stride")
    pe: str = dimension(
        "stage", 0, "positional encoding: none, or a sum of ape, cpe, rpe such as ape+cpe"
    )
    mlp_ratio: tuple[float, ...] = dimension("block", +1, "hidden width of the MLP over embed_dim")
    peg_blocks: int = dimension(
        "stage", +1, "under cpe: how many blocks, from the first, a PEG follows", 1
    )
    subsampling: str = dimension(
        "stage",
        0,
        "how GSA sub-samples: a strided convolution, a separable one, or average pooling",
        CONV,
        words=SUBSAMPLINGS,
        used=lambda stage, block: stage.sr_ratio[block] > 1,
    )

    def __post_init__(self) -> None:
        for name in ("embed_dim", "head_dim", "depth", "peg_blocks"):
            _whole(name, getattr(self, name))
        if self.embed_dim % self.head_dim:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of head_dim {self.head_dim}"
            )
        check_mixer(self.mixer)
        letters = expand(self.mixer, self.depth)
        places: dict[str, tuple[int, ...]] = {}
        for name in ("window_size", "sr_ratio"):
            users = [name in MIXERS[letter] for letter in letters]
            places[name] = _per_block(name, getattr(self, name), users)
            for side in places[name]:
                _whole(name, side, least=0)
        mlp = _per_block("mlp_ratio", self.mlp_ratio, [True] * self.depth)
        for ratio in mlp:
            if not (math.isfinite(ratio) and int(self.embed_dim * ratio) >= 1):
                raise ValueError(
                    f"mlp_ratio {ratio} leaves no hidden unit at embed_dim {self.embed_dim}"
                )
        pe = normal_pe(self.pe)
        normal = {
            "mixer": shortest_pattern(letters),
            **places,
            "pe": pe,
            "mlp_ratio": tuple(float(ratio) for ratio in mlp),
            "peg_blocks": normal_peg_blocks(self.peg_blocks, pe, self.depth),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        for item in fields(self):
            _check_word(self, item)
            used = item.metadata["used"]
            if used and not any(used(self, block) for block in range(self.depth)):
                object.__setattr__(self, item.name, item.default)

    @property
    def num_heads(self) -> int:
        """Heads of every attention of the stage."""
        return self.embed_dim // self.head_dim

    @property
    def letters(self) -> str:
        """The mixer letter of each block."""
        return expand(self.mixer, self.depth)

    @property
    def pe_kinds(self) -> tuple[str, ...]:
        """The parts of `pe`, sorted; empty for `none`."""
        return () if self.pe == "none" else tuple(self.pe.split("+"))

    def hidden_dim(self, block: int) -> int:
        """Hidden width of the MLP of a block.

        `int(embed_dim * mlp_ratio)`, as in the papers' code.
        """
        return int(self.embed_dim * self.mlp_ratio[block])

    def __str__(self) -> str:
        """The stage in words: `32x2 LG w4 sr2 cpe mlp4`."""
        words = [f"{self.embed_dim}x{self.depth}", self.mixer]
        short = {"window_size": "w", "sr_ratio": "sr"}
        words += [
            letter + _few(getattr(self, name))
            for name, letter in short.items()
            if any(getattr(self, name))
        ]
        words += _words_of(self)
        pegs = f"*{self.peg_blocks}" if self.peg_blocks > 1 else ""
        words.append(self.pe.replace("cpe", f"cpe{pegs}"))
        return " ".join([*words, "mlp" + _few(self.mlp_ratio)])


@dataclass(frozen=True)
class ArchConfig:
    """One network: its stages, and what belongs to the whole of it.

    Raises:
        ValueError: no stage, or a value out of its range; names the field.
    """

    stages: tuple[StageConfig, ...]
    patch_size: int = dimension(
        "arch", -1, "side of a patch, in pixels; later stages halve the grid", 4
    )
    window_fit: str = dimension(
        "arch",
        0,
        "a window over the grid: clamp to it (Swin), or pad the grid (Twins)",
        "clamp",
        words=WINDOW_FITS,
    )
    norm_eps: float = dimension("arch", 0, "epsilon of the blocks' and the last LayerNorm", 1e-6)
    downsample: str = dimension(
        "arch",
        0,
        "between stages: a convolution (PVT, Twins), or merged patches (Swin)",
        CONV,
        words=DOWNSAMPLES,
    )
    pool: str = dimension(
        "arch",
        0,
        "what is classified: the mean token, or a class token of the last stage",
        GAP,
        words=POOLS,
    )
    patch_norm: bool = dimension(
        "arch", 0, "whether a LayerNorm follows the patches' convolutions (not in DeiT)", True
    )
    patch_eps: float = dimension(
        "arch", 0, "epsilon of the LayerNorms of patches, merged patches and GSA's keys", 1e-5
    )

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: at least one is needed")
        _whole("patch_size", self.patch_size)
        for item in fields(self):
            _check_word(self, item)
        for name in ("norm_eps", "patch_eps"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if not isinstance(self.patch_norm, bool):
            raise ValueError(f"patch_norm {self.patch_norm!r} is not true or false")
        object.__setattr__(self, "stages", tuple(self.stages))
        if all(set(stage.letters) == {GSA} for stage in self.stages):
            object.__setattr__(self, "window_fit", "clamp")
        if len(self.stages) == 1:
            object.__setattr__(self, "downsample", CONV)

    def grids(self, input_size: Grid) -> tuple[Grid, ...]:
        """The token grid (H, W) of each stage.

        Raises:
            ValueError: an input too small for the network.
        """
        grids = grids_of(input_size, self.patch_size, self.downsample, len(self.stages))
        for index, grid in enumerate(grids):
            if min(grid) < 1:
                raise ValueError(
                    f"input {input_size[0]}x{input_size[1]} leaves no token in stage {index}"
                )
        return grids

    def class_tokens(self, index: int) -> int:
        """Tokens of a stage besides those of its grid: 1 in the last stage under `cls`."""
        return int(self.pool == CLS and index == len(self.stages) - 1)

    def __str__(self) -> str:
        """The network in words, stages divided by bars."""
        words = [f"p{self.patch_size}"]
        words += [self.downsample] * (self.downsample != CONV) + [self.pool] * (self.pool != GAP)
        return " ".join(words) + " | " + " | ".join(str(stage) for stage in self.stages)


def check_mixer(mixer: str) -> None:
    """Raises ValueError where a pattern is empty or holds a letter that is none of `MIXERS`."""
    if not mixer or set(mixer) - set(MIXERS):
        raise ValueError(f"mixer {mixer!r} is not a pattern of the letters {', '.join(MIXERS)}")


def expand(mixer: str, depth: int) -> str:
    """The letter of each of `depth` blocks: the pattern repeated, its tail cut."""
    return (mixer * depth)[:depth]


def shortest_pattern(letters: str) -> str:
    """The shortest pattern that `expand` turns into these letters."""
    return next(
        letters[:n]
        for n in range(1, len(letters) + 1)
        if expand(letters[:n], len(letters)) == letters
    )


def normal_pe(pe: str) -> str:
    """A sum of PE kinds, sorted; raises ValueError for another word or one given twice."""
    parts = sorted(pe.split("+"))
    if parts == ["none"]:
        return pe
    if set(parts) - set(PE_KINDS) or len(set(parts)) < len(parts):
        raise ValueError(
            f"pe {pe!r} is not none, or a sum of different kinds of {', '.join(PE_KINDS)}"
        )
    return "+".join(parts)


def normal_peg_blocks(peg_blocks: int, pe: str, depth: int) -> int:
    """The blocks that a PEG really follows; 1, the default, in a stage without PEGs."""
    return min(peg_blocks, depth) if "cpe" in pe.split("+") else 1


def grids_of(input_size: Grid, patch_size: int, downsample: str, stages: int) -> tuple[Grid, ...]:
    """The token grid (H, W) of each stage, 0 where none is left.

    Convolutions drop the patches that do not fit; patch merging pads an odd grid, as timm does.
    """
    grids = [(input_size[0] // patch_size, input_size[1] // patch_size)]
    odd = int(downsample == MERGE)
    for _ in range(stages - 1):
        grids.append(((grids[-1][0] + odd) // 2, (grids[-1][1] + odd) // 2))
    return tuple(grids)


def fit_window(window: int, grid: Grid, window_fit: str) -> Grid:
    """The window (height, width) that is really used on a grid."""
    return (window, window) if window_fit == "pad" else (min(window, grid[0]), min(window, grid[1]))


def shift_of(window: Grid, grid: Grid) -> Grid:
    """How far `S` shifts windows: half of them, and not along an axis that one window covers."""
    return (window[0] // 2 * (window[0] < grid[0]), window[1] // 2 * (window[1] < grid[1]))


def padded(grid: Grid, window: Grid) -> Grid:
    """The grid after zero-padding to whole windows."""
    return (-(-grid[0] // window[0]) * window[0], -(-grid[1] // window[1]) * window[1])


def why_unbuildable(arch: ArchConfig, input_size: Grid) -> str | None:
    """What hinders the network at an input size, naming the field; None where nothing does."""
    try:
        grids = arch.grids(input_size)
    except ValueError as error:
        return f"patch_size: {error}"
    for index, (stage, grid) in enumerate(zip(arch.stages, grids, strict=True)):
        if max(stage.sr_ratio, default=0) > min(grid):
            over = f"{max(stage.sr_ratio)} is over the {grid[0]}x{grid[1]} grid of the stage"
            return f"stages.{index}.sr_ratio: {over}"
    return None


def block_key(stage: StageConfig, block: int, grid: Grid, window_fit: str) -> tuple[Any, ...]:
    """What one block really is on a grid.

    (letter, window height or ratio, window width, hidden width, then of each field with `used` its
    value where the block uses it).

    Windows are fitted to the grid; S without a shift is L, and a window that is the grid makes L
    the same as G with ratio 1, with which it shares every weight in this backbone.
    """
    letter, hidden = stage.letters[block], stage.hidden_dim(block)
    more = tuple(
        getattr(stage, item.name) if item.metadata["used"](stage, block) else None
        for item in fields(stage)
        if item.metadata["used"]
    )
    if not stage.window_size[block]:
        return (letter, stage.sr_ratio[block], 0, hidden, *more)
    window = fit_window(stage.window_size[block], grid, window_fit)
    if window == grid and letter in (LSA, SHIFTED):
        return (GSA, 1, 0, hidden, *more)
    if letter == SHIFTED and not any(shift_of(window, grid)):
        letter = LSA
    return (letter, *window, hidden, *more)


def whole_key(stage: StageConfig) -> tuple[Any, ...]:
    """What one stage is besides its blocks: the fields that none of their keys holds."""
    return tuple(
        getattr(stage, item.name)
        for item in fields(stage)
        if item.metadata["owner"] == "stage" and not item.metadata["used"]
        if item.name not in ("depth", "mixer")
    )


def stage_key(stage: StageConfig, grid: Grid, window_fit: str) -> tuple[Any, ...]:
    """What one stage really is on a grid."""
    blocks = (block_key(stage, block, grid, window_fit) for block in range(stage.depth))
    return (*whole_key(stage), tuple(blocks))


def same(one: Any, name: str, value: Any) -> bool:
    """Whether a stage or a network stays what it is with another value of a field."""
    if getattr(one, name) == value:
        return True
    try:
        return bool(replace(one, **{name: value}) == one)
    except ValueError:  # of a value that contradicts the others
        return False


def key(arch: ArchConfig, input_size: Grid) -> str:
    """A text that architectures share exactly where they are one network at this input size.

    It serves the cache of scores and the count of a space's members; YAML and extraction keep the
    declared form.
    """
    pairs = zip(arch.stages, arch.grids(input_size), strict=True)
    stages = tuple(stage_key(stage, grid, arch.window_fit) for stage, grid in pairs)
    rest = tuple(
        getattr(arch, item.name)
        for item in fields(arch)
        if item.name not in ("stages", "window_fit")
    )
    return repr((rest, stages))


def _whole(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r} is not a whole number of at least {least}")


def _per_block(name: str, values: Any, active: Sequence[bool]) -> tuple[Any, ...]:
    values = tuple(values) if isinstance(values, Sequence) else (values,) * len(active)
    if len(values) < len(active):
        raise ValueError(f"{name} has {len(values)} values for {len(active)} blocks")
    if any(on and not value for value, on in zip(values, active, strict=False)):
        raise ValueError(f"{name} is missing in a block that uses it")
    return tuple(value if on else 0 for value, on in zip(values, active, strict=False))


def _few(values: tuple[int | float, ...]) -> str:
    used = [f"{value:g}" for value in values if value]
    return used[0] if len(set(used)) == 1 else ",".join(used)


def _check_word(one: StageConfig | ArchConfig, item: Field[Any]) -> None:
    value, legal = getattr(one, item.name), item.metadata.get("words")
    if legal and value not in legal:
        raise ValueError(f"{item.name} {value!r} is not one of {', '.join(legal)}")


def _words_of(stage: StageConfig) -> list[str]:
    """The words of a stage that are not the default."""
    several = [item for item in fields(stage) if item.metadata["words"]]
    return [
        getattr(stage, item.name) for item in several if getattr(stage, item.name) != item.default
    ]
