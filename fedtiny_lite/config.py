"""What a run is: one frozen, checked set of settings; the named profiles; the name of a run.

A setting is declared once. Those of every run are declared here; those of one method stand in the method's file, and a
`Config` carries them in `own`. What the paper leaves open or we could not re-read (pool size, rates, optimiser) is a
setting, so that a deviation is always visible in the record. The defaults are the `digits` profile.
"""

import difflib
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedtiny_lite.own_files import FILE, file_of, method_in, stamped
from fedtiny_lite.settings import Settings, check_choice, defaults, names, parse, rules, setting, shown

METHODS = tuple(sorted(path.stem for path in (Path(__file__).parent / "methods").glob("[!_]*.py")))
MODELS = ("cnn", "resnet18", "vgg11")
_run, _data, _clients, _model, _training, _budget, _privacy, _machine = (
    partial(setting, group=group)
    for group in ("run", "data", "clients", "model", "training", "budget", "privacy, an experiment", "machine")
)
Kind = TypeVar("Kind", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The settings of one run. Raises ValueError naming the setting, the value given and what is allowed."""

    method: str = _run("fedtiny", f"what to run; or {FILE}PATH, a file with a METHOD", choices=METHODS, prefix=FILE)
    seed: int = _run(0, "root of all randomness of the run", low=0)
    score_on: str = _run(
        "test",
        "what accuracy is measured on: test images, or a fifth of the training images, held out",
        choices=("test", "validation"),
    )

    dataset: str = _data("digits", "digits, cifar10, cifar100, svhn, fashion_mnist or folder:PATH")
    samples: int = _data(0, "training images used, server's included; 0 = all", low=0)
    test_samples: int = _data(0, "test images used; 0 = all", low=0)
    server_shots: int = _data(20, "images per class in the server's public set", low=1)
    server_set: str = _data(
        "distorted", "whether the server's images look like the clients'", choices=("distorted", "as_clients")
    )
    pixel_statistics: str = _data(
        "clients",
        "whose images the mean and spread of pixels are taken from: the clients', as sums, or the server's public set",
        choices=("clients", "server"),
    )
    augment: str = _data("none", "augmentation of training batches", choices=("none", "crop_flip", "crop_flip_cutout"))

    clients: int = _clients(10, "number of clients", low=1, high=1_000_000)
    clients_per_round: int = _clients(0, "clients that take part in a round, drawn anew for each; 0 = all", low=0)
    update_limit: float = _clients(
        0.0,
        "a reply whose update is longer than this many times the round's median is rejected: 1 or more; 0 = no limit",
        low=0,
    )
    partition: str = _clients(
        "dirichlet",
        "how training images are spread over clients",
        choices=("iid", "dirichlet", "dirichlet_client", "shards", "quantity"),
    )
    alpha: float = _clients(0.5, "Dirichlet concentration: small = skewed", above=0)
    min_samples: int = _clients(10, "fewest images a client may hold", low=2)

    model: str = _model("cnn", f"architecture; or {FILE}PATH, a file with a NETWORK", choices=MODELS, prefix=FILE)
    width: int = _model(8, "channels of the first layer (resnet18 and vgg11 in the paper: 64)", low=1, high=1024)

    pretrain_lr: float = _training(0.05, "SGD learning rate of the server's pretraining", above=0)
    pretrain_epochs: int = _training(15, "epochs of the server on its public set before pruning", low=0, high=10_000)
    rounds: int = _training(12, "federated rounds", low=0, high=100_000)
    local_epochs: int = _training(1, "epochs of each client in a round", low=1, high=1_000)
    batch_size: int = _training(16, "images in a training batch", low=2, high=65_536)
    lr: float = _training(0.05, "SGD learning rate", above=0)
    momentum: float = _training(0.9, "SGD momentum, reset in each round", low=0, high=1)
    weight_decay: float = _training(0.0, "SGD weight decay", low=0)

    density: float = _budget(0.02, "kept / all weights, the budget of every method but fedavg", above=0, high=1)
    density_of: str = _budget(
        "prunable", "what `density` is a share of: prunable weights or all parameters", choices=("prunable", "model")
    )
    prune_linear: str = _budget(
        "auto", "whether the last layer is pruned; auto = only above density 0.005", choices=("auto", "yes", "no")
    )

    clip_norm: float = _privacy(0.0, "longest update and longest list that a client sends; 0 = as they are", low=0)
    noise: float = _privacy(0.0, "Gaussian noise on both, in units of clip_norm; no epsilon follows", low=0)

    engine: str = _machine(
        "dense",
        "what computes masked layers: dense torch, the sparse engine (CPU), or auto = sparse where little is kept",
        choices=("dense", "sparse", "auto"),
    )
    torch_device: str = _machine("cpu", "auto = a GPU when there is one", choices=("auto", "cpu", "cuda"))
    workers: int = _machine(1, "processes that clients run in; 1 = in this one", low=1, high=1_024, identity=False)

    min_replies: int = _machine(
        1,
        "replies that an exchange needs at least, beside half of those asked",
        low=1,
        identity=False,
    )

    own: Settings | None = None
    """The settings that the method declares in its file; its defaults if none are given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("method", "model"):
            object.__setattr__(self, name, stamped(name, getattr(self, name)))
        kind = own_settings(self.method)
        if self.own is None:
            object.__setattr__(self, "own", kind())
        elif type(self.own) is not kind:
            raise ValueError(f"own = {self.own!r}: {self.method} takes {kind.__module__}.{kind.__name__}")
        if self.noise and not self.clip_norm:
            raise ValueError(f"noise = {self.noise:g}: it is a multiple of clip_norm, which is 0; set clip_norm too")
        if 0 < self.update_limit < 1:
            raise ValueError(
                f"update_limit = {self.update_limit}: below 1 equal updates would be rejected too; "
                "it must be at least 1, or 0 for no limit"
            )
        if self.clients_per_round > self.clients:
            raise ValueError(
                f"clients_per_round = {self.clients_per_round}: there are {self.clients} clients; "
                f"it must be at most that, or 0 for all"
            )
        asked = self.clients_per_round or self.clients
        if self.min_replies > asked:
            raise ValueError(f"min_replies = {self.min_replies}: {asked} clients are asked; it must be at most that")

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process is made anew from its settings: it loads a method's file for itself."""
        return _from_settings, (self.everything(),)

    @property
    def run_id(self) -> str:
        """A readable slug and 8 hex digits of the settings that differ from their defaults.

        So a new setting renames no run. Settings that cannot change a result are left out.
        """
        changed = {name: value for name, value in self.identity().items() if value != self._defaults()[name]}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        dataset = Path(self.dataset.removeprefix("folder:")).name
        method, model = file_of(self.method).stem, file_of(self.model).stem
        return f"{method}-{dataset}-{model}{self.width}-d{self.density:g}-a{self.alpha:g}-s{self.seed}-{digest}"

    def identity(self) -> dict[str, Any]:
        """The settings that can change a result, the method's own among them, as plain JSON."""
        return self.values() | self.of(Settings).values()

    def everything(self) -> dict[str, Any]:
        """All settings, those too that change no result."""
        return {rule.name: getattr(self, rule.name) for rule in rules(Config)} | self.identity()

    def changed(self, **settings: Any) -> "Config":
        """The same settings but for these, the method's own among them. Raises ValueError as `make_config` does."""
        known = names(Config) | names(own_settings(str(settings.get("method", self.method))))
        return make_config({name: value for name, value in self.everything().items() if name in known}, **settings)

    def differing(self, recorded: Mapping[str, Any]) -> list[str]:
        """The settings in which `recorded`, another run's `identity`, differs; one that it lacks had its default."""
        ours, theirs = self.identity(), self._defaults() | dict(recorded)
        return sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))

    def _defaults(self) -> dict[str, Any]:
        both = defaults(Config) | defaults(own_settings(self.method))
        return {name: both[name] for name in self.identity()}

    def of(self, kind: type[Kind]) -> Kind:
        """The method's own settings as `kind`, a class of settings that its own are derived from.

        Raises TypeError for settings of another method.
        """
        if not isinstance(self.own, kind):
            raise TypeError(f"{self.method} has no settings of {kind.__module__}.{kind.__name__}")
        return self.own

    @property
    def prunes_linear(self) -> bool:
        """At density 0.001 the last layer of ResNet18 would keep 5 weights: dense at 0.005 and below."""
        return self.density > 0.005 if self.prune_linear == "auto" else self.prune_linear == "yes"


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
Profile = Mapping[str, Any]
"""Values of settings, of which each method takes those that it has."""
PROFILES: dict[str, Profile] = {
    "smoke": dict(rounds=2, pretrain_epochs=2, adjust_until=2, clients=4, pool_size=3),
    "digits": {},
    "laptop": _LAPTOP,
    "paper": _PAPER,
}


def load_method(name: str) -> Any:
    """The METHOD (`protocol.Method`) of the file of this name in `methods/`, or of file:PATH, loaded at the first call.

    Raises ValueError for a method that has no file, or whose file gives no METHOD.
    """
    if name.startswith(FILE):
        return method_in(stamped("method", name))
    check_choice("method", name, METHODS)
    return importlib.import_module(f"fedtiny_lite.methods.{name}").METHOD


def own_settings(method: str) -> type[Settings]:
    """The class of the settings that the method of this name owns."""
    return load_method(method).settings


def make_config(profile: str | Profile = "digits", **settings: Any) -> Config:
    """The settings of `profile`, as far as the method has them, with `settings` on top.

    `profile`: a name in `PROFILES`, or values of one's own. Raises ValueError for an unknown profile or setting, and
    for a setting of another method, naming whose it is.
    """
    base = _profile(profile)
    method = str(settings.get("method", base.get("method", Config.method)))
    own, common = names(own_settings(method)), names(Config)
    for name in settings.keys() - own - common:
        raise ValueError(_not_a_setting(name, method))
    for name in base.keys() - own - common:
        if not _owners(name):
            raise ValueError(_not_a_setting(name, method))
    values = {name: value for name, value in base.items() if name in own | common} | settings
    mine = own_settings(method)(**{name: value for name, value in values.items() if name in own})
    return Config(own=mine, **{name: value for name, value in values.items() if name in common})


def _from_settings(values: Mapping[str, Any]) -> Config:
    return make_config({}, **values)


def _profile(profile: str | Profile) -> Profile:
    if isinstance(profile, Mapping):
        return profile
    if not isinstance(profile, str):
        raise ValueError(f"profile = {shown(profile)}: give the name of one, or values of settings by their names")
    check_choice("profile", profile, PROFILES)
    return PROFILES[profile]


def _owners(name: str) -> list[str]:
    """The methods that have this setting."""
    return [method for method in METHODS if name in names(own_settings(method))]


def _not_a_setting(name: str, method: str) -> str:
    owners = _owners(name)
    if owners:
        mine = ", ".join(sorted(names(own_settings(method)))) or "none"
        return f"{name} is a setting of {', '.join(owners)}; those of {method} alone are: {mine}"
    near = difflib.get_close_matches(name[:80], sorted(names(Config) | names(own_settings(method))), n=2)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    shortened = shown(name).strip("'\"")
    return f"{shortened} is not a setting; {guess}`python -m fedtiny_lite run --method {method} --help` lists all"


def parse_settings(pairs: Iterable[str], method: str | None = None) -> dict[str, Any]:
    """["density=0.01", "clients=5"] -> {"density": 0.01, "clients": 5}, typed by the setting; none may come twice.

    `method`: whose settings are known beside those of every run; else the one that the pairs name, or the default.
    """
    texts: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"{shown(pair)}: write a setting as key=value, for example density=0.01")
        if name in texts:
            raise ValueError(f"{name} is set twice, to {shown(texts[name])} and to {shown(text)}; set it once")
        texts[name] = text
    method = method or texts.get("method", Config.method)
    known = {rule.name: rule for kind in (Config, own_settings(method)) for rule in rules(kind)}
    for name in texts.keys() - known.keys():
        raise ValueError(_not_a_setting(name, method))
    return {name: parse(known[name], text) for name, text in texts.items()}
