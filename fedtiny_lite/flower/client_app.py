"""The Flower ClientApp: a client that answers from its own samples, whether simulated or on a device.

A SuperNode is told by its node config which client it is and where its samples are:

    client=3 folder="/home/pi/fedtiny"   a device: `samples.npz` in its folder, where it also keeps what it remembers
    partition-id=3                       a simulated node: its part of the data set, remembered in Flower's context
    data="/data"                         where data sets are, for a simulated node
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fedtiny_lite.config import load_method, make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.client import build_client
from fedtiny_lite.federated.memory import Memories
from fedtiny_lite.federated.personal import weigh_classes
from fedtiny_lite.federated.protocol import answer_question, exchange_at
from fedtiny_lite.federated.survey import answer_survey
from fedtiny_lite.federated.task import Task, task_from
from fedtiny_lite.flower.envelopes import enclosed, opened
from fedtiny_lite.flower.folders import SAMPLES, check_labels, read_split
from fedtiny_lite.simulation.setup import hand_out

torch.set_num_threads(1)  # sums in another order give other last bits
app = ClientApp()


@app.query("survey")
def survey(message: Message, context: Context) -> Message:
    """The client's number, its number of images and the sums of their pixels."""
    _, about = opened(message.content)
    reply = answer_survey(samples(context, about["config"]))
    return Message(enclosed(reply, client=number(context)), reply_to=message)


@app.train("exchange")
def exchange(message: Message, context: Context) -> Message:
    """The client's answer to an exchange of a method, from the memory that the server names."""
    question, about = opened(message.content)
    task = _task(about["task"])
    kept = recalled(context, task.config.run_id)
    memory = kept.recall(about["memory"])
    if memory is None:
        return Message(enclosed(b"", forgot=True), reply_to=message)
    split = samples(context, json.dumps(task.config.identity()))
    client = build_client(task, number(context), about["round"], checked(split, task), memory)
    found = answer_question(client, exchange_at(load_method(task.config.method), task.config, about["index"]), question)
    after = kept.remember(found.memory)
    retain(context, kept, (about["memory"], after))
    costs = dict(flops=found.flops, kept=found.kept, state_bytes=found.state_bytes)
    return Message(enclosed(found.reply, memory=after, trained_on=list(found.trained_on), **costs), reply_to=message)


@app.evaluate("weigh")
def weigh(message: Message, context: Context) -> Message:
    """The accuracies of the classes, weighed by how often the client has each."""
    question, about = opened(message.content)
    return Message(enclosed(weigh_classes(samples(context, about["config"]).labels, question)), reply_to=message)


@lru_cache(maxsize=2)
def _task(description: str) -> Task:
    told = json.loads(description)
    if not torch.cuda.is_available():
        told["config"]["torch_device"] = "cpu"
    return task_from(told)


def number(context: Context) -> int:
    """Which client this node is. Raises ValueError if its node config does not say."""
    for name in ("client", "partition-id"):
        if name in context.node_config:
            return int(context.node_config[name])
    raise ValueError("this SuperNode does not know which client it is: start it with --node-config 'client=0 folder=…'")


def samples(context: Context, config: str) -> Split:
    """The client's own samples: those in its folder, or its part of the data set that the settings name."""
    if "folder" in context.node_config:
        return read_split(Path(str(context.node_config["folder"])), SAMPLES)
    k, data = number(context), context.node_config.get("data")
    splits = hand_out(make_config({}, **json.loads(config)), data and Path(str(data))).splits
    if not 0 <= k < len(splits):
        raise ValueError(f"this SuperNode is client {k}, and the run has clients 0 to {len(splits) - 1}")
    return splits[k]


def checked(split: Split, task: Task) -> Split:
    """The same samples, on the device of the task.

    Raises ValueError for none, and for labels or a size of images that the task does not have.
    """
    check_labels(split, task.classes)
    if split.in_shape != task.in_shape:
        raise ValueError(f"its images are {list(split.in_shape)}, and those of the run {list(task.in_shape)}")
    return split.to(task.config.torch_device)


def recalled(context: Context, run_id: str) -> Memories:
    """What the client remembers of a run, before and after its last answer."""
    if "folder" in context.node_config:
        return Memories(Path(str(context.node_config["folder"])) / "memories" / run_id)
    kept = Memories()
    for array in context.state.array_records.get("memories", ArrayRecord()).values():
        kept.remember(array.numpy().tobytes())
    return kept


def retain(context: Context, kept: Memories, names: tuple[str, str]) -> None:
    """Keep these memories, and no other, until the next message."""
    kept.write(names)
    kept.keep(names)
    if kept.folder is None:
        arrays = {name: Array(np.frombuffer(kept.held[name], np.uint8)) for name in names}
        context.state["memories"] = ArrayRecord(arrays)
