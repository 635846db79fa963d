"""Graphs that other programs run, made of PyTorch models: ONNX and torch.export's own."""

import io
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bit_pytorch.devices import FirstDevice
from bit_pytorch.inference import build_once
from bit_pytorch.losses import constants, scale
from bit_pytorch.model import Model
from common.runs.export import Export
from common.system.errors import UserError


class Exported(nn.Module):
    """Images to logits [B, K]: uint8 [B, H, W, 3] with `preprocess`, else scaled ones [B, 3, H, W]."""

    def __init__(self, model: Model, preprocess: bool):
        super().__init__()
        self.model, self.preprocess = model, preprocess
        constants(model.preprocessing, model.dtype, model.device)  # which must not be made while a graph is

    def forward(self, images: Tensor) -> Tensor:
        return self.model(scale(images, self.model) if self.preprocess else images)


def write_torch_export(job: Export, program: ExportedProgram, _: Exported) -> None:
    """A .pt2, which `torch.export.load` reads, with the facts in its `card.json`."""
    file, facts = io.BytesIO(), {"card.json": job.metadata()["card"]}
    torch.export.save(program, file, extra_files=facts)

    def verify(path: Path) -> None:
        with open(path, "rb") as written:
            found = torch.export.load(written).module()
        job.check(lambda images: found(torch.from_numpy(images)).numpy(force=True))

    job.write_file(file.getvalue(), verify)


def write_onnx(job: Export, program: ExportedProgram, module: Exported) -> None:
    """An .onnx with the input `images`, the output `logits` and the facts as `metadata_props`.

    Raises UserError where ONNX's packages are missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  which PyTorch's exporter is written in
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed and --to onnx needs it; `pip install '.[export]'`.") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = {"input_names": ["images"], "output_names": ["logits"]}
    graph = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    graph.model.metadata_props.update(job.metadata())

    def verify(path: Path) -> None:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        job.check(lambda images: session.run(["logits"], {"images": images})[0])

    job.write_file(graph.model_proto.SerializeToString(), verify)


WRITERS = {"onnx": write_onnx, "torch_export": write_torch_export}


@torch.no_grad()
def export_main(job: Export) -> None:
    """Write the graph of `job`, verified against the logits of the model that it was made of."""
    with FirstDevice() as devices:
        devices.device = torch.device("cpu")  # where every program runs a graph
        module = Exported(build_once(job, devices), job.config.preprocess).eval()
        job.expect(lambda images: module(torch.from_numpy(images)).numpy(), channels_first=True)
        images = torch.from_numpy(job.images(2))
        program = torch.export.export(module, (images,), dynamic_shapes=({0: Dim("batch")},))
        WRITERS[job.config.to](job, program, module)
