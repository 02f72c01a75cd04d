"""A run on Flower's simulation engine: each client is one of its virtual nodes, which take turns on the cores.

pip install -c constraints.txt 'flwr[simulation]'
python -m fedtiny_lite.flower.simulated --set method=feddst rounds=5
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedtiny_lite.config import Config, make_config, parse_settings
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import hand_out
from fedtiny_lite.simulation.stopping import exit_status

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
Found = TypeVar("Found")


def simulated(config: Config, out: Path | str | None = None) -> dict[str, Any]:
    """The record of `rounds.run`, with each client on a virtual node. Raises as `rounds.run`, and as `on_nodes`."""
    return on_nodes(lambda grid: run_on(grid, config, out), config.clients)


def run_on(grid: "Grid", config: Config, out: Path | str | None = None) -> dict[str, Any]:
    """A run of `config` on nodes that are parts of its data set; its record."""
    from fedtiny_lite.flower.place import OnFlower

    return run(config, out, place=OnFlower(grid, config, hand_out(config)))


def on_nodes(serve: "Callable[[Grid], Found]", nodes: int) -> Found:
    """What `serve` comes to, given so many virtual nodes. Raises RuntimeError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise RuntimeError("Flower's simulation needs Ray: pip install -c constraints.txt 'flwr[simulation]'")
    os.environ |= QUIET
    # Flower reads the environment when it is imported.
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from fedtiny_lite.flower.client_app import app

    server, found = ServerApp(), []

    @server.main()
    def main(grid: "Grid", context: "Context") -> None:
        found.append(serve(grid))

    run_simulation(server, app, nodes, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """One run on virtual nodes; the last line printed is the path of its record."""
    parser = argparse.ArgumentParser(prog="python -m fedtiny_lite.flower.simulated", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/runs"), help="folder of records")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="key=value", help="settings of the run"
    )
    options = parser.parse_args(arguments)
    return exit_status(lambda: _simulate(options.set, options.out))


def _simulate(settings: Sequence[str], out: Path) -> int:
    record = simulated(make_config("digits", **parse_settings(settings)), out)
    print(out / record["run_id"] / "record.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
