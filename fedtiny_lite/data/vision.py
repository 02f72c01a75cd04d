"""The only door to torchvision: `from fedtiny_lite.data.vision import torchvision`.

torchvision's wheel on the package index is linked against CUDA, so that its library `_C` cannot load beside a CPU-only
torch. `import torchvision` then fails, because torchvision attaches shape rules to two operators, `nms` and `qnms`,
that `_C` would have declared. This module declares their schemas first, and the import succeeds. Data sets, transforms
and models work; only the compiled operators stay unavailable.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load_compiled_operators() -> None:
    """Load torchvision's `_C` if this torch can; the operators it declares then exist."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(
            "torchvision is not installed; install it with the pinned versions: "
            "pip install torchvision -c constraints.txt"
        )
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue


def _declare_missing_operators() -> torch.library.Library:
    """Declare what `_C` did not. The declarations live as long as the returned object."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library


_load_compiled_operators()
_DECLARATIONS = _declare_missing_operators()

import torchvision  # noqa: E402

__all__ = ["torchvision"]
