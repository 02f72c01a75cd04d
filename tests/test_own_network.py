"""A network in a file of one's own: it runs under every method, and one that would be counted wrongly is refused."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedtiny_lite.__main__ import main
from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.export.tiny_model import load_tiny
from fedtiny_lite.federated.own_networks import check_network
from fedtiny_lite.federated.task import make_task
from fedtiny_lite.model.architectures import ResNet18
from fedtiny_lite.model.masks import magnitude_mask
from fedtiny_lite.model.networks import build_model, prunable_blocks
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.pruning.progressive import growth_lists
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.widgets.training import train_panel
from tests.helpers import seeded

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
[EXAMPLE] = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "NETWORK" in text]
SMALL = dict(width=2, rounds=2, clients=2, density=0.2)


@pytest.fixture
def network(tmp_path):
    """Writes a network's file, the example of the page if nothing else is given, and returns its name."""

    def write(content: str = EXAMPLE) -> str:
        path = tmp_path / "my_network.py"
        path.write_text(content, encoding="utf-8")
        return f"file:{path}"

    return write


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_it_within_the_budget(method, network):
    record = run(make_config("smoke", method=method, model=network(), **SMALL))
    assert record["complete"] and record["run_id"].startswith(f"{method}-digits-my_network2-")
    if method not in ("fedavg", "lotteryfl", "ssfl", "small_model"):  # dense, or dense for a part of the run
        kept = record["final"]["kept"]
        assert sum(kept[name] for name in record["model"]["prunable"]) <= record["model"]["budget"]


def test_the_command_of_the_page_runs_it(network, tmp_path, monkeypatch, capsys):
    network()
    monkeypatch.chdir(tmp_path)
    [command] = re.findall(r"python -m fedtiny_lite (run .*my_network.*)", PAGE)
    assert main([*command.split(), "rounds=1"]) == 0
    folder = tmp_path / capsys.readouterr().out.splitlines()[-1].removesuffix("record.json")
    assert not (folder / "model.tiny").exists()
    assert main(["export", str(folder)]) == 1
    assert "unless its network is in a file of your own" in capsys.readouterr().err


def test_the_panel_draws_its_accuracy_without_the_mask_that_no_file_keeps(network, tmp_path):
    config = make_config("smoke", model=network(), **SMALL)
    [axes] = train_panel(config, tmp_path, interactive=False).axes
    record = run(config, tmp_path)
    accuracies = [entry["test_accuracy"] for entry in (record["start"], *record["rounds"])]
    assert axes.lines[0].get_ydata().tolist() == accuracies
    *_, picture = train_panel(config, tmp_path, interactive=True).children
    assert picture.value


def test_a_small_model_beside_it_is_kept_as_a_file(network, tmp_path):
    config = make_config("smoke", method="small_model", model=network(), **SMALL)
    run(config, tmp_path)
    assert load_tiny(tmp_path / config.run_id / "model.tiny").model == "small"


def test_worker_processes_build_it_too(network):
    config = make_config("smoke", model=network(), **SMALL)
    one, two = (run(config.changed(workers=workers))["rounds"][-1]["test_loss"] for workers in (1, 2))
    assert one == two


def test_another_content_is_another_run_that_nothing_remembered_enters(network):
    """Of equal initial weights, with another activation: pretraining starts anew."""
    before = make_config("smoke", model=network(), method="magnitude", **SMALL)
    first = run(before)
    after = make_config("smoke", model=network(EXAMPLE.replace("nn.ReLU()", "nn.Tanh()")), method="magnitude", **SMALL)
    assert after.run_id != before.run_id
    assert run(after)["start"]["test_loss"] != first["start"]["test_loss"]
    with pytest.raises(ValueError, match=r"^model = .*the file has changed; name it file:.*my_network\.py to run it"):
        run(before.changed(model=f"{before.model[:-8]}{'0' * 8}"))


def test_its_weights_come_from_the_seed_alone(network):
    one, two = (build_model(network(), 3, 10, (1, 8, 8), seeded(5)).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert (one["0.weight"] != 0).all() and one["0.weight"].abs().max() <= 1 / 3  # fan-in 9


def test_growth_gradients_are_those_of_autograd(network):
    """Of its 1x1 convolutions and its linear layer, beside convolutions in groups."""
    model = build_model(network(), 4, 10, (1, 8, 8), seeded(0))
    names = [name for block in model.blocks for name in block]
    mask = magnitude_mask({name: model.get_parameter(name) for name in names}, dict.fromkeys(names, 5))
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(mask[name])
    images, labels = torch.randn(6, 1, 8, 8, generator=seeded(1)), torch.arange(6)
    lists = growth_lists(model, mask, dict.fromkeys(names, 7), images, labels)
    F.cross_entropy(model.train()(images), labels).backward()
    for name, (index, value) in lists.items():
        gradient = model.get_parameter(name).grad.flatten()
        assert torch.allclose(value, gradient[index], atol=1e-6)
        left_out = gradient.masked_fill(mask[name].flatten(), 0).index_fill(0, index, 0)
        assert left_out.abs().max() <= value.abs().min() + 1e-6


def test_the_sparse_engine_is_left_to_the_networks_of_the_kit(network):
    """A file may give one of them with another stem, which the sparse engine would compute as the usual one."""
    other = "from torch import nn\nfrom fedtiny_lite.model.architectures import ResNet18\n\n\n"
    other += "def NETWORK(width, classes, channels):\n    net = ResNet18(width, classes, channels)\n"
    other += "    net.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)\n    return net\n"
    config = make_config("smoke", model=network(other), method="magnitude", width=2, rounds=1, density=0.05)
    found = [run(config.changed(engine=engine)) for engine in ("auto", "dense")]
    assert [record["rounds"][0]["trained_on"] for record in found] == [["dense"], ["dense"]]
    assert found[0]["rounds"][0]["test_loss"] == found[1]["rounds"][0]["test_loss"]
    with pytest.raises(ValueError, match=r"^engine = 'sparse' cannot train a network of the class ResNet18"):
        run(config.changed(engine="sparse"))


@pytest.mark.parametrize("ending", ["torch.relu_(x)", "torch.relu(x)"])
def test_an_activation_in_place_changes_no_growth_gradient(ending, network):
    """Nothing lies between the convolution and its activation, which overwrites the output that the hook saw."""
    given = EXAMPLE.replace("from torch import nn", "import torch\nfrom torch import nn\n\n\nclass Relu(nn.Module):\n")
    given = given.replace("(nn.Module):\n", f"(nn.Module):\n    def forward(self, x):\n        return {ending}\n", 1)
    given = given.replace("            nn.BatchNorm2d(after),\n            nn.ReLU(),", "            Relu(),")
    model = build_model(network(given), 4, 10, (1, 8, 8), seeded(0))
    names = [name for block in model.blocks for name in block]
    mask = magnitude_mask({name: model.get_parameter(name) for name in names}, dict.fromkeys(names, 5))
    images, labels = torch.randn(6, 1, 8, 8, generator=seeded(1)), torch.arange(6)
    lists = growth_lists(model, mask, dict.fromkeys(names, 7), images, labels)
    F.cross_entropy(model.train()(images), labels).backward()
    for name, (index, value) in lists.items():
        assert torch.allclose(value, model.get_parameter(name).grad.flatten()[index], atol=1e-6)


def test_a_layer_may_have_any_name(network):
    """`running_conv` holds weights, and no running statistics of batch norm."""
    plain = run(make_config("smoke", model=network(NAMED.replace("running_", "first_")), **SMALL))
    named = run(make_config("smoke", model=network(NAMED), **SMALL))
    assert named["final"]["model_density"] == plain["final"]["model_density"]


# --- what is refused --------------------------------------------------------------------------------------

HEAD = "from torch import nn\n\n\n"
NAMED = """\
from torch import nn


class Net(nn.Module):
    blocks = (("conv.weight",), ("linear.weight",))

    def __init__(self, width, classes, in_channels):
        super().__init__()
        self.running_conv, self.norm = nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.linear = nn.Conv2d(4, 8, 3), nn.Linear(8, classes)

    def forward(self, images):
        return self.linear(self.conv(self.norm(self.running_conv(images)).relu()).relu().mean((2, 3)))


NETWORK = Net
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = (", r"my_network\.py, line 1: SyntaxError"),
        ("x = 1", r"^model = .*: the file defines no NETWORK; docs/methods\.md shows one"),
        ("NETWORK = 5", r"my_network\.py: TypeError: 'int' object is not callable"),
        ("def NETWORK(width, classes, channels):\n    return width / 0", r"my_network\.py, line 2: ZeroDivisionError"),
        ("def NETWORK(width):\n    return 1", r"TypeError: NETWORK\(\) takes 1 positional argument but 3 were given"),
        ("def NETWORK(*sizes):\n    return sizes", r"NETWORK gives a tuple; it must give a torch\.nn\.Module"),
        (
            HEAD + "def NETWORK(width, classes, channels):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n",
            r"Sequential cannot be pruned: it has no `blocks`",
        ),
        ("import sys\nsys.exit(3)", r"my_network\.py, line 2: SystemExit: 3"),
        (
            NAMED.replace('"conv.weight",), (', '"conv.weight"), ('),
            r"its `blocks` must be a tuple of blocks, each a tuple of names",
        ),
    ],
)
def test_a_file_that_gives_no_network_is_told_in_one_line(content, said, network, capsys, tmp_path):
    settings = ["--set", f"model={network(content)}", "width=2", "rounds=1"]
    assert main(["run", "--profile", "smoke", "--out", str(tmp_path), *settings]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(said, line.removeprefix("error: ")), line


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^model = 'file:none\.py': there is no file none\.py$"):
        make_config(model="file:none.py")
    with pytest.raises(ValueError, match=r"^model = 'resnet50': choose one of cnn, resnet18, vgg11, or file:PATH$"):
        make_config(model="resnet50")


class Tried(nn.Module):
    """Two convolutions and a linear layer on images of 4 x 4 pixels, with one part exchanged."""

    def __init__(self, blocks=("second.weight", "last.weight"), **parts):
        super().__init__()
        usual = {"first": nn.Conv2d(1, 4, 3, padding=1), "second": nn.Conv2d(4, 4, 3, padding=1)}
        usual |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "last": nn.Linear(4, 3)}
        for name, part in (usual | parts).items():
            self.add_module(name, part)
        self.blocks = (tuple(blocks),)

    def forward(self, images):
        for part in self.children():
            images = part(images)
        return images


def flat_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 3))


def shared() -> nn.Module:
    tried = Tried(pool=nn.Conv2d(4, 4, 3, padding=1))
    tried.pool.weight = tried.second.weight
    return tried


class Reshaped(nn.Module):
    def forward(self, images):
        return images.view(len(images), -1)


class Noise(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, images):
        return images + 0 * self.draw()


class Counting(nn.Module):
    passes = 0

    def forward(self, images):
        self.passes += 1
        return images * self.passes


class Centred(nn.Module):
    def forward(self, images):
        return images - images.mean(0)


class Standardised(nn.Conv2d):
    def forward(self, images):
        return F.conv2d(images, self.weight - self.weight.mean(), self.bias, padding=1)


class Twice(Tried):
    def forward(self, images):
        return super().forward(self.second(self.first(images)).mean(1, keepdim=True))


class Away(Tried):
    def forward(self, images):
        return self.last(self.flat(self.pool(self.first(images))))


class Unused(Tried):
    def forward(self, images):
        self.seen = self.second(self.first(images))
        return self.last(self.first.weight.new_ones(len(images), 4))


class Stem(Tried):
    def forward(self, images):
        with torch.no_grad():
            stem = self.first(images)
        return self.last(self.flat(self.pool(self.second(stem))))


class Auxiliary(Tried):
    def forward(self, images):
        return super().forward(images) if self.training else self.last(self.flat(self.pool(self.first(images))))


class Patches(Tried):
    def forward(self, images):
        patches = images.reshape(-1, 1, 2, 2)
        return super().forward(patches).reshape(len(images), -1, 3).mean(1)


class Flipped(Tried):
    def forward(self, images):
        first = self.first(images)
        both = self.second(first) + F.conv2d(first, self.second.weight.flip(-1), padding=1)
        return self.last(self.flat(self.pool(both)))


class Pair(Tried):
    def forward(self, images):
        return super().forward(images), images


class HeadFirst(Tried):
    def forward(self, images):
        return self.flat(self.last(self.pool(self.second(self.first(images))).flatten(1)))


def conv(**settings) -> nn.Module:
    return nn.Conv2d(4, 4, 3, **{"padding": 1, **settings})


def hooked() -> nn.Module:
    tried = Tried()
    tried.second.register_forward_hook(lambda module, inputs, output: 2 * output)
    return tried


def with_buffer() -> nn.Module:
    tried = Tried()
    tried.second.register_buffer("scale", torch.ones(1))
    return tried


WEIGHTS = ["second.weight", "last.weight"]


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (Tried(pool=nn.GroupNorm(2, 4)), r"pool \(GroupNorm\) has parameters or buffers"),
        (Tried(second=Standardised(4, 4, 3)), r"second \(Standardised\) has parameters or buffers; only torch's own"),
        (with_buffer(), r"second \(Conv2d\) has parameters or buffers"),
        (hooked(), "second has hooks"),
        (Tried(pool=nn.BatchNorm2d(4, momentum=None)), "pool has momentum=None"),
        (Tried(second=conv().requires_grad_(False)), "second.weight is not a float32 parameter that is trained"),
        (Tried(second=conv().double()), "second.weight is not a float32 parameter"),
        (shared(), "two of its layers share a parameter"),
        (Tried(second=conv(groups=4)), "`blocks` name second.weight; an nn.Linear's weight can be pruned, and"),
        (Tried(second=conv(padding=2, dilation=2)), "`blocks` name second.weight"),
        (Tried(second=conv(padding="same")), "`blocks` name second.weight"),
        (Tried(second=conv(padding_mode="circular")), "`blocks` name second.weight"),
        (Tried(blocks=["second.bias"]), "`blocks` name second.bias"),
        (Tried(blocks=["last.weight", "last.weight"]), "name last.weight 2 times"),
        (Tried(blocks=["third.weight"]), "its `blocks` name third.weight, which it has not"),
        (Tried(last=nn.Linear(5, 3)), r"its forward pass fails on images \[1, 4, 4\]: RuntimeError"),
        (Pair(), "it gives a tuple, and must give logits"),
        (Tried(last=nn.Linear(4, 2)), r"4 images give \[4, 2\]; they must give logits \[4, 3\]"),
        (Twice(), "a batch passes first 2 times; it must pass each layer once"),
        (Away(), "a batch passes second 0 times"),
        (Auxiliary(), "a batch passes second 0 times"),
        (Patches(), r"first gives \[16, 4, 2, 2\] for 4 images; a layer must give one map"),
        (
            Tried(WEIGHTS[:1], pool=nn.Flatten(2), flat=nn.Linear(16, 2), last=flat_linear()),
            r"flat gives \[4, 4, 2\] for 4 images",
        ),
        (Tried(WEIGHTS[:1], second=nn.Conv2d(4, 3, 3), last=nn.Identity()), "passed last must be an nn.Linear"),
        (HeadFirst(flat=nn.Linear(4, 3), last=nn.Linear(4, 4)), "the last nn.Linear that the network names"),
        (Tried(pool=nn.Dropout(0.5), last=nn.Linear(64, 3)), "draw random numbers, as dropout does"),
        (Tried(pool=Noise(lambda: torch.rand(())), last=nn.Linear(64, 3)), "draw random numbers"),
        (Tried(pool=Noise(lambda: random.random()), last=nn.Linear(64, 3)), "draw random numbers"),
        (Tried(pool=Noise(lambda: np.random.rand()), last=nn.Linear(64, 3)), "draw random numbers"),
        (Tried(pool=Counting(), last=nn.Linear(64, 3)), "two passes of the same images differ"),
        (Tried(pool=Centred(), last=nn.Linear(64, 3)), "logits depend on the other images"),
        (Tried(pool=nn.BatchNorm2d(4, track_running_stats=False), last=nn.Linear(64, 3)), "depend on the other images"),
        (Tried(flat=Reshaped()), r"a batch of no images.* fails: RuntimeError: .*; x\.flatten\(1\) takes one"),
        (Stem(), "no gradient reaches first"),
        (Unused(), "no gradient reaches"),
        (Flipped(), "the gradient of second.weight does not follow from its layer's input and output alone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_that_would_be_counted_or_trained_wrongly_is_refused(tried, said):
    drawn = torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"(?s)^(the network )?{type(tried).__name__} .*{said}"):
        check_network(tried, 3, (1, 4, 4))
    assert torch.equal(drawn, torch.get_rng_state()) or "draw" in said


def test_blocks_against_the_order_of_the_pass_are_refused():
    tried = Tried()
    tried.blocks = (("last.weight",), ("second.weight",))
    with pytest.raises(ValueError, match="its `blocks` are not in the order in which images pass them"):
        check_network(tried, 3, (1, 4, 4))
    tried.blocks = (("last.weight",),)
    with pytest.raises(ValueError, match=r"^Tried has nothing to prune but its last layer; set prune_linear=yes$"):
        prunable_blocks(tried, prune_linear=False)


def test_batch_norm_that_observes_nothing_is_refused():
    """Of torch's own class, as one that is derived from it is refused anyhow."""

    class Still(Tried):
        def train(self, mode=True):
            super().train(mode)
            self.pool.eval()
            return self

    with pytest.raises(ValueError, match=r"pool\.running_mean does not move in training"):
        check_network(Still(pool=nn.BatchNorm2d(4), last=nn.Linear(64, 3)), 3, (1, 4, 4))


def test_networks_of_the_kit_pass_and_stay_as_they_are():
    for tried in (Tried(), Tried(pool=nn.Dropout(0.0), last=nn.Linear(64, 3)), ResNet18(2, 3, 1)):
        before = {name: tensor.clone() for name, tensor in tried.state_dict().items()}
        check_network(tried, 3, (1, 4, 4))
        assert all(torch.equal(tensor, before[name]) for name, tensor in tried.state_dict().items())


def test_a_task_is_made_of_no_network_that_does_not_fit(network):
    config = make_config("smoke", model=network(EXAMPLE.replace("nn.ReLU()", "nn.Dropout(0.5)")), **SMALL)
    with pytest.raises(ValueError, match=r"^the network SmallMobileNet does not fit: two passes of the same"):
        make_task(config, 10, (1, 8, 8), Normalisation((0.5,), (0.5,)))
