"""The runs of the study behind the claims of notebooks 02, 03 and 04: many seeds, so that each claim has an interval.

The seeds were fixed before anything was measured, and no notebook runs them. `report.study` computes the claims.
"""

from typing import Any

from fedtiny_lite.config import Config, make_config

STUDY = "digits_claims"
SEEDS = tuple(range(1000, 1030))
RANKED: dict[str, Any] = dict(density=0.02, pool_size=10)
"""Where selection is judged, in notebook 02."""
JUDGES = ("adaptive", "server", "vanilla")
DISTORTED, LIKE_CLIENTS = "distorted", "as_clients"
VARIANTS: dict[str, dict[str, Any]] = {
    "block": {},
    "forward": {"order": "forward"},
    "layer": {"granularity": "layer"},
    "entire": {"granularity": "entire"},
    "none": {"progressive": "no"},
}
"""Ways to adjust, in notebook 03."""
PARTS: dict[str, dict[str, Any]] = {
    "FedTiny": {},
    "selection only": {"progressive": "no"},
    "progressive only": {"selection": "vanilla"},
    "neither": {"selection": "vanilla", "progressive": "no"},
}
"""FedTiny with its two modules on and off, in notebook 04."""


Purpose = tuple[Any, ...]
"""What a run is for, such as ("part", 0.01, "magnitude")."""


def planned(seed: int) -> dict[Purpose, Config]:
    """The runs of one seed, by what they are for."""
    return _ranking(seed) | _adjusting(seed) | _comparing(seed)


def _ranking(seed: int) -> dict[Purpose, Config]:
    runs: dict[Purpose, Config] = {}
    for server_set in (DISTORTED, LIKE_CLIENTS):
        shared = dict(RANKED, server_set=server_set, seed=seed)
        for judge in JUDGES:
            runs["judge", server_set, judge] = make_config(**shared, selection=judge, rounds=0)
        for candidate in range(RANKED["pool_size"]):
            settings = dict(shared, selection="fixed", candidate=candidate, progressive="no")
            runs["candidate", server_set, candidate] = make_config(**settings)
    return runs


def _adjusting(seed: int) -> dict[Purpose, Config]:
    return {("variant", name): make_config(seed=seed, density=0.02, **of_one) for name, of_one in VARIANTS.items()}


def _comparing(seed: int) -> dict[Purpose, Config]:
    runs: dict[Purpose, Config] = {}
    for density in (0.05, 0.02, 0.01):
        for name, part in PARTS.items():
            runs["part", density, name] = make_config(seed=seed, density=density, **part)
        runs["part", density, "magnitude"] = make_config(seed=seed, density=density, method="magnitude")
    for method in ("fedtiny", "magnitude"):
        runs["control", method] = make_config(seed=seed, density=0.02, server_set=LIKE_CLIENTS, method=method)
    for alpha in (0.1, 5.0):
        runs["alpha", alpha] = make_config(seed=seed, density=0.01, alpha=alpha)
    return runs
