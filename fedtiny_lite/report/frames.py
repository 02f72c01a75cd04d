"""Runs as a pandas table, a row per run: its label, its settings and what came of it. And the parts of such a table."""

from collections.abc import Iterable, Mapping

import pandas as pd

from fedtiny_lite.config import METHODS, Config, own_settings
from fedtiny_lite.records.schema import CHANGE, REFERENCE, STAY
from fedtiny_lite.report.labels import DENSE, FEDTINY, Label, place, run_label
from fedtiny_lite.report.measures import accuracies, spent, split, weights_held
from fedtiny_lite.settings import defaults

PANELS = {STAY: (REFERENCE, STAY), CHANGE: (CHANGE,)}
"""The panels of a comparison of all methods, and the families in each; dense and FedTiny stand in both."""

_WITHIN = ("seed", "density", "method", "selection", "candidate", "progressive")  # what one figure may mix


def run_frame(records: Iterable[Mapping]) -> pd.DataFrame:
    """A row per run: `label`, `family`, its settings under their own names, and all that `measures` reads.

    `label` is an ordered category, so that tables and legends come in the order of families and names. A setting that
    belongs to another method is missing.
    """
    records = list(records)
    labels = [run_label(record) for record in records]
    rows = [_row(record, label) for record, label in zip(records, labels, strict=True)]
    runs = pd.DataFrame(rows)
    if rows:
        names = dict.fromkeys(found.label for found in sorted(set(labels), key=place))
        runs["label"] = pd.Categorical(runs["label"], list(names), ordered=True)
    return runs


def _row(record: Mapping, label: Label) -> dict:
    return record["config"] | label._asdict() | _results(record)


def _results(record: Mapping) -> dict:
    done = {"rounds_finished": len(record["rounds"])}
    return done | accuracies(record) | weights_held(record) | spent(record) | split(record)


def settings_of(records: Iterable[Mapping]) -> pd.DataFrame:
    """A row per run, a column per setting that any of these runs has; missing where a run has none such."""
    return pd.DataFrame([record["config"] for record in records])


def varying(settings: pd.DataFrame) -> list[str]:
    """The settings in which runs differ; one that only some runs have differs if these do."""
    return [str(name) for name in settings if settings[name].nunique() > 1]


# --- parts ------------------------------------------------------------------------------------------------


def by_label(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Label -> its runs, in the order of families and names."""
    return {str(label): part for label, part in runs.groupby("label", observed=True)} if len(runs) else {}


def panels(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Title -> the labels of these runs that stand in that one of `PANELS`."""
    families = runs.groupby("label", observed=True)["family"].first()
    return {
        title: [str(name) for name, family in families.items() if family in shown or name in (DENSE, FEDTINY)]
        for title, shown in PANELS.items()
    }


def densities(runs: pd.DataFrame) -> list[float]:
    """The densities asked for, largest first; the dense model has none."""
    return sorted(runs.loc[runs["label"] != DENSE, "density"].unique().tolist(), reverse=True) if len(runs) else []


def at_density(runs: pd.DataFrame, density: float) -> pd.DataFrame:
    """The runs at this density, and the dense ones, which stand beside any."""
    return runs[(runs["label"] == DENSE) | (runs["density"] == density)]


def each_density(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of `at_density` for every density one after the other; the index level `at` says for which.

    Raises ValueError if there are only dense runs, which have no density.
    """
    return pd.concat({density: at_density(runs, density) for density in densities(runs)}, names=["at"])


def by_setting(runs: pd.DataFrame, setting: str) -> dict[str, pd.DataFrame]:
    """Runs by density, largest first, the dense ones in each; or by the values of another setting, smallest first."""
    if setting == "density":
        return {f"density {density:g}": at_density(runs, density) for density in densities(runs)}
    return {f"{setting} {value:g}": part for value, part in runs.groupby(setting)}


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy: a row per run, a column per number of finished rounds that all of these runs reached."""
    return pd.DataFrame(runs["curve"].tolist(), index=runs.index).dropna(axis=1)


def alike(records: Iterable[Mapping]) -> dict[tuple[str, ...], pd.DataFrame]:
    """Runs that may stand in one figure, by the settings (`name=value`) in which they differ from what is usual.

    Usual is a setting's default, or where no run has that, or it is not known, the value that most runs have; so is
    what a run counts as that does not have the setting. Runs without a round, of a candidate taken unjudged, or
    scored on other images than the test images are left out.
    """
    kept = [r for r in records if r["rounds"] and r["config"].get("selection") != "fixed"]
    kept = [r for r in kept if r["config"].get("score_on", "test") == "test"]
    settings = settings_of(kept).drop(columns=list(_WITHIN), errors="ignore")
    runs, names = run_frame(kept), varying(settings)
    if not names:
        return {(): runs} if kept else {}
    usual = {name: _usual(settings[name], default) for name, default in _defaults(kept, names).items()}
    settings = settings[names].fillna(usual)
    odd = [tuple(f"{n}={row[n]}" for n in names if row[n] != usual[n]) for row in settings.to_dict("records")]
    return {key: runs[[found == key for found in odd]] for key in dict.fromkeys(odd)}


def _defaults(records: Iterable[Mapping], names: Iterable[str]) -> dict[str, object]:
    """The default of each of these settings; None for one of a method in a reader's file, which is not executed."""
    known, methods = defaults(Config), {record["config"]["method"] for record in records} & {*METHODS}
    if {*names} - known.keys():  # a method's file imports torch, which most figures do without
        for method in methods:
            known |= defaults(own_settings(method))
    return {name: known.get(name) for name in names}


def _usual(values: pd.Series, default: object) -> object:
    return default if (values == default).any() else values.mode().iloc[0]
