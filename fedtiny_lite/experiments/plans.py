"""Named plans: the runs behind each comparison, and how every method was tuned before it.

The protocol on digits, the same for all methods: a grid of settings (`tuning`), tried on two seeds of their own at
density 0.02, scored on a fifth of the training images that nobody trains on; the best mean is taken for all densities.
Test images are looked at once, by the plans that follow, with other seeds, fixed before any run of them was seen.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedtiny_lite.config import METHODS, Config, make_config
from fedtiny_lite.experiments import allocations, choices, claim
from fedtiny_lite.experiments.allocations import TUNING_SEEDS
from fedtiny_lite.experiments.study import RANKED, STUDY
from fedtiny_lite.experiments.tuning import chosen, grid
from fedtiny_lite.records.bundles import load_plan, records_so_far
from fedtiny_lite.settings import check_choice

SEEDS = tuple(range(5000, 5010))
DENSITIES = (0.1, 0.05, 0.02, 0.01)


def plan_configs(plan: str, out: str | Path) -> list[Config]:
    """The runs of a named plan. `out`: where the tuning plan's records are looked for before the committed ones.

    Raises ValueError for an unknown name or the study's, FileNotFoundError if the plan needs a tuning that was not run.
    """
    if plan == STUDY:
        raise ValueError(f"plan = {plan!r}: its runs have no bundle; leave --finished and --go-on out")
    check_choice("plan", plan, (*PLANS, STUDY))
    return list(dict.fromkeys(PLANS[plan](out)))


def _digits_tuning(out: str | Path) -> list[Config]:
    """Every method's grid, which its own records widen."""
    records = records_so_far("digits_tuning", out)
    return [
        make_config("digits", method=method, seed=seed, score_on="validation", **settings)
        for method in METHODS
        for settings in grid(records, method)
        for seed in TUNING_SEEDS
    ]


def _tuned(out: str | Path, methods: Sequence[str], **settings: object) -> list[Config]:
    """Each of `methods` at its tuned settings, with all seeds."""
    tuning, _ = load_plan("digits_tuning", out)
    best = {method: chosen(tuning, method, grid(tuning, method)) for method in methods}
    return [make_config("digits", method=m, seed=seed, **best[m] | settings) for m in methods for seed in SEEDS]


def _digits(out: str | Path) -> list[Config]:
    dense = _tuned(out, ["fedavg"])
    return dense + [c for d in DENSITIES for c in _tuned(out, [m for m in METHODS if m != "fedavg"], density=d)]


def _digits_alpha(out: str | Path) -> list[Config]:
    methods = ("fedavg", "magnitude", "synflow", "feddst", "prunefl", "fedtiny")
    return [c for alpha in (0.1, 0.5, 1.0, 5.0) for c in _tuned(out, methods, alpha=alpha)]


ABLATIONS: tuple[Mapping[str, object], ...] = (
    *({"selection": selection, "progressive": yes} for selection in ("adaptive", "vanilla") for yes in ("yes", "no")),
    *({"granularity": value} for value in ("layer", "block", "entire")),
    *({"order": value} for value in ("backward", "forward")),
    *({"adjust_every": value} for value in (1, 2, 4)),
    *({"adjust_until": value} for value in (4, 8, 12)),
    *({"pool_size": value} for value in (1, 2, 5, 10, 20)),
    *({"pool_noise": value} for value in (0.1, 0.5, 0.9)),
    *({"bn_variance": value} for value in ("paper", "pooled")),
)
"""FedTiny with one of its settings changed."""


def _digits_ablations(out: str | Path) -> list[Config]:
    scopes = [
        c for scope in ("global", "layer") for c in _tuned(out, ["snip", "grasp", "synflow"], saliency_scope=scope)
    ]
    return [c for settings in ABLATIONS for c in _tuned(out, ["fedtiny"], **settings)] + scopes


RANKING_SEEDS = {"distorted": tuple(range(2000, 2010)), "as_clients": tuple(range(2000, 2003))}
"""The seeds of notebook 02 for each kind of public set; nobody looked at them while the settings were chosen."""
RANKING_JUDGES: Mapping[str, Mapping[str, object]] = {
    "adaptive": {"selection": "adaptive"},
    "pooled": {"selection": "adaptive", "bn_variance": "pooled"},
    "server-only": {"selection": "server"},
    "vanilla": {"selection": "vanilla"},
}
"""Who judges the candidates of notebook 02."""


def _digits_ranking(out: str | Path) -> list[Config]:
    """Per pool: each judge's losses without training, and each candidate trained with its mask fixed."""
    trained = [{"selection": "fixed", "candidate": c, "progressive": "no"} for c in range(RANKED["pool_size"])]
    of_pool = [dict(judge, rounds=0) for judge in RANKING_JUDGES.values()] + trained
    return [
        make_config("digits", **RANKED, server_set=server_set, seed=seed, **settings)
        for server_set, seeds in RANKING_SEEDS.items()
        for seed in seeds
        for settings in of_pool
    ]


def _paper(out: str | Path) -> list[Config]:
    """The paper's setting, for a GPU: hours a run."""
    return [make_config("paper", method=method) for method in ("fedtiny", "prunefl", "synflow", "fedavg")]


PLANS: dict[str, Callable[[str | Path], list[Config]]] = {
    "digits_tuning": _digits_tuning,
    "digits": _digits,
    "digits_ablations": _digits_ablations,
    "digits_alpha": _digits_alpha,
    "digits_ranking": _digits_ranking,
    "digits_choices": choices.digits_choices,
    "claim_tuning": claim.claim_tuning,
    "claim_pilot": claim.claim_pilot,
    "claim": claim.claim,
    "claim_devices": claim.claim_devices,
    "claim_ablations": claim.claim_ablations,
    "claim_wide": claim.claim_wide,
    "allocations_tuning": allocations.allocations_tuning,
    "allocations": allocations.allocations,
    "allocations_ranking": allocations.allocations_ranking,
    "paper": _paper,
}
"""Name -> function of the results folder to the configs; `sweep` runs them."""
