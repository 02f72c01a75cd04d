"""torchvision opens beside any torch, also one without CUDA."""

import importlib
import subprocess
import sys

import torch

from fedtiny_lite.data.vision import torchvision


def test_datasets_and_transforms_work():
    v2 = importlib.import_module("torchvision.transforms.v2")
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    assert torch.equal(v2.functional.horizontal_flip(image), image.flip(-1))
    assert torchvision.datasets.CIFAR10.filename == "cifar-10-python.tar.gz"


def test_both_operators_are_declared():
    assert hasattr(torch.ops.torchvision, "nms")
    assert hasattr(torch.ops.torchvision, "qnms")


def test_opens_first_thing_and_after_torchvision_in_a_fresh_process():
    code = "import fedtiny_lite.data.vision as v, torchvision; assert v.torchvision is torchvision; print('open')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "open", done.stderr
