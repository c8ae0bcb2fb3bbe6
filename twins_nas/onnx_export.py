"""A network as an ONNX file, and the proof that the file computes what torch computes.

The only file that imports onnx, onnxscript and onnxruntime; none of them, nor torch, before they
are used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twins_nas.arch import Grid
from twins_nas.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT, OUTPUT = "image", "logits"
OPSET = 20
OPSETS = range(18, 24)
TOLERANCE = 1e-4
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
ALL = 1 << 62
LARGEST = 2**31 - 2**24
"""Bytes of weights in one file: a protobuf ends at 2 GiB."""


@dataclass(frozen=True)
class Graph:
    """What is in an ONNX file: its opset, bytes, and how many nodes of each kind."""

    opset: int
    bytes: int
    ops: dict[str, int]

    @property
    def nodes(self) -> int:
        """All nodes."""
        return sum(self.ops.values())


@dataclass(frozen=True)
class Check:
    """The largest |difference| of onnxruntime's and torch's logits at each batch.

    `scale` is the largest |logit| of torch; `runtimes` says whose versions were compared.
    """

    differences: dict[int, float]
    scale: float
    runtimes: str

    @property
    def worst(self) -> float:
        """The largest difference of all; infinite where an output is not a number."""
        return max(self.differences.values())


def need_onnx() -> None:
    """Raises UserError where the libraries are not installed; imports none of them."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}, not installed here:"
            " run pip install 'twins_nas[onnx]'."
        )


def to_onnx(
    model: nn.Module, in_chans: int, size: Grid, metadata: Mapping[str, str], opset: int = OPSET
) -> bytes:
    """The checked bytes of an ONNX file, images [B, in_chans, *size] to logits with a free B.

    All that does not depend on the image is folded. The model must be in evaluation mode.

    Raises:
        UserError: onnx is not installed, the exporter cannot do it, or the file would be too large.
    """
    need_onnx()
    assert not model.training
    import onnx
    import torch
    from onnxscript import optimizer

    image = torch.zeros(2, in_chans, *size)  # with one image, torch takes the batch for a constant
    with torch.no_grad():
        model(image)  # fills the caches of index tensors, which an export must find as they are
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
            assert program is not None
            optimizer.optimize(program.model, input_size_limit=ALL, output_size_limit=ALL)
            tensors = [value.const_value for value in program.model.graph.initializers.values()]
            whole = sum(tensor.nbytes for tensor in tensors if tensor is not None)
            if whole > LARGEST:
                raise UserError(
                    f"The weights and biases take {whole / 1e9:.1f} GB at {size[0]}x{size[1]}, and"
                    " an ONNX file ends at 2 GB: give a smaller --input-size or network."
                )
            proto = program.model_proto
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"torch cannot export this network to ONNX ({reason}).") from error
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise UserError(
            "torch took the number of images for a constant; please report this network."
        )
    _tidy(proto)
    for name, value in metadata.items():
        proto.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


def _tidy(proto: Any) -> None:
    """Drops what the exporter notes of our source code: stack traces with paths of this machine."""
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for part in (*proto.graph.value_info, *proto.graph.initializer):
        del part.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    proto.ClearField("doc_string")
    proto.graph.ClearField("doc_string")
    proto.graph.name = "twins_nas"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own reports off the console: what fails is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def session(data: bytes, threads: int = 0) -> Any:
    """A CPU session of onnxruntime; with as many threads as it likes by default."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def compare(
    model: nn.Module, data: bytes, in_chans: int, size: Grid, batches: Sequence[int], seed: int = 0
) -> Check:
    """Compares onnxruntime with torch, on normal noise.

    Raises:
        UserError: torch's own outputs are not finite.
    """
    import onnxruntime
    import torch

    generator = torch.Generator().manual_seed(seed)
    runtime = session(data, torch.get_num_threads())
    differences, scale = {}, 0.0
    for batch in batches:
        image = torch.randn(batch, in_chans, *size, generator=generator)
        with torch.no_grad():
            ours = model(image)
        if not ours.isfinite().all():
            raise UserError("The network's outputs are not finite numbers: see its weights.")
        theirs = torch.from_numpy(runtime.run([OUTPUT], {INPUT: image.numpy()})[0])
        differences[batch] = _distance(ours, theirs)
        scale = max(scale, float(ours.abs().max()))
    runtimes = f"onnxruntime {onnxruntime.__version__} against torch {torch.__version__}"
    return Check(differences, scale, runtimes)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    distance = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("nan")
    return distance if distance == distance else float("inf")


def describe(data: bytes) -> Graph:
    """What is in the file."""
    import onnx

    proto = onnx.load_from_string(data)
    ops = Counter(node.op_type for node in proto.graph.node)
    opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    return Graph(opset, len(data), dict(ops.most_common()))


def metadata_of(data: bytes) -> dict[str, str]:
    """The notes in the file: the architecture, its cost, where its weights are from."""
    import onnx

    return {item.key: item.value for item in onnx.load_from_string(data).metadata_props}
