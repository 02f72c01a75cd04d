"""What a checkpoint and its history hold, checked as a reply is: they may be of a program that is not this one."""

from collections.abc import Collection, Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.federated.checks import inspect, model_values, numbers, read_whole_mask, whole_number
from fedtiny_lite.federated.ledger import Ledger, first_versions
from fedtiny_lite.federated.messages import Message, decode_state, unpack
from fedtiny_lite.federated.state import State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.schema import is_record
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.scoring import MAXIMA, TOTALS

LEDGER = {"versions": dict, "held": int, "samples": int, "memories": str}
"""The parts of a ledger, and of which kind their values are."""


def at_start(config: Config, layers: Iterable[str]) -> Ledger:
    """The ledger from which a history begins: no client has said anything."""
    return Ledger(first_versions(load_method(config.method), config.clients, layers), {}, {}, {})


def read_progress(message: Message, parts: list[Message], task: Task) -> Progress:
    """The progress in a checkpoint and its history. Raises ValueError for what no `checkpoint.save` has written."""
    tensors, method = message.tensors, load_method(task.config.method)
    missing = {"weights", "mask", "extra"} - tensors.keys()
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    mask = read_whole_mask(task, tensors["mask"])
    model_values(task, mask)(tensors["weights"])
    extra = unpack(_as_bytes(tensors["extra"])).tensors
    declared = method.extra(task, mask)
    inspect(Message({}, {name: tensor for name, tensor in extra.items() if name in declared}), declared)
    of_clients = _read_of_clients(parts, task)
    for of_one in of_clients.values():
        inspect(Message({}, of_one), method.of_client(task, mask))
    state = State(decode_state(tensors["weights"], mask, task.state_shapes), mask, extra, of_clients)
    return Progress(state, _read_ledger(parts, task))


def _read_of_clients(parts: list[Message], task: Task) -> dict[int, dict[str, Tensor]]:
    """What the server keeps of each client: of several rounds that exchanged it, the last one's."""
    found: dict[int, dict[str, Tensor]] = {}
    for part in parts:
        of_round: dict[int, dict[str, Tensor]] = {}
        for named, tensor in part.tensors.items():
            number, _, name = named.partition(".")
            if not (number.isdecimal() and int(number) < task.config.clients):
                raise ValueError(f"it has a tensor of no client: {named[:100]}")
            of_round.setdefault(int(number), {})[name] = tensor
        found |= of_round
    return found


def record_so_far(parts: list[Message], config: Config) -> dict[str, Any]:
    """The record so far. Raises ValueError if it is none, or lacks what a finished run sums up."""
    record = as_mapping(parts[0].meta.get("record") if parts else None)
    record["rounds"] = []
    for part in parts:
        match part.meta.get("rounds"):
            case [*entries]:
                record["rounds"] += entries
            case _:
                raise ValueError("its history has a file without rounds")
    prelude = record.get("prelude")
    unfinished = is_record(record) and not record["complete"] and len(record["rounds"]) <= config.rounds
    if not (unfinished and isinstance(prelude, list)):
        raise ValueError("it holds no record of an unfinished run")
    last = (record["rounds"] or [record.get("start")])[-1]
    for entry in (*prelude, *record["rounds"]):
        missing = {*TOTALS, *MAXIMA} - as_mapping(entry).keys()
        if missing:
            raise ValueError(f"its record has an entry without {', '.join(sorted(missing))}")
    if not as_mapping(record.get("start")).keys() <= {"round"} | as_mapping(last).keys():
        raise ValueError("its record has an entry without scores")
    return record


def read_pixels(record: Mapping[str, Any], channels: int) -> Normalisation:
    """The statistics of pixels in a record. Raises ValueError unless each channel has a mean and a spread above 0."""
    told = as_mapping(as_mapping(record.get("data")).get("pixels"))
    mean, std = (_per_channel(told.get(name), channels) for name in ("mean", "std"))
    if min(std) <= 0:
        raise ValueError(f"its pixels have a spread of {min(std)}")
    return Normalisation(mean, std)


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    whole = isinstance(values, list) and len(values) == channels
    if not whole or not all(isinstance(value, float) and isfinite(value) for value in values):
        raise ValueError(f"its pixels have {str(values)[:100]} in place of a number for each channel")
    return tuple(values)


def _read_ledger(parts: list[Message], task: Task) -> Ledger:
    ledger = at_start(task.config, task.mask_shapes)
    lineages, clients = set(ledger.versions), range(task.config.clients)
    for part in parts:
        changes = as_mapping(part.meta.get("ledger"))
        for name, kind in LEDGER.items():
            _apply(getattr(ledger, name), changes.get(name), lineages if name == "versions" else clients, kind)
    if ledger.versions.keys() != lineages:
        raise ValueError("its ledger has lost the versions of a mask")
    for of_one in ledger.versions.values():
        if of_one.keys() != task.mask_shapes.keys():
            raise ValueError(f"its ledger has versions of {sorted(of_one)}, not of {sorted(task.mask_shapes)}")
        for layer in of_one:
            whole_number(of_one, layer, low=1)
    return ledger


def _apply(known: dict[Any, Any], changes: Any, keys: Collection[Any], kind: type) -> None:
    """Bring `known` up to date by `_changes`. Raises ValueError for what no `_changes` of these keys can be."""
    for pair in changes if isinstance(changes, list) else [changes]:
        match pair:
            case [int() | str() as key, value] if key in keys and isinstance(value, kind):
                known[key] = value
            case [int() | str() as key, None] if key in known:
                del known[key]
            case _:
                raise ValueError(f"its ledger has an entry of no client: {str(pair)[:100]}")


def as_mapping(value: Any) -> dict[str, Any]:
    """The same value. Raises ValueError unless it has names."""
    if not isinstance(value, dict):
        raise ValueError(f"it has {str(value)[:100]} in place of named values")
    return value


def _as_bytes(tensor: Tensor) -> bytes:
    numbers(len(tensor.flatten()), dtype=torch.uint8)(tensor)
    return tensor.numpy().tobytes()
