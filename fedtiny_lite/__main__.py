"""The command line: `python -m fedtiny_lite run | sweep | notebooks | report | figures | export`."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fedtiny_lite.config import METHODS, PROFILES, Config, make_config, own_settings, parse_settings
from fedtiny_lite.experiments.plans import PLANS
from fedtiny_lite.experiments.study import SEEDS, STUDY, planned
from fedtiny_lite.own_files import FILE
from fedtiny_lite.settings import rules
from fedtiny_lite.simulation.stopping import exit_status

if TYPE_CHECKING:
    from fedtiny_lite.report.verdicts import Verdict


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if all went well, 1 for an error that is explained on standard error, 2 for bad usage, 130 for
    Ctrl-C.
    """
    options = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
    return exit_status(lambda: options.command(options))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; its help shows the settings of the method that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m fedtiny_lite", description="Federated pruning to tiny models.")
    commands = parser.add_subparsers(required=True, metavar="run | sweep | notebooks | report | figures | export")
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, default=Path("results"), help="folder of results (default: results)")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--profile", default="digits", help=f"settings to start from: {', '.join(PROFILES)}")
    _add_run(commands, [shared, out], _named_method(arguments))
    _add_sweep(commands, out)
    many = commands.add_parser(
        "notebooks", parents=[shared, out], help="run the notebooks, write figures and an HTML report"
    )
    many.add_argument("names", nargs="*", help="first characters of notebooks, such as 00 or 03 (default: all)")
    many.set_defaults(command=notebooks_command)
    report = commands.add_parser(
        "report", parents=[out], help="verdicts, figures and executed notebooks as pages, without running any"
    )
    report.add_argument("--readme", action="store_true", help="write the verdicts into README.md too")
    report.set_defaults(command=report_command)
    figures = commands.add_parser(
        "figures", parents=[out], help="draw the figures of the records below --out, without training"
    )
    figures.set_defaults(command=figures_command)
    _add_export(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # its name is not public


def _add_run(commands: Commands, shared: list[argparse.ArgumentParser], method: str | None) -> None:
    one = commands.add_parser(
        "run",
        parents=shared,
        help="one federated run; prints the path of its record as the last line",
        description="One federated run. It continues where it was interrupted; the last line is its record's path.",
        epilog=_settings_help(method),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("--method", help=f"one of {', '.join(METHODS)}, or {FILE}PATH (default: fedtiny)")
    one.add_argument("--seed", type=int, help="root of all randomness (default: 0)")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="key=value", help="settings, see below")
    one.set_defaults(command=run_command)


def _add_sweep(commands: Commands, out: argparse.ArgumentParser) -> None:
    sweep = commands.add_parser(
        "sweep", parents=[out], help="all runs of a named plan; prints the path of their bundle as the last line"
    )
    sweep.add_argument("plan", help=f"one of {', '.join([*PLANS, STUDY])}")
    sweep.add_argument("--processes", type=int, help="runs at a time (default: one per core)")
    sweep.add_argument("--finished", action="store_true", help="run nothing: bundle what has finished so far")
    sweep.add_argument("--go-on", action="store_true", help="leave out runs that the bundle holds, of any device")
    sweep.set_defaults(command=sweep_command)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser(
        "export",
        help="a finished run's model for a device; prints its sizes, and its path as the last line",
        description="The model.tiny of a finished run: its sizes, and other forms of it, written beside it.",
    )
    export.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder of the run, or its record.json")
    export.add_argument("--fold-bn", action="store_true", help="fold batch norm into the weights: model.folded.tiny")
    export.add_argument("--onnx", action="store_true", help="write the dense network, pruned weights as 0: model.onnx")
    export.set_defaults(command=export_command)


def _named_method(arguments: Sequence[str]) -> str | None:
    """The method after --method, if the arguments ask for help and name one."""
    if not {"-h", "--help"} & set(arguments):
        return None
    finder = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    finder.add_argument("--method")
    try:
        return finder.parse_known_args(arguments)[0].method
    except argparse.ArgumentError:  # the whole parser will say what is wrong
        return None


def _settings_help(method: str | None) -> str:
    """Every run's settings by group, then the method's own, or what is wrong with it; without one, how to see those."""
    lines = ["settings for --set, with the default of profile digits:"]
    for group, of_group in groupby(rules(Config), lambda rule: rule.metadata["group"]):
        lines += [f"\n{group}", *map(_setting_line, of_group)]
    how = "\nof one method: run --method NAME --help"
    if method is None:
        return "\n".join([*lines, how])
    try:
        own = [_setting_line(rule) for rule in rules(own_settings(method))]
    except ValueError as error:
        return "\n".join([*lines, how, f"\n{error}"])
    return "\n".join([*lines, f"\nof {method} alone", *(own or ["  none"])])


def _setting_line(rule: dataclasses.Field) -> str:
    choices = f" [{' | '.join(rule.metadata['choices'])}]" if rule.metadata["choices"] else ""
    return f"  {rule.name + '=' + str(rule.default):26} {rule.metadata['help']}{choices}"


def run_command(options: argparse.Namespace) -> int:
    """One run: its accuracy and density, then the path of its record."""
    from fedtiny_lite.report.measures import too_many_kept
    from fedtiny_lite.simulation.rounds import run

    named = {name: getattr(options, name) for name in ("method", "seed") if getattr(options, name) is not None}
    settings = parse_settings(options.set, options.method)
    for name in named.keys() & settings.keys():
        raise ValueError(f"--{name} {named[name]} and --set {name}={settings[name]} are both given; give one")
    config = make_config(options.profile, **settings, **named)
    record = run(config, options.out / "runs")
    final = record["final"]
    on = config.score_on
    engines = sorted({name for entry in record["rounds"] for name in entry.get("trained_on", ())})
    told = f", trained on the {' and '.join(engines)} engine" if engines else ""
    print(f"{on} accuracy {final[f'{on}_accuracy']:.4f}, model density {final['model_density']:.4f}{told}")
    if beyond := too_many_kept(record):
        print(beyond)
    if final["empty_layers"]:
        print(f"layers that keep nothing: {', '.join(final['empty_layers'])}")
    print(options.out / "runs" / record["run_id"] / "record.json")
    return 0


def sweep_command(options: argparse.Namespace) -> int:
    """What is left of a plan, then the path of what holds its results; finished runs are not repeated."""
    from fedtiny_lite.experiments.sweep import bundle_finished, run_plan

    if options.finished:
        path = bundle_finished(options.plan, options.out, options.go_on)
    elif options.plan == STUDY:
        path = study(options)
    else:
        path = run_plan(options.plan, options.out, options.processes, options.go_on)
    print(path)
    return 0


def study(options: argparse.Namespace) -> Path:
    """The runs of the study and the claims' numbers for each seed."""
    from fedtiny_lite.experiments.sweep import run_all
    from fedtiny_lite.report.study import write_numbers

    plans = {seed: planned(seed) for seed in SEEDS}
    configs = list(dict.fromkeys(config for of_seed in plans.values() for config in of_seed.values()))
    found = dict(zip(configs, run_all(configs, options.out / "runs", options.processes), strict=True))
    by_seed = {seed: {key: found[config] for key, config in of_seed.items()} for seed, of_seed in plans.items()}
    return write_numbers(options.out, by_seed)


def notebooks_command(options: argparse.Namespace) -> int:
    """Execute notebooks, then print the table of claims; 1 if a notebook failed or a claim missed its band."""
    from fedtiny_lite.experiments.notebook_runner import find_notebooks, run_notebooks
    from fedtiny_lite.records.claims import claims_table, load_claims
    from fedtiny_lite.report.verdicts import verdicts

    make_config(options.profile)
    runs = run_notebooks(find_notebooks(options.names), options.profile, options.out)
    names = [run.name for run in runs]
    print(claims_table(options.out, names))
    print(_write_report(options.out, verdicts(options.out)))
    missed = any(row["ok"] is False for row in load_claims(options.out, names))
    return int(missed or any(run.error for run in runs))


def report_command(options: argparse.Namespace) -> int:
    """A line per verdict, then the path of the report; no notebook is run."""
    from fedtiny_lite.report.readme import write_readme
    from fedtiny_lite.report.verdicts import verdicts

    found = verdicts(options.out)
    for row in found:
        print(f"{row.claim}\n  {row.decisive.outcome} ({row.decisive.where}): {row.decisive.numbers}")
    if options.readme:
        write_readme(found)
    print(_write_report(options.out, found))
    return 0


def _write_report(out: Path, found: "Sequence[Verdict]") -> Path:
    """The path of the report, with these verdicts on its first page."""
    from fedtiny_lite.plots.verdicts import CAPTION, verdicts_figure
    from fedtiny_lite.report.pages.site import write_site

    return write_site(out, found, verdicts_figure(found), CAPTION)


def figures_command(options: argparse.Namespace) -> int:
    """Accuracy over rounds and over density of every finished run below `out`; which runs keep more than allowed."""
    from fedtiny_lite.plots.runs import save_run_figures
    from fedtiny_lite.records.schema import load_records
    from fedtiny_lite.report.measures import too_many_kept

    records = load_records(options.out)
    paths = save_run_figures(records, options.out / "figures")
    if not paths:
        raise ValueError(f"{options.out} holds no finished run; make one with: python -m fedtiny_lite run")
    for record in records:
        if beyond := too_many_kept(record):
            print(f"{record['run_id']}: {beyond}", file=sys.stderr)
    print(*paths, sep="\n")
    return 0


def export_command(options: argparse.Namespace) -> int:
    """The sizes of a run's model in the form that was asked for, then the path of what was written last."""
    from fedtiny_lite.export.tiny_model import export_onnx, fold_bn, load_tiny, save_tiny

    folder = options.run.parent if options.run.name == "record.json" else options.run
    path = folder / "model.tiny"
    if not path.exists():
        raise ValueError(
            f"{folder} holds no model.tiny, which a run leaves there when it is finished, unless its network is in a "
            "file of your own; finish it, or, if it has a record.json already, delete that and run it again"
        )
    tiny = load_tiny(path)
    if options.fold_bn:
        tiny = fold_bn(tiny)
        path = save_tiny(folder / "model.folded.tiny", tiny)
    print(f"{path.name}: {path.stat().st_size:,} bytes; counted {tiny.counted_bytes:,}")
    print(f"dense float32: {tiny.dense_bytes:,} bytes")
    if options.onnx:
        path = export_onnx(tiny, folder / "model.onnx")
        print(f"{path.name}, dense: {path.stat().st_size:,} bytes")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
