"""Federated pruning to tiny models: the few calls that a notebook or a script begins with.

    from fedtiny_lite import make_config, run
    record = run(make_config("smoke", method="fedtiny"), "results/runs")

Everything else is imported from the module that it stands in. A call is looked up in its own module when it is first
used (PEP 562): every import of a module passes here, and shall not pay for others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedtiny_lite.config import make_config
    from fedtiny_lite.experiments.sweep import run_all, run_plan
    from fedtiny_lite.export.tiny_model import load_tiny
    from fedtiny_lite.records.bundles import load_plan
    from fedtiny_lite.records.schema import load_records, read_record
    from fedtiny_lite.report.frames import run_frame
    from fedtiny_lite.simulation.rounds import run

__all__ = [
    "load_plan",
    "load_records",
    "load_tiny",
    "make_config",
    "read_record",
    "run",
    "run_all",
    "run_frame",
    "run_plan",
]

_HOMES = {
    "load_plan": "records.bundles",
    "load_records": "records.schema",
    "load_tiny": "export.tiny_model",
    "make_config": "config",
    "read_record": "records.schema",
    "run": "simulation.rounds",
    "run_all": "experiments.sweep",
    "run_frame": "report.frames",
    "run_plan": "experiments.sweep",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOMES)
