"""`model.json` of a weights folder: all that is known of a network besides its numbers. Read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.models.arch import Arch, Segmentation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Model:
    """A network: its architecture, its classes, and the normalisation that its weights expect."""

    arch: Arch
    classes: tuple[str, ...]
    """Class names in label order."""
    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour a class."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Divided by, after the mean."""
    weights: str
    """The safetensors file in the same folder that `load` takes."""

    @property
    def task(self) -> Segmentation:
        return Segmentation(len(self.classes))


def read_model(folder: Path) -> Model:
    """`model.json` of a weights folder. Raises FileNotFoundError, or ValueError naming the file and the field."""
    path = folder / "model.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a weights folder: it has no model.json")
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("is not an object")
        if missing := {"arch", "classes", "palette", "mean", "std", "weights"} - set(value):
            raise ValueError(f"has no {', '.join(sorted(missing))}")
        classes = tuple(value["classes"])
        palette = tuple((int(r), int(g), int(b)) for r, g, b in value["palette"])
        if not classes or not all(isinstance(c, str) for c in classes) or len(palette) != len(classes):
            raise ValueError("needs as many colours in palette as names in classes, at least one")
        mean, std = (tuple(float(v) for v in value[k]) for k in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise ValueError("mean and std need three numbers each, std above 0")
        if not isinstance(value["weights"], str) or Path(value["weights"]).name != value["weights"]:
            raise ValueError(f"weights: {value['weights']!r} is not a file name in this folder")
        return Model(Arch.from_json(value["arch"]), classes, palette, mean, std, value["weights"])
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: {e}") from None


def model_json(model: Model) -> dict[str, Any]:
    """What `read_model` reads back."""
    return {
        "arch": model.arch.to_json(),
        "classes": list(model.classes),
        "palette": [list(c) for c in model.palette],
        "mean": list(model.mean),
        "std": list(model.std),
        "weights": model.weights,
    }
