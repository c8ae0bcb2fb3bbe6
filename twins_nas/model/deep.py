"""A supernet whose earlier stages have classifiers too, while it trains.

Shapes: B batch, N tokens, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from twins_nas.arch import ArchConfig
from twins_nas.model.backbone import Backbone
from twins_nas.model.slicing import ElasticLayerNorm, ElasticLinear
from twins_nas.space import SearchSpace


class DeepBackbone(Backbone):
    """Each stage before the last gives logits of its own: LayerNorm, mean over tokens, linear.

    Deep supervision (C.-Y. Lee et al., "Deeply-Supervised Nets", arXiv 1409.5185), here so that
    the earlier stages, which serve all members, leave less of the work to the last: the width of
    that one counted less for the members' losses with it (docs/LOG.md). `extract` leaves these
    classifiers out.
    """

    def __init__(
        self, space: SearchSpace, in_chans: int, num_classes: int, drop_path: float
    ) -> None:
        super().__init__(space, in_chans, num_classes, drop_path)
        dims = [max(stage["embed_dim"][0]) for stage in space.stages[:-1]]
        self.early_norms = nn.ModuleList(ElasticLayerNorm(dim) for dim in dims)
        self.early_heads = nn.ModuleList(ElasticLinear(dim, num_classes) for dim in dims)

    def forward_all(self, x_BCHW: Tensor, arch: ArchConfig | None = None) -> list[Tensor]:
        """See `Backbone.forward_all`; one for each stage."""
        arch = arch or self.arch
        *early, last_BNC = [x_BNC for x_BNC, _ in self._tokens(x_BCHW, arch)]
        parts = zip(early, self.early_norms, self.early_heads, strict=True)
        found = [head(norm(x_BNC, arch.norm_eps).mean(1)) for x_BNC, norm, head in parts]
        return [*found, self._classified(last_BNC, arch)]
