"""Write a PyTorch network as one ONNX file that takes uint8 frames."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from model.bundle import INPUT_NAME, OUTPUT_NAME
from model.spec import BundleSpec, Preprocessing
from training.export.bundle_assembly import ExportError

OPSET = 18
"""The exporter's default; a conversion to 17 would only add steps that can fail."""

WeightStorage = Literal["fp16", "fp32"]

_LARGEST_HALF = float(np.finfo(np.float16).max)


class FrameNetwork(nn.Module):
    """A network with its normalisation: uint8 RGB clips `[N, T, H, W, 3]` to float32 embeddings `[N, D]`.

    Frames are divided by 255 and normalised with `mean` and `std`, as in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Return embeddings `[N, D]`, not of unit length."""
        frames = clips.permute(0, 1, 4, 2, 3).float() / 255
        embeddings: Tensor = self.network((frames - self.mean) / self.std)
        return embeddings


def write_onnx(network: FrameNetwork, spec: BundleSpec, path: Path, *, weights: WeightStorage) -> None:
    """Write a network as ONNX, in evaluation mode and on the CPU, with a dynamic number of clips.

    Args:
        network: to write
        spec: gives the shape of a clip
        path: of the file
        weights: `fp16` stores matrices and kernels in half precision and casts them to fp32 inside the graph, so the
            file has half the size and computes in fp32. Vectors (biases, norms) stay fp32: they are small, and the
            values of folded ones may be large.

    Raises:
        ExportError: a weight does not fit into half precision.
    """
    # Two clips: the exporter takes an axis of length 1 for a constant.
    example = torch.zeros((2, *spec.clip_shape), dtype=torch.uint8)
    # Unlike the deprecated TorchScript tracer, torch.export resolves the shape arithmetic of the IBN halves (190 nodes
    # instead of 428 for the recipe not3d) and states the output's width.
    program = torch.onnx.export(
        network.eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=OPSET,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    drop_metadata(model)
    if weights == "fp16":
        _halve_weights(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def drop_metadata(model: onnx.ModelProto) -> None:
    """Remove an exporter's metadata: it contains paths of its machine and would change the embedding space."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""


def _halve_weights(graph: onnx.GraphProto) -> None:
    stored, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2:
            stored.append(tensor)
            continue
        if np.abs(values).max(initial=0) > _LARGEST_HALF:
            raise ExportError(
                f"nothing was written: weight {tensor.name} does not fit into half precision; store the weights as fp32"
            )
        half = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half")
        stored.append(half)
        casts.append(
            helper.make_node("Cast", [half.name], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)
