"""What a run is: one frozen, validated set of settings; the named profiles; the name of a run.

Every setting is declared once, with its default, its allowed values and one line of help. The defaults are
the `digits` profile. What the paper leaves open or we could not re-read (pool size, rates, optimiser) is a
setting, so that a deviation is always visible in the record.
"""

import dataclasses
import hashlib
import json
import numbers
from dataclasses import dataclass, field
from pathlib import Path

METHODS = tuple(sorted(path.stem for path in (Path(__file__).parent / "methods").glob("[!_]*.py")))


def _setting(default, help, choices=None, low=None, high=None, above=None, identity=True):
    """A dataclass field that carries its own rule; `identity=False`: the setting cannot change a result."""
    rule = {"help": help, "choices": choices, "low": low, "high": high, "above": above, "identity": identity}
    return field(default=default, metadata=rule)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run. Raises ValueError naming the setting, the value given and what is allowed."""

    method: str = _setting("fedtiny", "what to run", choices=METHODS)
    seed: int = _setting(0, "root of all randomness of the run", low=0)

    dataset: str = _setting("digits", "digits, cifar10, cifar100, svhn, fashion_mnist or folder:PATH")
    samples: int = _setting(0, "training images used, server's included; 0 = all", low=0)
    test_samples: int = _setting(0, "test images used; 0 = all", low=0)
    server_shots: int = _setting(20, "images per class in the server's public set", low=1)
    server_set: str = _setting(
        "distorted", "whether the server's images look like the clients'", choices=("distorted", "as_clients")
    )
    augment: str = _setting(
        "none", "augmentation of training batches", choices=("none", "crop_flip", "crop_flip_cutout")
    )
    clients: int = _setting(10, "number of clients, all in every round", low=1)
    partition: str = _setting(
        "dirichlet",
        "how training images are spread over clients",
        choices=("iid", "dirichlet", "dirichlet_client", "shards", "quantity"),
    )
    alpha: float = _setting(0.5, "Dirichlet concentration: small = skewed", above=0)
    min_samples: int = _setting(10, "fewest images a client may hold", low=2)

    model: str = _setting("cnn", "architecture", choices=("cnn", "resnet18", "vgg11"))
    width: int = _setting(8, "channels of the first layer (resnet18 and vgg11 in the paper: 64)", low=1)

    score_on: str = _setting(
        "test",
        "what accuracy is measured on: test images, or a fifth of the training images, held out",
        choices=("test", "validation"),
    )
    pretrain_lr: float = _setting(0.05, "SGD learning rate of the server's pretraining", above=0)
    pretrain_epochs: int = _setting(15, "epochs of the server on its public set before pruning", low=0)
    rounds: int = _setting(12, "federated rounds", low=0)
    local_epochs: int = _setting(1, "epochs of each client in a round", low=1)
    batch_size: int = _setting(16, "images in a training batch", low=2)
    lr: float = _setting(0.05, "SGD learning rate", above=0)
    momentum: float = _setting(0.9, "SGD momentum, reset in each round", low=0, high=1)
    weight_decay: float = _setting(0.0, "SGD weight decay", low=0)

    density: float = _setting(0.02, "kept / all weights, the budget of every method but fedavg", above=0, high=1)
    density_of: str = _setting(
        "prunable",
        "what `density` is a share of: prunable weights or all parameters",
        choices=("prunable", "model"),
    )
    prune_linear: str = _setting(
        "auto",
        "whether the last layer is pruned; auto = only above density 0.005",
        choices=("auto", "yes", "no"),
    )

    selection: str = _setting(
        "adaptive",
        "whose BN statistics judge a candidate: the clients', none re-estimated, the server's; or `candidate` unjudged",
        choices=("adaptive", "vanilla", "server", "fixed"),
    )
    candidate: int = _setting(0, "number of the candidate that selection=fixed takes, whatever pool_size is", low=0)
    pool_size: int = _setting(0, "candidates in the pool; 0 = max(1, round(0.1 / density))", low=0)
    pool_noise: float = _setting(0.5, "layer densities are drawn from density * (1 +- pool_noise)", low=0, high=1)
    bn_variance: str = _setting("paper", "how clients' BN variances are combined", choices=("paper", "pooled"))
    dev_fraction: float = _setting(0.4, "share of a client's images used for selection", above=0, high=1)

    progressive: str = _setting("yes", "whether fedtiny grows and prunes during training", choices=("yes", "no"))
    adjust_every: int = _setting(1, "rounds between two adjustments", low=1)
    adjust_until: int = _setting(8, "adjustments stop before this round", low=0)
    adjust_rate: float = _setting(0.3, "share of a layer's kept weights exchanged at round 0", low=0, high=1)
    growth_batch: int = _setting(64, "images that a client takes growth gradients on (paper: one batch of 64)", low=1)
    granularity: str = _setting("block", "what is adjusted at a time", choices=("layer", "block", "entire"))
    order: str = _setting("backward", "backward = from output to input", choices=("backward", "forward"))
    adjust_blocks: str = _setting("all", "blocks that may be adjusted: all, or numbers such as 1,3 (1 = first)")
    extrusion: float = _setting(0.01, "fedmef: L2 penalty on the weights about to be pruned (lambda)", low=0)
    activation_density: float = _setting(
        0.5, "fedmef: share of a convolution's input kept for the backward pass", above=0, high=1
    )
    thompson_weight: float = _setting(10.0, "fedrts: how much one round's vote counts in a posterior (lambda)", above=0)
    thompson_fusion: float = _setting(
        0.5, "fedrts: the clients' share of a vote, the average's being the rest (gamma)", low=0, high=1
    )
    prunefl_layers: str = _setting(
        "free", "whether prunefl moves weights between layers, as its paper does", choices=("free", "fixed")
    )

    saliency_scope: str = _setting(
        "global",
        "among which weights snip, grasp, synflow and ssfl keep the best: of the whole model, or of each layer",
        choices=("global", "layer"),
    )
    saliency_steps: int = _setting(
        0, "pruning steps of snip, grasp and synflow; 0 = as in the papers, 1, 1 and 100", low=0
    )

    lottery_accuracy: float = _setting(0.5, "lotteryfl: a client prunes above this accuracy of its own", low=0, high=1)
    lottery_rate: float = _setting(
        0.0, "lotteryfl: share pruned at a time; 0 = what reaches the density by adjust_until", low=0, high=1
    )
    selective_upload: str = _setting(
        "yes",
        "fl_pqsu: whether clients upload only when their loss fell since their last upload",
        choices=("yes", "no"),
    )

    engine: str = _setting(
        "dense",
        "what computes masked layers: dense torch, the sparse engine (CPU), or auto = sparse where little is kept",
        choices=("dense", "sparse", "auto"),
    )
    torch_device: str = _setting("cpu", "auto = a GPU when there is one", choices=("auto", "cpu", "cuda"))
    workers: int = _setting(1, "processes that clients run in; 1 = in this one", low=1, identity=False)

    def __post_init__(self):
        for rule in dataclasses.fields(self):
            value = getattr(self, rule.name)
            _check(rule, value)
            object.__setattr__(self, rule.name, rule.type(value))  # 1 and 1.0 name the same run

    @property
    def run_id(self) -> str:
        """A readable slug and 8 hex digits of the settings that can change a result."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        dataset = Path(self.dataset.removeprefix("folder:")).name
        return (
            f"{self.method}-{dataset}-{self.model}{self.width}-d{self.density:g}-a{self.alpha:g}-s{self.seed}-{digest}"
        )

    def identity(self) -> dict:
        """The settings that can change a result, as plain JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    @property
    def candidates(self) -> int:
        """Pool size C = max(1, round(0.1 / density)) unless set (recalled from the paper)."""
        return self.pool_size or max(1, round(0.1 / self.density))

    @property
    def prunes_linear(self) -> bool:
        """At density 0.001 the last layer of ResNet18 would keep 5 weights: dense at 0.005 and below."""
        return self.density > 0.005 if self.prune_linear == "auto" else self.prune_linear == "yes"


def _check(rule: dataclasses.Field, value) -> None:
    given, limits = f"{rule.name} = {value!r}", rule.metadata
    kind = rule.type
    if isinstance(value, bool) or not isinstance(value, _ACCEPTED[kind]):
        raise ValueError(f"{given}: this setting takes {_KINDS[kind]}")
    if limits["choices"] and value not in limits["choices"]:
        raise ValueError(f"{given}: choose one of {', '.join(limits['choices'])}")
    if kind is str:
        return
    low, above, high = limits["low"], limits["above"], limits["high"]
    if not -_LARGEST < value < _LARGEST or (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{given}: {_range(rule)}")
    if above is not None and value <= above:
        raise ValueError(f"{given}: {_range(rule)}")


_KINDS = {int: "a whole number", float: "a number", str: "a word"}
_ACCEPTED = {int: numbers.Integral, float: numbers.Real, str: str}
_LARGEST = 1e300


def _range(rule: dataclasses.Field) -> str:
    limits = rule.metadata
    words = [f"above {limits['above']}" if limits["above"] is not None else f"at least {limits['low']}"]
    words += [f"at most {limits['high']}"] if limits["high"] is not None else []
    return "it must be " + " and ".join(words)


_LAPTOP = dict(
    dataset="cifar10", samples=10_000, test_samples=2_000, server_shots=20, server_set="as_clients",
    augment="crop_flip", model="resnet18", width=8, pretrain_epochs=15, rounds=20, batch_size=32, lr=0.05,
    weight_decay=5e-4, density=0.05, dev_fraction=0.1, adjust_every=1, adjust_until=14, torch_device="auto", workers=2,
)  # fmt: skip
_PAPER = dict(
    dataset="cifar10", server_shots=5, server_set="as_clients", augment="crop_flip_cutout", model="resnet18", width=64,
    pretrain_epochs=3, rounds=300, local_epochs=5, batch_size=64, lr=0.05, weight_decay=5e-4, density=0.01,
    dev_fraction=0.1, adjust_every=10, adjust_until=100, lottery_rate=0.2, torch_device="auto", engine="auto",
)  # fmt: skip
PROFILES = {
    "smoke": dict(rounds=2, pretrain_epochs=2, adjust_until=2, clients=4, pool_size=3),
    "digits": {},
    "laptop": _LAPTOP,
    "paper": _PAPER,
}


def make_config(profile: str = "digits", **settings) -> Config:
    """The settings of `profile` with `settings` on top. Raises ValueError for an unknown profile or setting."""
    if profile not in PROFILES:
        raise ValueError(f"profile = {profile!r}: choose one of {', '.join(PROFILES)}")
    known = {f.name for f in dataclasses.fields(Config)}
    for name in settings.keys() - known:
        raise ValueError(f"{name} is not a setting; the settings are {', '.join(sorted(known))}")
    return Config(**(PROFILES[profile] | settings))


def parse_settings(pairs: list[str]) -> dict:
    """["density=0.01", "clients=5"] -> {"density": 0.01, "clients": 5}, typed by the setting; none may come twice."""
    kinds = {f.name: f.type for f in dataclasses.fields(Config)}
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r}: write a setting as key=value, for example density=0.01")
        if name not in kinds:
            raise ValueError(f"{name} is not a setting; the settings are {', '.join(sorted(kinds))}")
        if name in settings:
            raise ValueError(f"{name} is set twice, to {settings[name]} and to {text}; set it once")
        try:
            settings[name] = kinds[name](text)
        except ValueError:
            raise ValueError(f"{name} = {text!r}: this setting takes {_KINDS[kinds[name]]}") from None
    return settings
