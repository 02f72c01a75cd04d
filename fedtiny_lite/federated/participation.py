"""Which clients are asked: drawn from the run's seed, the same in every process."""

from fedtiny_lite.config import Config
from fedtiny_lite.seeding import numpy_generator


def everyone(config: Config, r: int) -> list[int]:
    """All clients."""
    return list(range(config.clients))


def in_round(config: Config, r: int) -> list[int]:
    """The clients of round r, ascending: `clients_per_round` of them; before training (r = -1) all."""
    return everyone(config, r) if r < 0 else drawn(config, config.clients_per_round, "participation", r)


def drawn(config: Config, count: int, purpose: str, *place: int) -> list[int]:
    """`count` clients (0 = all), ascending, drawn without replacement by a generator of this purpose and place."""
    if count in (0, config.clients):
        return list(range(config.clients))
    chosen = numpy_generator(config.seed, purpose, *place).choice(config.clients, count, replace=False)
    return sorted(int(k) for k in chosen)
