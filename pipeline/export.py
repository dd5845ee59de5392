"""Export: weights become one static ONNX graph from camera frame to label map, proven equal to torch on the way.

Torch, ONNX and OpenCV are imported when a network is exported: recipes are read where none of them is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgesmith import models
from edgesmith.deploy.fields import MAX_SIDE
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.deploy.meta import VOID, Meta, Parity
from edgesmith.models.model import Model, read_model
from edgesmith.pipeline.artifacts import OnnxModel, Slot, Weights, tool_versions
from edgesmith.pipeline.data.dataset import MIN_SIDE
from edgesmith.pipeline.data.spec import Data, open_split, splits, splits_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor, nn

    from .graphs.graph import Assembled, Float

    Frame = NDArray[np.uint8]

PARITY = 1e-4
"""Largest difference between the graph's logits and torch's, as part of the largest logit."""
GOLDEN_FRAMES = 3


@dataclass(frozen=True)
class Export:
    """Weights -> OnnxModel: one static graph from camera frame (H, W, 3) uint8 to label map (H, W) uint8.

    Raises ValueError for impossible sizes, and RuntimeError when the graph does not give what torch gives.
    """

    frame_hw: tuple[int, int]
    """Frame size that the graph takes and returns, in pixels, height x width."""
    input_hw: tuple[int, int] | None = None
    """Size at which the network runs; the graph resizes between the two. Default: frame_hw."""
    colour_order: Literal["bgr", "rgb"] = "bgr"
    """Order of the frame's channels. Cameras read through OpenCV give bgr."""
    golden: Data | None = field(default=None, metadata={"identity": False})
    """Whose val split gives the golden frames, by which a device checks its engine. Default: the recipe's
    dataset; street where the stage runs alone."""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        sizes = {"frame_hw": self.frame_hw} | ({} if self.input_hw is None else {"input_hw": self.input_hw})
        problems = [
            f"{name}: needs height and width of {MIN_SIDE} to {MAX_SIDE} pixels"
            for name, hw in sizes.items()
            if len(hw) != 2 or not all(type(v) is int and MIN_SIDE <= v <= MAX_SIDE for v in hw)
        ]
        if self.colour_order not in ("bgr", "rgb"):
            problems.append("colour_order: needs bgr or rgb")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def network_hw(self) -> tuple[int, int]:
        return self.frame_hw if self.input_hw is None else self.input_hw

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and weights: the split that gives the golden frames."""
        data = self.golden or Data()
        return {"golden": splits_digest(data, (_golden_split(data),))}

    def __call__(self, weights: Weights, slot: Slot) -> OnnxModel:
        from .graphs import graph

        model = read_model(weights.path)
        module = models.load(weights.path)
        slot.log("export", frame_hw=self.frame_hw, input_hw=self.network_hw, colour_order=self.colour_order)
        network = network_graph(module, self.network_hw)
        low_hw = graph.low_hw(network)
        align_corners = bool(module.enlarge_align_corners)
        assembled = graph.assemble(
            network,
            frame_hw=self.frame_hw,
            colour_order=self.colour_order,
            mean=model.mean,
            std=model.std,
            enlargement=enlargement(low_hw, self.network_hw, self.frame_hw, align_corners),
        )
        assembled = replace(assembled, model=graph.cleaned(assembled.model))
        graph.check(assembled.model)
        golden = _golden_frames(self.golden or Data(), self.frame_hw)
        check = _Check(self, model, module, assembled)
        masks = [check(name, frame) for name, frame in golden]
        for name, frame in _hard_frames(self.frame_hw):
            check(name, frame)
        slot.log("parity", **asdict(check.parity))
        with slot.writing(OnnxModel, parents=[weights]) as folder:
            write_bytes(folder / "model.onnx", assembled.model.SerializeToString(deterministic=True))
            write_json(folder / "meta.json", self._meta(model, check.parity).to_json())
            write_json(folder / "provenance.json", self._provenance(model, weights, [name for name, _ in golden]))
            for i, ((_, frame), mask) in enumerate(zip(golden, masks, strict=True)):
                _write_png(folder / f"golden/{i:03d}.png", frame[..., ::-1])  # OpenCV writes BGR
                _write_png(folder / f"golden/{i:03d}.mask.png", mask)
        return OnnxModel(slot.out)

    def _meta(self, model: Model, parity: Parity) -> Meta:
        from .graphs.graph import OPSET

        return Meta(
            frame_hw=self.frame_hw,
            input_hw=self.network_hw,
            layout="HWC",
            colour_order=self.colour_order,
            mean=model.mean,
            std=model.std,
            classes=model.classes,
            palette=model.palette,
            ignore_index=VOID,
            precision="fp32",
            plugins=(),
            opset=OPSET,
            parity=parity,
        )

    def _provenance(self, model: Model, weights: Weights, golden: list[str]) -> dict[str, Any]:
        # Names and digests only: a path would tell the device about the machine that exported, and change the digest.
        return {
            "weights": weights.digest,
            "arch": {**model.arch.to_json(), "digest": model.arch.digest},
            "tools": tool_versions(),
            "golden": {"dataset": Path((self.golden or Data()).dataset).name, "frames": golden},
        }


def network_graph(module: nn.Module, input_hw: tuple[int, int]) -> ModelProto:
    """The network alone, normalised RGB (1, 3, h, w) -> logits before the last enlargement, simplified."""
    from torch import nn

    class LowLogits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module.low_logits(x)  # type: ignore[operator,no-any-return]

    return module_graph(LowLogits(), ((3, *input_hw),))


def module_graph(module: nn.Module, inputs: Sequence[tuple[int, int, int]]) -> ModelProto:
    """The simplified graph of a module in evaluation mode that takes one map (C, H, W) for each of `inputs`, at batch 1.

    Everything that is exported goes through here: a network, and each of its pieces that a latency table times.
    """
    import onnxsim
    import torch

    from .graphs.graph import OPSET

    examples = tuple(torch.zeros(1, *shape) for shape in inputs)
    with _quiet():
        program = torch.onnx.export(module.eval(), examples, dynamo=True, opset_version=OPSET, verbose=False)
    if program is None:
        raise RuntimeError("torch's exporter returned no graph")
    simplified, proven = onnxsim.simplify(program.model_proto)
    if not proven:
        raise RuntimeError("onnxsim's simplified graph does not compute what the exported one does")
    return simplified  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says about itself: packages that it could use, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def enlargement(
    low_hw: tuple[int, int], input_hw: tuple[int, int], frame_hw: tuple[int, int], align_corners: bool
) -> tuple[Float, Float]:
    """The matrices that lead from the network's own logits to logits at frame size, (H, h) and (W, w).

    Where network and frame differ there are two enlargements, one after the other; being linear they multiply to one.
    """
    import numpy as np

    from .graphs.graph import bilinear

    found = []
    for low, middle, high in zip(low_hw, input_hw, frame_hw, strict=True):
        whole = bilinear(low, middle, align_corners)
        if middle != high:
            whole = (bilinear(middle, high, False).astype(np.float64) @ whole).astype(np.float32)
        found.append(whole)
    return found[0], found[1]


@dataclass
class _Check:
    """Holds the graph against torch, frame by frame, by the rule for parity below. Called with a frame, gives torch's labels.

    Where the frame is resized for the network, torch is given the graph's own resized frame, and the resize is held
    against torch's by itself: both compute coordinates in fp32, each in its own way, and on noise that alone moves logits by
    more than all the rest together.

    Raises RuntimeError when logits differ by more than PARITY of the largest one, when labels differ where the difference
    of the logits does not explain it, or when the resized frame differs by more than fp32 explains (`resize_bound`).
    """

    export: Export
    model: Model
    module: nn.Module
    graph: Assembled
    parity: Parity = field(default=Parity(0.0, 0.0, 0.0, 1.0), init=False)
    """The worst over all frames so far; label_agreement is the lowest."""

    def __post_init__(self) -> None:
        import onnxruntime

        from .graphs.graph import with_outputs

        def session(proto: ModelProto) -> Any:
            # Not open_session: sums in other threads come out otherwise in their last digits, and parity goes into meta.json.
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

        self._inner = [*self.graph.enlarged, *([self.graph.resized] if self.graph.resized else [])]
        self._final = session(self.graph.model)
        self._probe = session(with_outputs(self.graph.model, self._inner))

    def __call__(self, name: str, frame: Frame) -> Frame:
        """`frame` is RGB; `name` is for the message of an error."""
        import numpy as np
        import torch

        from edgesmith.pipeline.reference import labels_by_torch, network_logits, resized

        given = np.ascontiguousarray(self._ordered(frame, axis=2))
        inner = dict(zip(self._inner, self._probe.run(self._inner, {"frame": given}), strict=True))
        x = torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32))
        if self.graph.resized:
            x = resized(x, self.export.network_hw)
            by_graph = torch.from_numpy(np.ascontiguousarray(self._ordered(inner[self.graph.resized], axis=1)))
            if (off := float((x - by_graph).abs().max())) > resize_bound(self.export.frame_hw):
                raise RuntimeError(
                    f"frame {name}: the graph's resized frame is {off:.3g} grey levels off torch's; a fault of the export"
                )
            x = by_graph
        expected = network_logits(self.module, x, self.model.mean, self.model.std, self.export.frame_hw)
        expected = expected[0].permute(1, 2, 0)  # (H, W, classes)
        logits = torch.from_numpy(np.concatenate([inner[n] for n in self.graph.enlarged])[: frame.shape[0]])
        self._compare(name, expected, logits, torch.from_numpy(self._final.run(["labels"], {"frame": given})[0]))
        if self.graph.resized:  # from here on torch alone, its resize included
            return labels_by_torch(self.module, frame, self.model.mean, self.model.std, self.export.network_hw)
        return np.asarray(expected.argmax(-1).to(torch.uint8).numpy())

    def _ordered(self, planes: NDArray[Any], axis: int) -> NDArray[Any]:
        """RGB to the frame's colour order, or back."""
        import numpy as np

        return np.flip(planes, axis) if self.export.colour_order == "bgr" else planes

    def _compare(self, name: str, expected: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Logits (H, W, classes) of torch and of the graph, and the graph's labels (H, W)."""
        largest, difference = float(expected.abs().max()), float((expected - logits).abs().max())
        if not (math.isfinite(largest) and math.isfinite(difference)):
            raise RuntimeError(f"frame {name}: logits are not finite; train again from a checkpoint with finite weights")
        if difference > PARITY * largest:
            raise RuntimeError(
                f"frame {name}: logits of the exported graph differ from torch's by {difference:.3g}, more than {PARITY:g} "
                f"of the largest ({largest:.3g}); this is a fault of the export, not of the weights"
            )
        equal = labels == expected.argmax(-1)
        best = expected.topk(min(2, expected.shape[-1]), -1).values  # (H, W, 1 or 2)
        if bool((~equal & (best[..., 0] - best[..., -1] > 2 * difference)).any()):
            raise RuntimeError(f"frame {name}: labels of the exported graph differ from torch's where the logits do not")
        self._note(difference, largest, float(equal.float().mean()))

    def _note(self, difference: float, largest: float, agreement: float) -> None:
        difference = max(difference, self.parity.max_abs_diff)
        largest = max(largest, self.parity.max_abs_logit)
        relative = difference / largest if largest > 0 else 0.0
        self.parity = Parity(difference, largest, relative, min(agreement, self.parity.label_agreement))


def resize_bound(frame_hw: tuple[int, int]) -> float:
    """How far two right bilinear resizes of a frame may lie apart, in grey levels, because both compute in fp32.

    A coordinate (i + 0.5) * scale - 0.5 takes three rounded operations, each off by at most half an epsilon of the side; there
    are two resizes, and from one pixel to the next a frame changes by at most 255. What the interpolation itself rounds is
    a hundred times less. 0.08 at 360 x 480, 0.55 at 2160 x 3840; a wrong coordinate mode is off by tens.
    """
    epsilon = 2.0**-23
    return 2 * 3 * epsilon / 2 * 255 * sum(frame_hw)


def _golden_split(data: Data) -> str:
    known = splits(data)
    return "val" if "val" in known else known[-1]


def _golden_frames(data: Data, frame_hw: tuple[int, int]) -> list[tuple[str, Frame]]:
    """Names and RGB frames, spread over the val split (over the last split where none is called val), at frame size."""
    import cv2
    import numpy as np

    if data.dataset == "street":
        data = replace(data, frame_hw=frame_hw)  # drawn at frame size, not drawn and resized
    split = open_split(data, _golden_split(data))
    found = []
    for index in sorted({round(i * (len(split) - 1) / (GOLDEN_FRAMES - 1)) for i in range(GOLDEN_FRAMES)}):
        sample = split[index]
        frame = np.asarray(sample.frame, np.uint8)
        if frame.shape[:2] != frame_hw:
            smaller = frame_hw[0] < frame.shape[0]
            flag = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            frame = np.asarray(cv2.resize(frame, frame_hw[::-1], interpolation=flag), np.uint8)
        found.append((sample.name, frame))
    return found


def _hard_frames(frame_hw: tuple[int, int]) -> list[tuple[str, Frame]]:
    """Frames on which a wrong border, colour order or resize shows: noise, and ramps with hard edges, one a channel."""
    import numpy as np

    h, w = frame_hw
    noise = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    y, x = np.mgrid[0:h, 0:w]
    ramps = np.stack([y * 255 // max(1, h - 1), x * 255 // max(1, w - 1), 255 * ((y // 16 + x // 16) % 2)], -1)
    return [("noise", noise), ("ramps", ramps.astype(np.uint8))]


def _write_png(path: Path, image: Frame) -> None:
    import cv2
    import numpy as np

    written, data = cv2.imencode(".png", np.ascontiguousarray(image))
    if not written:
        raise RuntimeError(f"OpenCV could not encode {path.name}")
    write_bytes(path, data.tobytes())
