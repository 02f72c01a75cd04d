"""The same methods on a GPU: what they cost and what they learn agrees with the CPU. Skipped without a GPU."""

import pytest
import torch

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model import training
from fedtiny_lite.model.masks import random_mask
from fedtiny_lite.model.networks import build_model, state_of
from fedtiny_lite.simulation.rounds import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
COUNTED = ("bytes_up", "bytes_down", "training_flops", "client_flops", "client_kept", "client_state_bytes")


def on(device: str, **settings) -> dict:
    return run(make_config("smoke", torch_device=device, samples=400, **settings))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_costs_and_learns_what_it_does_on_the_cpu(method):
    """TF32 moves masks. On few images that changes how many clients upload in FL-PQSU, and what PruneFL keeps."""
    gpu, cpu = on("cuda", method=method), on("cpu", method=method)
    near = 0.4 if method in ("fl_pqsu", "prunefl") else 0.05
    assert gpu["config"]["torch_device"] == "cuda" and gpu["config"] | {"torch_device": "cpu"} == cpu["config"]
    for ours, theirs in zip(gpu["rounds"], cpu["rounds"], strict=True):
        assert {key: ours[key] for key in COUNTED} == pytest.approx({key: theirs[key] for key in COUNTED}, rel=near)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=near)


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


def epochs_on_gpu(on_gradient: training.OnGradient | None) -> tuple[float, dict[str, torch.Tensor]]:
    """How far two epochs of eight batches, the last one smaller, moved a masked network; and its state."""
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet18", 16, 10, (3, 32, 32), generator).to("cuda")
    start, named = state_of(model), {"layer4.0.conv1.weight": 500}
    mask = random_mask(dict(model.named_parameters()), named, generator).to("cuda")
    images = torch.randint(256, (500, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (500,), generator=generator)).to("cuda")
    config = make_config("smoke", batch_size=64, lr=0.02)
    schedule, pixels = training.epoch_batches(split, 2, config, generator), training.Normalisation((0.5,), (0.25,))
    training.train(model, split, pixels, mask, config, schedule, generator, on_gradient)
    return apart(state_of(model), start), state_of(model)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


def test_replayed_steps_end_where_a_loop_does(monkeypatch):
    """Of sixteen steps the fourth is recorded; the eighth and the last, smaller batches, are not replayed.

    `on_gradient` asks for a loop. A GPU sums in another order each time: two loops of five steps of a like network
    ended apart by 2.4 % of the way they had moved, and of 79 steps by 32 %.
    """
    recorded, record = [], training.replayed
    monkeypatch.setattr(training, "replayed", lambda *step: recorded.append(step) or record(*step))
    (_, replayed), (moved, looped) = epochs_on_gpu(None), epochs_on_gpu(lambda parameters: None)
    assert int((replayed["layer4.0.conv1.weight"] != 0).sum()) == 500
    assert apart(replayed, looped) < 0.3 * moved and len(recorded) == 1


def test_devices_with_folders_of_their_own_train_on_a_gpu(tmp_path):
    """Samples come from files, and so from the CPU, on the server and on devices alike."""
    flower = pytest.importorskip("tests.test_flower")
    config = flower.tiny(torch_device="cuda")
    flower.hand_over(config, tmp_path)
    _, holdings = flower.read_holdings(tmp_path / "server", "cuda")
    nodes = flower.Nodes({k: {"client": k, "folder": str(tmp_path / f"client{k}")} for k in range(config.clients)})
    record = run(config, place=flower.OnFlower(nodes, config, holdings))
    assert record["complete"] and all(entry["rejected_clients"] == [] for entry in record["rounds"])
