"""What every notebook does besides teaching: settings, runs, saved figures, claims. One call each."""

from collections.abc import Hashable, Iterable, Mapping
from itertools import groupby
from typing import Any, TypeVar

import torch
from IPython.display import display
from matplotlib.figure import Figure

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.experiments.sweep import run_all
from fedtiny_lite.records import claims
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.explored import changed_parameters, own_folder, results_folder, standard_parameters
from fedtiny_lite.settings import Settings, rules

Key = TypeVar("Key", bound=Hashable)


class Lesson:
    """A notebook at work.

    `name`: the notebook's file name without its ending. `namespace`: the notebook's `globals()`, in which the
    parameters cell has run. `parameters`: its values by name; `changed`: those that differ from the committed cell.
    `out`: the folder for runs; a relative one counts from the root of the repository. `folder`: the one for figures and
    claims, apart from `out` if parameters were changed.

    From then on torch computes with one thread, as in a run: what a notebook computes by hand is held against the
    package, and sums in another order, carried through some steps of training, differ in more than the last digits.

    Raises ValueError if the parameters cell has not run.
    """

    def __init__(self, name: str, namespace: Mapping[str, Any]):
        names = standard_parameters(name)
        if missing := [parameter for parameter in names if parameter not in namespace]:
            raise ValueError(f"{', '.join(missing)} not set: run the parameters cell first")
        self.name = name
        self.parameters = {parameter: namespace[parameter] for parameter in names}
        self.profile: str = self.parameters["profile"]
        self.changed = changed_parameters(name, namespace)
        self.out = results_folder(self.parameters["out"])
        self.folder = own_folder(self.out, self.changed)
        self._claims: dict[str, dict[str, Any]] = {}
        torch.set_num_threads(1)

    def config(self, **settings: Any) -> Config:
        """The profile's settings with `settings` in place of some, printed. Raises ValueError as `make_config` does."""
        config = make_config(self.profile, **settings)
        print(settings_by_group(config))
        return config

    def run_all(self, plan: Mapping[Key, Config]) -> dict[Key, dict[str, Any]]:
        """The record of each run of `plan`, under its key; finished runs are not repeated."""
        return dict(zip(plan, run_all(list(plan.values()), self.out / "runs"), strict=True))

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Show a figure and keep it as `folder`/figures/<number of the notebook>_<name>.png.

        `caption`: one sentence on what to see, for those who cannot see it too; the file carries it as its description.
        """
        path = self.folder / "figures" / f"{self.name.split('_')[0]}_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Description": caption})
        display(figure, metadata={"image/png": {"alt": caption}})
        print(caption)

    def claim(self, claim_id: str, measured: float | None, band: claims.Band | None = None, missing: str = "") -> None:
        """Hold a number against the band of a claim: that of notebooks/expected.json, or `band`.

        It is not judged where parameters were changed, or where what it takes is `missing` on this machine. Raises
        ValueError for a claim that expected.json does not have.
        """
        self._claims[claim_id] = claims.check(claim_id, measured, self.profile, band, self.changed, missing)

    def finish(self) -> None:
        """Save the claims of this notebook and print them as a table, with the machine that measured them."""
        claims.save_claims(self._claims.values(), self.folder, self.name)
        print(claims.claims_table(self.folder, [self.name]))
        here = environment()
        print(f"\nPython {here['python']}, torch {here['packages']['torch']}, {here['cpu_count']} cores")


def settings_by_group(config: Config) -> str:
    """The settings of a run as text: a line for each group, the method's own last."""
    groups = groupby(rules(Config), lambda rule: rule.metadata["group"])
    lines = [(group, _settings(config, [rule.name for rule in of_group])) for group, of_group in groups]
    own = config.of(Settings)
    lines.append((f"{config.method} alone", _settings(own, [rule.name for rule in rules(type(own))])))
    return "\n".join(f"{group + ':':15} {text or 'none'}" for group, text in lines)


def _settings(settings: Settings, names: Iterable[str]) -> str:
    return " ".join(f"{name}={getattr(settings, name)}" for name in names)
