"""Numbers of one run, read from its record: accuracies, the weights that it held, and what a client spent."""

from collections.abc import Mapping, Sequence
from math import nan

from fedtiny_lite.report.labels import DENSE, run_label

BYTES, FLOPS = ("bytes_down", "bytes_up"), ("training_flops",)


def accuracies(record: Mapping) -> dict:
    """Final accuracies, NaN where there is none, and `curve`: test accuracy at the start and after each round."""
    final, entries = record["final"], (record["start"], *record["rounds"])
    return {
        "accuracy": final.get("test_accuracy", nan),
        "personal_accuracy": final.get("personal_accuracy", nan),
        "curve": [entry.get("test_accuracy", nan) for entry in entries],
    }


# --- weights ----------------------------------------------------------------------------------------------


def weights_held(record: Mapping) -> dict:
    """Shares of the budget that a client, or the server's model, held; and where a run went astray.

    `held_...`: weights of the fullest client. `server_held`: parameters of the last model, of what it may keep in all.
    `budget_used`: the fullest model of the server, at the start or after a round, of the budget.
    """
    model, rounds = record["model"], [entry["client_kept"] for entry in record["rounds"]]
    held = {
        "held_before": max((entry["client_kept"] for entry in record["prelude"]), default=0),
        "held_first": rounds[0] if rounds else nan,
        "held_most": max(rounds, default=nan),
        "held_last": rounds[-1] if rounds else nan,
    }
    shares = {name: count / model["budget"] for name, count in held.items()}
    more = {"server_held": _server_share(record), "budget_used": _budget_used(record)}
    return shares | more | {"above_budget": above_budget(record), "emptied": emptied(record)}


def _server_share(record: Mapping) -> float:
    model, density = record["model"], record["final"].get("model_density", nan)
    if density != density:
        return nan
    return round(density * model["parameters"]) / model["allowed"]  # bundles round the density to 7 digits


def _budget_used(record: Mapping) -> float:
    model = record["model"]
    allowed = model["budget"] / sum(model["prunable"].values())
    return max(entry["prunable_density"] for entry in (record["start"], *record["rounds"])) / allowed


def above_budget(record: Mapping) -> list[int]:
    """The rounds, from 1, in which a client held more weights than the budget; 0 stands for before training."""
    before = max((entry["client_kept"] for entry in record["prelude"]), default=0)
    held = (before, *(entry["client_kept"] for entry in record["rounds"]))
    return [r for r, count in enumerate(held) if count > record["model"]["budget"]]


def too_many_kept(record: Mapping) -> str:
    """A sentence on the last model of the server, if it keeps more prunable weights than the density allows; else "".

    What a method holds before that is its own affair: some begin dense. The dense reference is held to no density.
    """
    label, kept = run_label(record).label, sum(record["final"].get("kept", {}).values())
    allowed, density = record["model"]["budget"], record["config"]["density"]
    if label == DENSE or kept <= allowed:
        return ""
    return f"{label} keeps {kept:,} prunable weights at the end, where density {density:g} allows {allowed:,}"


def emptied(record: Mapping) -> list[str]:
    """The layers that kept no weight at the start or after any round; the network then passes nothing through them."""
    entries = (record["start"], *record["rounds"])
    return list(dict.fromkeys(name for entry in entries for name in entry.get("empty_layers", ())))


# --- costs ------------------------------------------------------------------------------------------------


def spent(record: Mapping) -> dict:
    """What a client that was asked spends: `..._a_round` on the mean, `..._before` training, `..._in_all`.

    "In all" is what precedes training and all rounds, divided by the rounds. Bytes are those of the packed messages.
    """
    clients = record["config"]["clients"]
    before = {what: _per_client(record["prelude"], what, clients) for what in (*BYTES, *FLOPS)}
    rounds = {what: _per_client(record["rounds"], what, clients) for what in (*BYTES, *FLOPS)}
    names = {"down": BYTES[:1], "up": BYTES[1:], "bytes": BYTES, "flops": FLOPS}
    found: dict[str, float] = {}
    for name, parts in names.items():
        earlier, later = (sum(sum(costs[part]) for part in parts) for costs in (before, rounds))
        count = len(record["rounds"]) or nan
        found |= {f"{name}_before": earlier, f"{name}_a_round": later / count}
        found |= {f"{name}_in_all": (earlier + later) / count}
    return found


def _per_client(entries: Sequence[Mapping], what: str, clients: int) -> list[float]:
    return [entry[what] / asked(entry, clients) for entry in entries]


def asked(entry: Mapping, clients: int) -> int:
    """The number of clients that were asked in an exchange; in a record that does not say, it was all of them."""
    return max(1, len(entry["asked"])) if "asked" in entry else clients


# --- data -------------------------------------------------------------------------------------------------


def split(record: Mapping) -> dict:
    """What tells one data set and one partition from another."""
    parts = ("fingerprint", "label_distance", "size_spread", "redraws")
    return {part: record.get("data", {}).get(part) for part in parts}
