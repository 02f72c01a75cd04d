"""Labels -> index lists per client, and a summary of how different the clients are. No torch.

Every sample goes to exactly one client, and each client holds at least `min_samples`. A partition is drawn anew until
that is so, 10,000 / clients times but at most 1,000 times and at least once. With many clients some nearly always hold
fewer; the last draw is then topped up: what they lack is drawn from all samples that other clients hold beyond
`min_samples`, each sample as likely as any other. So drawing always ends, after about the same work for any number of
clients. The numbers of redraws and of moved samples are part of the result, because both bend the distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedtiny_lite.records.summary import FEW, of_each
from fedtiny_lite.settings import check_choice

MOST_DRAWS = 1000
MOST_PARTS = 10_000
"""Clients times draws."""
SHARDS_PER_CLIENT = 2

Parts = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Partition:
    """`parts[k]`: sorted indices of client k's samples, disjoint. `redraws`: how many draws were rejected before.
    `moved`: samples that the top-up gave to another client.
    """

    parts: tuple[np.ndarray, ...]
    redraws: int
    moved: int = 0


def partition(
    kind: str, labels: np.ndarray, clients: int, alpha: float, min_samples: int, rng: np.random.Generator
) -> Partition:
    """Spreads the samples with these labels [N] over clients.

    `kind`:
        "iid"               equal sizes, samples at random
        "dirichlet"         each class over the clients by a Dirichlet draw, as in the authors' 2022 code
        "dirichlet_client"  each client over the classes by a Dirichlet draw, equal sizes (Hsu et al. 2019)
        "shards"            two shards of the samples sorted by label for each client (McMahan et al. 2017)
        "quantity"          sizes by a Dirichlet draw, samples at random
    `alpha`: Dirichlet concentration, where small values give skewed clients; "iid" and "shards" do not use it. Raises
    ValueError for values out of range.
    """
    _check(kind, len(labels), clients, alpha, min_samples)
    draws = min(max(MOST_PARTS // clients, 1), MOST_DRAWS)
    for redraws in range(draws):
        parts = KINDS[kind](np.asarray(labels), clients, alpha, rng)
        if min(map(len, parts)) >= min_samples:
            return Partition(tuple(np.sort(part) for part in parts), redraws)
    return _topped_up(parts, min_samples, draws - 1, rng)


def _topped_up(parts: Parts, min_samples: int, redraws: int, rng: np.random.Generator) -> Partition:
    """The partition in which clients that hold too few are given what others can spare.

    Example: parts of 5, 1 and 0 samples with `min_samples` 2. The first client can spare three: one goes to the second
    client, two go to the third.
    """
    sizes = np.array([len(part) for part in parts])
    owner = np.empty(sizes.sum(), int)
    owner[np.concatenate(parts)] = np.repeat(np.arange(len(parts)), sizes)
    shuffled = rng.permutation(len(owner))
    by_owner = shuffled[np.argsort(owner[shuffled], kind="stable")]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # among the samples of its owner
    lacking = np.maximum(min_samples - sizes, 0)
    moved = rng.permutation(by_owner[place >= min_samples])[: lacking.sum()]
    owner[moved] = np.repeat(np.arange(len(parts)), lacking)
    starts = np.cumsum(np.bincount(owner, minlength=len(parts)))[:-1]
    return Partition(tuple(np.split(np.argsort(owner, kind="stable"), starts)), redraws, len(moved))


def _check(kind: str, samples: int, clients: int, alpha: float, min_samples: int) -> None:
    check_choice("partition", kind, KINDS)
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha={alpha} is not allowed: it must be positive and finite")
    if clients < 1 or min_samples < 1:
        raise ValueError(f"clients={clients} and min_samples={min_samples}: both must be at least 1")
    if clients * min_samples > samples:
        raise ValueError(
            f"{clients} clients with at least {min_samples} samples each need {clients * min_samples} "
            f"samples, there are {samples}: lower clients or min_samples, or use more samples"
        )


def _iid(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Parts:
    return np.array_split(rng.permutation(len(labels)), clients)


def _dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Parts:
    """Class by class. A client that holds N / K samples or more gets no more of the next class, as in the 2022 code.

    N: samples, K: clients. The rule comes from FedML.
    """
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    sizes = np.zeros(clients, int)
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        open_clients = sizes < len(labels) / clients
        share = rng.dirichlet(np.full(clients, alpha)) * open_clients
        # With a tiny alpha the open clients' shares can all round to zero; they then share alike.
        share = share if share.sum() > 0 else open_clients.astype(float)
        cuts = (np.cumsum(share / share.sum())[:-1] * len(of_class)).astype(int)
        for part, piece in zip(parts, np.split(of_class, cuts), strict=True):
            part.append(piece)
        sizes += np.diff(cuts, prepend=0, append=len(of_class))
    return [np.concatenate(part) for part in parts]


def _dirichlet_client(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Parts:
    """Equal sizes. Clients take turns and draw from what is left, so that the last clients have less choice."""
    pools = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    left = np.array([len(pool) for pool in pools])
    parts = []
    for client in range(clients):
        size = len(labels) // clients + (client < len(labels) % clients)
        wanted = _draw_classes(size, rng.dirichlet(np.full(len(pools), alpha)), left, rng)
        parts.append(np.concatenate([pool[end - n : end] for pool, end, n in zip(pools, left, wanted, strict=True)]))
        left = left - wanted
    return parts


def _draw_classes(size: int, share: np.ndarray, left: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples per class, `size` in all, drawn by `share`. Whenever a class has run out, the shares are renormalised."""
    wanted = np.zeros_like(left)
    while (missing := size - wanted.sum()) > 0:
        rest = left - wanted
        weight = share * (rest > 0)
        weight = weight if weight.sum() > 0 else rest.astype(float)
        wanted += np.minimum(rng.multinomial(missing, weight / weight.sum()), rest)
    return wanted


def _shards(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Parts:
    by_label = rng.permutation(len(labels))
    by_label = by_label[np.argsort(labels[by_label], kind="stable")]
    shards = np.array_split(by_label, SHARDS_PER_CLIENT * clients)
    hands = rng.permutation(len(shards)).reshape(clients, SHARDS_PER_CLIENT)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in hands]


def _quantity(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Parts:
    share = rng.dirichlet(np.full(clients, alpha))
    cuts = (np.cumsum(share)[:-1] * len(labels)).astype(int)
    return np.split(rng.permutation(len(labels)), cuts)


KINDS: dict[str, Callable[[np.ndarray, int, float, np.random.Generator], Parts]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "dirichlet_client": _dirichlet_client,
    "shards": _shards,
    "quantity": _quantity,
}
WITHOUT_ALPHA = ("iid", "shards")
"""The kinds that do not use alpha."""


def summarise(labels: np.ndarray, parts: tuple[np.ndarray, ...], classes: int) -> dict:
    """How the K clients differ, as plain JSON. Every part must hold at least one sample.

    The keys are:
        sizes              samples per client [K]
        histogram          samples per client and class [K][classes]; left out where clients are many (`summary.FEW`)
        label_distance     mean over clients of the total variation distance, in [0, 1], between the label distribution
                           of the client and that of all clients together
        effective_classes  exp of the entropy of each client's labels [K], 1 to `classes`
        size_spread        largest size / smallest size

    Of many clients, `sizes` and `effective_classes` are the lowest, the mean and the highest (`summary.of_each`).
    """
    histogram = np.array([np.bincount(labels[part], minlength=classes) for part in parts])
    sizes = histogram.sum(axis=1)
    local = histogram / sizes[:, None]
    overall = histogram.sum(axis=0) / sizes.sum()
    logs = np.log(local, where=local > 0, out=np.zeros_like(local))
    return {
        "sizes": of_each(sizes.tolist()),
        **({"histogram": histogram.tolist()} if len(parts) <= FEW else {}),
        "label_distance": float(np.abs(local - overall).sum(axis=1).mean() / 2),
        "effective_classes": of_each(np.exp(-(local * logs).sum(axis=1)).tolist()),
        "size_spread": float(sizes.max() / sizes.min()),
    }
