"""The backbone of one network with the attributes and methods that users of timm expect of a model.

timm itself is not needed here; `twins_nas.timm_models` tells it of these models.

Shapes: B batch, H W grid, C channels, N tokens (those of the grid, and a class token before them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twins_nas.arch import CLS, GAP, ArchConfig, Grid, why_unbuildable
from twins_nas.errors import UserError
from twins_nas.model.backbone import Backbone, Stage, initialise, on_grid
from twins_nas.model.position import PEG, AbsoluteTable, ClassToken, RelativeBias
from twins_nas.model.slicing import ElasticLinear
from twins_nas.space import SearchSpace

AVG, TOKEN, NONE = "avg", "token", ""
NOT_DECAYED = (AbsoluteTable, ClassToken, PEG, RelativeBias)


class Classifier(ElasticLinear):
    """The last layer, with the names of `nn.Linear` for its channels."""

    @property
    def in_features(self) -> int:
        """Channels that come in."""
        return self.in_dim

    @property
    def out_features(self) -> int:
        """Classes."""
        return self.out_dim


class TimmBackbone(Backbone):
    """One network, with the attributes and methods that users of timm expect of a model.

    `img_size` is what its position tables are made for; `forward` takes other sizes too.

    Raises:
        ValueError: a setting out of its range, or a network that the size is too small for.
    """

    def __init__(
        self,
        arch: ArchConfig,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        size = grid_of(img_size)
        check_buildable(arch, size)
        if in_chans < 1:
            raise ValueError(f"in_chans {in_chans!r} is not a whole number of at least 1")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate {drop_path_rate!r} is not at least 0 and below 1")
        with torch.device(device or torch.get_default_device()):
            super().__init__(SearchSpace.point(arch, size), in_chans, 0, drop_path_rate)
        self.num_features = self.head_hidden_size = arch.stages[-1].embed_dim
        self.num_prefix_tokens = int(arch.pool == CLS)
        self.feature_info = [
            {
                "num_chs": stage.embed_dim,
                "reduction": arch.patch_size << at,
                "module": f"stages.{at}",
            }
            for at, stage in enumerate(arch.stages)
        ]
        self.global_pool = TOKEN if arch.pool == CLS else AVG
        self.head_drop = nn.Dropout(drop_rate)
        self._new_head(num_classes, global_pool)
        _draw(self)
        self.to(dtype=dtype)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The normalised tokens [B, N, C] of the last stage."""
        self._check_images(x_BCHW)
        for tokens_BNC, _ in self._tokens(x_BCHW, self.arch):
            x_BNC = tokens_BNC
        return self._normalised(x_BNC)

    def forward_head(self, x_BNC: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B, classes], or what they are made of, [B, C]; of each token without pooling."""
        x = x_BNC
        if self.global_pool == TOKEN:
            x = x_BNC[:, 0]
        elif self.global_pool == AVG:
            x = x_BNC[:, self.num_prefix_tokens :].mean(1)
        x = self.head_drop(x)
        logits: Tensor = x if pre_logits else self.head(x)
        return logits

    def forward(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> Tensor:
        """Logits; there is one network here, so that `arch` can be no other."""
        assert arch is None or arch == self.arch
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_intermediates(
        self,
        x_BCHW: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps [B, C, H, W] of the stages asked for (see `_taken`), in that order.

        Before them, without `intermediates_only`, what `forward_features` gives. `norm` normalises
        the last stage's map, which alone has a norm; `stop_early` leaves out unused stages.

        Raises:
            ValueError: another format than NCHW, or a stage that is not there.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {str(output_fmt)!r} is not NCHW, the only one there is")
        self._check_images(x_BCHW)
        last, taken = len(self.stages) - 1, _taken(indices, len(self.stages))
        maps: dict[int, Tensor] = {}
        for index, (tokens_BNC, grid) in enumerate(self._tokens(x_BCHW, self.arch)):
            x_BNC = tokens_BNC
            if index == last and (norm or not intermediates_only):
                x_BNC = self._normalised(tokens_BNC)
            if index in taken:
                x_BHWC = on_grid(x_BNC if norm else tokens_BNC, grid)
                maps[index] = x_BHWC.permute(0, 3, 1, 2).contiguous()
            if stop_early and index == max(taken):
                break
        found = [maps[index] for index in taken]
        return found if intermediates_only else (x_BNC, found)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Becomes the network of the stages up to the last one asked for; gives their numbers."""
        taken = _taken(indices, len(self.stages))
        kept = max(taken) + 1
        shorter = kept < len(self.stages)
        if shorter:
            self.stages = self.stages[:kept]
            self.largest = replace(self.arch, stages=self.arch.stages[:kept], pool=GAP)
            self.space = SearchSpace.point(self.largest, self.space.input_size)
            self.num_features = self.head_hidden_size = self.arch.stages[-1].embed_dim
            self.num_prefix_tokens = 0
        if shorter or prune_norm:
            self.norm = nn.Identity()
        if shorter or prune_head:
            self.reset_classifier(0, NONE)
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, none for 0 classes; another pooling where one is given.

        Raises:
            ValueError: a pooling that the network does not have.
        """
        self._new_head(num_classes, global_pool)
        _draw(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the backward pass computes the blocks' activations again, to save memory."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the class token's, the position tables' and the PEGs' parameters."""
        return {
            f"{name}.{own}"
            for name, module in self.named_modules()
            if isinstance(module, NOT_DECAYED)
            for own, _ in module.named_parameters(recurse=False)
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups for learning rates that fall with depth: blocks, or stages if `coarse`.

        What else a stage has goes with its first block, a PEG with the block before it.
        """
        blocks: list[tuple[str, tuple[int, ...] | None]] = [
            (r"^stages\.(\d+)\.(?:blocks|cpe)\.(\d+)", None),
            (r"^stages\.(\d+)", (0,)),
        ]
        if coarse:
            blocks = [(r"^stages\.(\d+)", None)]
        # 99999 is timm's word for: with the group before.
        return {
            "stem": r"^stages\.0\.(?:embed|ape|cls)\.",
            "blocks": [*blocks, (r"^norm", (99999,))],
        }

    def _new_head(self, num_classes: int, global_pool: str | None) -> None:
        pools = (AVG, TOKEN, NONE) if self.num_prefix_tokens else (AVG, NONE)
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in pools:
            legal = ", ".join(map(repr, pools))
            raise ValueError(f"global_pool {pool!r} is not one that this network has: {legal}")
        self.global_pool, self.num_classes = pool, num_classes
        like = next(self.stages.parameters())
        with like.device:
            head = Classifier(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head = head.to(dtype=like.dtype).train(self.training)

    def _normalised(self, x_BNC: Tensor) -> Tensor:
        if isinstance(self.norm, nn.Identity):
            return x_BNC
        out: Tensor = self.norm(x_BNC, self.arch.norm_eps)
        return out

    def _check_images(self, x_BCHW: Tensor) -> None:
        """Refuses images that are too small; what is compiled or exported has its sizes checked."""
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        if not torch.compiler.is_compiling() and size != self.space.input_size:
            check_buildable(self.arch, size)


def check_buildable(arch: ArchConfig, size: Grid) -> None:
    """Raises UserError, with the field that is in the way, where images are too small."""
    if reason := why_unbuildable(arch, size):
        raise UserError(f"The network {arch} cannot take {size[0]}x{size[1]} pixels: {reason}.")


def _draw(module: nn.Module) -> None:
    """Initial weights by torch's own generator, which timm's users seed; none on `meta`."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        with torch.device("cpu"):
            initialise(module, int(torch.randint(1 << 62, ())))


def grid_of(img_size: int | Sequence[int]) -> Grid:
    """The height and the width of a size that may be one number."""
    sides = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"img_size {img_size!r} is neither a side in pixels nor a height and a width."
        )
    return (sides[0], sides[1])


def _taken(indices: int | Sequence[int] | None, stages: int) -> list[int]:
    """Numbers of stages from 0: all, the last `indices`, or those listed (negative: from the end).

    Raises:
        ValueError: a stage that is not there.
    """
    last = stages if indices is None else indices
    asked = last if isinstance(last, Sequence) else range(-last, 0)
    if not asked or not all(-stages <= index < stages for index in asked):
        raise UserError(f"The stages {indices!r} were asked for; there are {stages}, from 0 on.")
    return [index % stages for index in asked]
