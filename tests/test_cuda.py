"""The same methods on a GPU: what they cost and what they learn agrees with the CPU. Skipped without a GPU."""

import pytest
import torch

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.simulation.rounds import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
COUNTED = ("bytes_up", "bytes_down", "training_flops", "client_flops", "client_kept", "client_state_bytes")


def on(device: str, **settings) -> dict:
    return run(make_config("smoke", torch_device=device, samples=400, **settings))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_costs_and_learns_what_it_does_on_the_cpu(method):
    """A GPU sums in another order, so pretrained weights differ in last bits, and a mask may in a few weights."""
    gpu, cpu = on("cuda", method=method), on("cpu", method=method)
    assert gpu["config"]["torch_device"] == "cuda" and gpu["config"] | {"torch_device": "cpu"} == cpu["config"]
    for ours, theirs in zip(gpu["rounds"], cpu["rounds"], strict=True):
        assert {key: ours[key] for key in COUNTED} == pytest.approx({key: theirs[key] for key in COUNTED}, rel=0.05)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=0.05)


def test_resnet18_of_colour_images_trains_on_a_gpu(tmp_path):
    record = on("cuda", model="resnet18", width=8, density=0.05, augment="crop_flip_cutout", engine="auto")
    assert record["complete"] and record["rounds"][-1]["trained_on"] == ["dense"]


def test_a_run_goes_on_where_it_stopped(tmp_path):
    def stop(entry, state):
        if entry["round"] == 0:
            raise KeyboardInterrupt

    config = make_config("smoke", torch_device="cuda", samples=400)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, on_round=stop)
    assert len(run(config, tmp_path)["rounds"]) == config.rounds


def test_clients_in_two_processes_share_the_gpu():
    alone, shared = on("cuda"), on("cuda", workers=2)
    assert shared["final"]["bytes_up"] == alone["final"]["bytes_up"]
    assert shared["final"]["test_loss"] == pytest.approx(alone["final"]["test_loss"], rel=0.05)
