"""The README's picture, from a run's validation: python bench/picture.py [RUN]   (default runs/street)

Three frames, one below the other: frame, truth, what the engine said.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from edgesmith.deploy.files import read_json
from edgesmith.pipeline.data.show import paint

SHOWN = 3
WIDTH = 320


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/street")
    palette = [tuple(c) for c in read_json(run / "onnx" / "meta.json")["palette"]]
    rows = []
    for frame_file in sorted((run / "validation" / "samples").glob("*.frame.jpg"))[:SHOWN]:
        frame = np.asarray(cv2.imread(str(frame_file)), np.uint8)[..., ::-1]
        files = [str(frame_file).replace(".frame.jpg", f".{n}.png") for n in ("label", "prediction")]
        labels = [np.asarray(cv2.imread(f, cv2.IMREAD_GRAYSCALE), np.uint8) for f in files]
        size = (WIDTH, round(frame.shape[0] * WIDTH / frame.shape[1]))
        painted = [cv2.resize(paint(m, palette), size, interpolation=cv2.INTER_NEAREST) for m in labels]
        rows.append(np.hstack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA), *painted]))
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite("docs/street.jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
