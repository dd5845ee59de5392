"""The tiny network of tests/deploy, for the stages that build and validate bundles."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("tiny_network", Path(__file__).parents[1] / "deploy" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

tiny, graph, make_model, bundle_folder = _module.tiny, _module.graph, _module.make_model, _module.bundle_folder
