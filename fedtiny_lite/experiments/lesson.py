"""What every notebook does besides teaching: settings, runs, saved figures, claims. One call each."""

import ast
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import nbformat
from IPython.display import display
from matplotlib.figure import Figure

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.experiments.sweep import run_all
from fedtiny_lite.records import claims
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import ROOT

Key = TypeVar("Key", bound=Hashable)


class Lesson:
    """A notebook at work.

    `name`: the notebook's file name without its ending. `namespace`: the notebook's `globals()`, in which the
    parameters cell has run. `parameters`: its values by name. `out`: the folder for records, figures and claims.

    Raises ValueError if the parameters cell has not run.
    """

    def __init__(self, name: str, namespace: Mapping[str, Any]):
        names = parameter_names(ROOT / "notebooks" / f"{name}.ipynb")
        if missing := [parameter for parameter in names if parameter not in namespace]:
            raise ValueError(f"{', '.join(missing)} not set: run the parameters cell first")
        self.name = name
        self.parameters = {parameter: namespace[parameter] for parameter in names}
        self.profile: str = self.parameters["profile"]
        self.out = Path(self.parameters["out"])
        self._claims: dict[str, dict[str, Any]] = {}

    def config(self, **settings: Any) -> Config:
        """The profile's settings with `settings` in place of some, printed. Raises ValueError as `make_config` does."""
        config = make_config(self.profile, **settings)
        print(config)
        return config

    def run_all(self, plan: Mapping[Key, Config]) -> dict[Key, dict[str, Any]]:
        """The record of each run of `plan`, under its key; finished runs are not repeated."""
        return dict(zip(plan, run_all(list(plan.values()), self.out / "runs"), strict=True))

    def figure(self, figure: Figure, name: str, caption: str) -> Path:
        """Show a figure and keep it as `out`/figures/<number of the notebook>_<name>.png.

        `caption`: one sentence on what to see, for those who cannot see it too; the file carries it as its description.
        """
        path = self.out / "figures" / f"{self.name.split('_')[0]}_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Description": caption})
        display(figure, metadata={"image/png": {"alt": caption}})
        print(caption)
        return path

    def claim(self, claim_id: str, measured: float | None, band: claims.Band | None = None) -> None:
        """Hold a number against the band of a claim: that of notebooks/expected.json, or `band`.

        Raises ValueError for a claim that expected.json does not have.
        """
        self._claims[claim_id] = claims.check(claim_id, measured, self.profile, band)

    def finish(self) -> None:
        """Save the claims of this notebook and print them as a table, with the machine that measured them."""
        claims.save_claims(self._claims.values(), self.out, self.name)
        print(claims.claims_table(self.out, [self.name]))
        here = environment()
        print(f"\nPython {here['python']}, torch {here['packages']['torch']}, {here['cpu_count']} cores")


def parameter_names(notebook: Path) -> list[str]:
    """The names that the notebook's cell tagged `parameters` sets."""
    cells = nbformat.read(notebook, as_version=4).cells
    [source] = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return [node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
