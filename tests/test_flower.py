"""On Flower a run leaves the same record, bit for bit: on nodes in this process, and on real SuperNodes over loopback.

Here `Nodes` stands in for Flower's simulation engine, which needs Ray (225 MB): it hands Flower's messages to the
ClientApp.
"""

import functools
import io
import itertools
import json
import shlex
from collections import Counter, namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.config import parse_config_args
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedtiny_lite.config import METHODS, make_config, parse_settings
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.federated.protocol import Heard, Lost
from fedtiny_lite.flower import client_app, keys, loopback, server_app, simulated
from fedtiny_lite.flower.envelopes import EXCHANGE, SURVEY, enclosed, opened
from fedtiny_lite.flower.folders import SAMPLES, hand_over, read_holdings, read_split, write_split
from fedtiny_lite.flower.keys import make_keys
from fedtiny_lite.flower.loopback import Loopback
from fedtiny_lite.flower.place import OnFlower, read_answer
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.simulation.places import FORGOT
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import hand_out, resolved
from tests.helpers import Stop, four_clients

Described = namedtuple("Described", ("classes", "in_shape"))
"""What a client checks its samples against, of a task."""
EVENTFUL = {"fl_pqsu": dict(lr=0.3), "lotteryfl": dict(lottery_accuracy=0.15)}
CLIENTS = 4


def tiny(method="fedtiny", **settings):
    return four_clients(method=method, **dict(rounds=3, adjust_until=3) | EVENTFUL.get(method, {}) | settings)


TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1  # as Flower does before it runs a ServerApp


def _saved(array: np.ndarray, save=np.save) -> bytes:
    stream = io.BytesIO()
    save(stream, array)
    return stream.getvalue()


def _black(labels, side: int) -> Split:
    return Split(torch.zeros(len(labels), 1, side, side, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64))


@functools.cache
def in_process(method: str) -> bytes:
    return schema.canonical(run(tiny(method)))


class Nodes(Grid):
    """Flower's nodes in this process, each with a number of its own, a node config and a context that lasts.

    `change`: what happens to (client, question, its answer); None = the node never answers.
    """

    def __init__(self, configs: dict[int, dict], change=lambda k, question, answer: answer):
        self.configs = {100 + k: config for k, config in configs.items()}
        self.contexts = {node: Context(1, node, config, RecordDict(), {}) for node, config in self.configs.items()}
        self.change, self.answers, self.numbers, self.sent = change, {}, itertools.count(), []

    def set_run(self, run):
        raise NotImplementedError

    run = property()

    def create_message(self, *_, **__):
        raise NotImplementedError

    def send_and_receive(self, *_, **__):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = str(next(self.numbers))
            node = message.metadata.dst_node_id
            names.append(name)
            self.sent.append(message)
            answer = self.change(node - 100, message, self._answer(message, node))
            if answer is not None:
                self.answers[name] = answer
        return names

    def _answer(self, message, node):
        try:
            return client_app.app(message=message, context=self.contexts[node])
        except Exception as error:  # as Flower does it
            return Message(Error(code=2, reason=repr(error)), reply_to=message)

    def pull_messages(self, names):
        return [self.answers.pop(name) for name in reversed(list(names)) if name in self.answers]  # the last one first


def partitioned(config) -> dict[int, dict]:
    """As Flower's simulation tells its nodes."""
    return {k: {"partition-id": k, "num-partitions": config.clients} for k in range(config.clients)}


def on_nodes(config, nodes: Nodes, out=None, on_round=None, **options):
    return run(config, out, on_round, OnFlower(nodes, config, hand_out(config), **options))


# --- equal records ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_the_same_record_on_flower(method):
    nodes = Nodes(partitioned(tiny(method)))
    assert schema.canonical(on_nodes(tiny(method), nodes)) == in_process(method)
    assert {message.metadata.message_type for message in nodes.sent} >= {SURVEY, EXCHANGE}


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "feddst"])
def test_devices_with_folders_of_their_own_leave_it_too(method, tmp_path):
    """The server holds no client's samples; the clients' memories are files in their folders."""
    config = tiny(method)
    hand_over(config, tmp_path)
    dataset, holdings = read_holdings(tmp_path / "server", "cpu")
    assert dataset == config.dataset
    assert holdings.splits == ()
    nodes = Nodes({k: {"client": k, "folder": str(tmp_path / f"client{k}")} for k in range(CLIENTS)})
    record = run(config, tmp_path / "runs", place=OnFlower(nodes, config, holdings))
    assert schema.canonical(record) == in_process(method)
    for k in range(CLIENTS):
        assert 1 <= len(list((tmp_path / f"client{k}" / "memories" / config.run_id).iterdir())) <= 2


def test_the_server_app_reads_its_run_config(tmp_path, capsys):
    config = tiny(rounds=1)
    settings = " ".join(f"{name}={value}" for name, value in config.identity().items())
    own = {"profile": "digits", "settings": settings, "out": str(tmp_path), "holdings": ""}
    own |= {"min-clients": 0, "wait": 60.0, "round-timeout": 0.0}
    server_app.app(Nodes(partitioned(config)), Context(1, 0, {}, RecordDict(), own))
    path = Path(capsys.readouterr().out.split()[-1])
    assert path == tmp_path / "runs" / config.run_id / "record.json"
    assert schema.canonical(schema.read_record(path)) == schema.canonical(run(config))


def test_runs_on_images_of_ones_own_are_other_runs_if_these_are_others(tmp_path):
    """The record names the data after the server's images, so that those of digits are never taken for them."""
    config = tiny(rounds=1)
    hand_over(config, tmp_path)
    server, names = tmp_path / "server", []
    for missing in (None, "dataset", "summary"):
        told = read_json(server / "server.json")
        told.pop(missing, None)
        write_json(server / "server.json", told)
        names.append(server_app.holdings(config, str(server))[0])
    write_split(server, "test", _black([0, 1], 8))
    names.append(server_app.holdings(config, str(server))[0])
    assert names[0] == config and names[1] == names[2] and len({name.run_id for name in names}) == 3
    assert {name.dataset[:8] for name in names[1:]} == {"devices-"}


def test_a_record_lies_where_the_server_puts_it_whose_device_is_auto(tmp_path):
    auto, cpu = tiny(torch_device="auto"), resolved(tiny(torch_device="auto"))
    assert Loopback(auto, tmp_path).record_of(auto) == tmp_path / "runs" / cpu.run_id / "record.json"


def test_fewer_clients_a_round_are_asked_alone():
    config = tiny(clients_per_round=2)
    nodes = Nodes(partitioned(config))
    record = on_nodes(config, nodes)
    assert schema.canonical(record) == schema.canonical(run(config))
    trained = [m for m in nodes.sent if m.metadata.message_type == EXCHANGE and m.metadata.group_id == "2"]
    assert sorted(m.metadata.dst_node_id - 100 for m in trained) == record["rounds"][2]["asked"]


# --- faults -----------------------------------------------------------------------------------------------


def round_of(message) -> int | None:
    return opened(message.content)[1]["round"] if message.metadata.message_type == EXCHANGE else None


@pytest.mark.parametrize("kind", ["never answers", "raises", "leaves"])
def test_the_round_closes_without_a_client_that_is_lost(kind):
    config = tiny("magnitude")

    def change(k, question, answer):
        if (k, round_of(question)) != (1, 1):
            return answer
        return None if kind == "never answers" else Message(Error(2, "killed"), reply_to=question)

    def leave(entry, state):
        if kind == "leaves" and entry["round"] == 0:
            del nodes.contexts[101]

    nodes = Nodes(partitioned(config), change if kind != "leaves" else lambda k, question, answer: answer)
    record = on_nodes(config, nodes, on_round=leave, timeout=0.3)
    reason = {"never answers": "no answer within 0.3 s", "raises": "Flower says: killed"}.get(kind, "not connected")
    assert record["complete"] and reason in record["rounds"][1]["lost"]["1"]
    assert record["rounds"][1]["asked"] == [0, 1, 2, 3] and record["rounds"][1]["rejected_clients"] == []
    assert ["lost" in entry for entry in record["rounds"]] == [False, True, kind == "leaves"]


def test_too_few_answers_stop_the_run_which_goes_on_when_the_clients_are_back(tmp_path):
    config = tiny(min_replies=3)
    gone = Nodes(partitioned(config), lambda k, question, answer: None if k < 2 and round_of(question) == 1 else answer)
    with pytest.raises(
        FloatingPointError, match=r"^2 of 4 replies did not come \(client 0: no answer within 0\.3 s; [^;]*\)$"
    ):
        on_nodes(config, gone, tmp_path, timeout=0.3)
    gone.change = lambda k, question, answer: answer
    assert schema.canonical(on_nodes(config, gone, tmp_path)) == in_process("fedtiny")


def test_a_client_that_comes_back_as_another_node_is_found(tmp_path):
    """With its folder it is the same client and remembers; the round in which it was gone was closed without it."""
    config = tiny("lotteryfl")
    hand_over(config, tmp_path)
    nodes = Nodes({k: {"client": k, "folder": str(tmp_path / f"client{k}")} for k in range(CLIENTS)})

    def leave_and_return(entry, state):
        if entry["round"] == 0:
            del nodes.contexts[101]
        if entry["round"] == 1:
            told = {"client": 1, "folder": str(tmp_path / "client1")}
            nodes.contexts[101 + 900] = Context(1, 1001, told, RecordDict(), {})

    record = on_nodes(config, nodes, on_round=leave_and_return)
    assert [list(entry.get("lost", {})) for entry in record["rounds"]] == [[], ["1"], []]
    assert all(entry["rejected_clients"] == [] for entry in record["rounds"])


def test_a_client_that_comes_back_under_the_same_number_is_asked_again(tmp_path):
    """Flower takes a device that misses a heartbeat for gone, and gives it its old number when it is heard again."""
    config = tiny("magnitude")
    nodes, away = Nodes(partitioned(config)), {}

    def leave_and_return(entry, state):
        if entry["round"] == 0:
            away[101] = nodes.contexts.pop(101)
        if entry["round"] == 1:
            nodes.contexts |= away

    record = on_nodes(config, nodes, on_round=leave_and_return)
    assert [entry.get("lost", {}) for entry in record["rounds"]] == [{}, {"1": "it is not connected"}, {}]


def test_a_client_whose_answer_to_the_survey_is_lost_is_asked_who_it_is_once_more():
    config, asked = tiny("magnitude"), Counter()

    def change(k, question, answer):
        asked[k] += question.metadata.message_type == SURVEY
        return None if k == 1 and asked[k] == 1 and question.metadata.message_type == SURVEY else answer

    record = on_nodes(config, Nodes(partitioned(config), change), timeout=0.3, wait=10)
    assert schema.canonical(record) == in_process("magnitude")
    assert [asked[k] for k in range(CLIENTS)] == [1, 2, 1, 1]


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl"])
def test_a_run_goes_on_with_other_clients_than_it_began_with(method, tmp_path):
    """Three of four are there at first, and the fourth joins after round 0. A server that is stopped then surveys all
    four, and goes on with the statistics of the three.
    """
    config = tiny(method)
    everyone = partitioned(config)
    few = {k: told for k, told in everyone.items() if k < 3}

    def begun(nodes, out=None):
        def join(entry, state):
            if entry["round"] == 0:
                nodes.contexts |= Nodes({3: everyone[3]}).contexts

        return on_nodes(config, nodes, out, join, clients=3)

    def stop(k, question, answer):
        if round_of(question) == 1:
            raise Stop
        return answer

    whole = begun(Nodes(few))
    assert whole["complete"] and whole["data"] != run(config)["data"]
    nodes = Nodes(few, stop)
    with pytest.raises(Stop):
        begun(nodes, tmp_path)
    nodes.change = lambda k, question, answer: answer
    assert schema.canonical(on_nodes(config, nodes, tmp_path)) == schema.canonical(whole)


def test_an_answer_that_comes_late_or_twice_changes_nothing():
    """The answer of round 0 comes again with that of round 1, and counts for neither round 1 nor client."""
    config, old = tiny("magnitude"), {}

    def change(k, question, answer):
        if round_of(question) == 0:
            old[k] = answer
        if round_of(question) == 1:
            nodes.answers["late"] = old[k]
        return answer

    nodes = Nodes(partitioned(config), change)
    pull = nodes.pull_messages
    nodes.pull_messages = lambda names: [nodes.answers.pop(n) for n in ["late"] if n in nodes.answers] + 2 * pull(names)
    nodes.pull_messages = lambda names: [*pull(["late"]), *(found := pull(names)), *found]
    assert schema.canonical(on_nodes(config, nodes)) == in_process("magnitude")


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "fl_pqsu"])
def test_who_does_not_answer_is_asked_once_more(method, monkeypatch):
    """Of each exchange, client 1's first answer never comes; a repeated question changes nothing that it remembers."""
    monkeypatch.setattr("fedtiny_lite.flower.place.GRACE", 0)
    config, asked = tiny(method), Counter()

    def change(k, question, answer):
        what = question.metadata.message_type, opened(question.content)[1].get("index"), round_of(question), k
        asked[what] += 1
        return None if k == 1 and asked[what] == 1 else answer

    assert schema.canonical(on_nodes(config, Nodes(partitioned(config), change), timeout=60)) == in_process(method)
    assert {k: {times for (*_, client), times in asked.items() if client == k} for k in range(CLIENTS)} == {
        0: {1}, 1: {2}, 2: {1}, 3: {1},
    }  # fmt: skip


def test_an_answer_that_is_held_back_until_the_next_message_counts(monkeypatch):
    """As a SuperNode does after a restart of the SuperLink: each answer of client 1 comes one message late."""
    monkeypatch.setattr("fedtiny_lite.flower.place.GRACE", 0)
    nodes, held = Nodes(partitioned(tiny("lotteryfl"))), {}
    push = nodes.push_messages

    def hold(messages):
        names = push(messages)
        for name, message in zip(names, messages, strict=True):
            if message.metadata.dst_node_id == 101:
                nodes.answers |= held
                held.clear()
                held[name] = nodes.answers.pop(name)
        return names

    nodes.push_messages = hold
    assert schema.canonical(on_nodes(tiny("lotteryfl"), nodes, timeout=60)) == in_process("lotteryfl")


@pytest.mark.parametrize(("slow", "asked"), [(59, 1), (66, 2), (1000, 2)])
def test_who_is_slower_than_all_others_is_asked_once_more(slow, asked, monkeypatch):
    """One client answers after 10 s, the other after `slow` s. The latter is asked again after 30 + 3 x 10 = 60 s."""
    seconds, sent = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: seconds[0], sleep=lambda _: seconds.append(seconds.pop() + 1))
    monkeypatch.setattr("fedtiny_lite.flower.place.time", clock)

    def push(messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(len(sent))
            sent.append(message)
        return [message.metadata.message_id for message in messages]

    def pull(names):
        due = [sent[int(name)] for name in names if seconds[0] >= {"0": 10, "1": slow}.get(name, float("inf"))]
        return [Message(message.content, reply_to=message) for message in due]

    place = OnFlower(SimpleNamespace(push_messages=push, pull_messages=pull), tiny(), None)
    found = dict(place._send(EXCHANGE, {100: enclosed(b"a"), 101: enclosed(b"b")}, "0"))
    assert found == {100: (b"a", {}), 101: (b"b", {})}
    assert [message.metadata.dst_node_id for message in sent] == [100, 101, 101][: 1 + asked]


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "fl_pqsu"])
def test_a_server_that_is_stopped_and_resumed_leaves_the_same_record(method, tmp_path):
    """After the clients answered round 2 and before the server could note it, under the same and under new contexts."""
    config = tiny(method)
    hand_over(config, tmp_path)
    told = {k: {"client": k, "folder": str(tmp_path / f"client{k}")} for k in range(CLIENTS)}

    def stop(k, question, answer):
        if round_of(question) == 2 and k == CLIENTS - 1:
            raise Stop
        return answer

    with pytest.raises(Stop):
        on_nodes(config, Nodes(told, stop), tmp_path / "runs")
    assert schema.canonical(on_nodes(config, Nodes(told), tmp_path / "runs")) == in_process(method)


def test_a_run_waits_for_clients_and_says_how_many_came():
    config = tiny("magnitude")
    nodes = Nodes({k: told for k, told in partitioned(config).items() if k < 3})
    with pytest.raises(RuntimeError, match=r"3 of 4 clients came within 0\.2 s"):
        on_nodes(config, nodes, wait=0.2)
    record = on_nodes(config, nodes, clients=3)
    assert record["complete"] and record["prelude"][0]["lost"] == {"3": "not there"}
    assert all(entry["lost"] == {"3": "it is not connected"} for entry in record["rounds"])


def test_two_nodes_that_are_the_same_client_are_one(capsys):
    config = tiny("magnitude")
    nodes = Nodes(partitioned(config) | {7: {"partition-id": 1}, 8: {"partition-id": 99}})
    assert schema.canonical(on_nodes(config, nodes)) == in_process("magnitude")
    told = capsys.readouterr().out
    assert told.count("says that it is client 1, which is taken") == 1
    assert told.count("this SuperNode is client 99, and the run has clients 0 to 3") == 1


# --- what is not trusted ----------------------------------------------------------------------------------


def test_a_message_is_bytes_and_plain_values_and_nothing_else():
    content = enclosed(b"question", memory="0a", round=-1)
    assert opened(content) == (b"question", {"memory": "0a", "round": -1})
    assert opened(enclosed(b""))[0] == b""
    for wrong in (RecordDict(), RecordDict({"about": ConfigRecord({})}), RecordDict({"message": ConfigRecord({})})):
        with pytest.raises(ValueError, match="a Flower message without"):
            opened(wrong)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        _saved(np.zeros((2, 2), np.uint8)),
        _saved(np.zeros(2)),
        _saved(np.zeros(4, np.uint8))[:-2],
        _saved(np.zeros(2, np.uint8)).replace(b"(2,)", b"(2,(").replace(b"}", b" "),
        _saved(np.zeros(2, np.uint8)).replace(b"(2,), }        ", b"(9000000000000,"),
        _saved(np.zeros(2, np.uint8), np.savez),
    ],
    ids=["empty", "nonsense", "matrix", "floats", "short", "header", "huge", "npz"],
)
def test_bytes_that_are_no_array_are_a_lost_answer(data):
    array = ArrayRecord({"0": Array("uint8", (2,), "numpy.ndarray", data)})
    with pytest.raises(ValueError, match="a Flower message"):
        opened(RecordDict({"message": array, "about": ConfigRecord({})}))


def test_what_a_node_says_about_its_answer_is_checked():
    right = dict(memory="0a", trained_on=["dense"], flops=1, kept=2, state_bytes=3)
    assert read_answer(b"reply", right) == Heard(b"reply", "0a", 1, 2, 3, ("dense",))
    assert read_answer(b"", {"forgot": True}) is FORGOT
    for name, values in {
        "memory": (None, 3, "x" * 65),
        "trained_on": (None, "dense"),
        "flops": (-1, 1.5, None, 2**70),
        "kept": ("2", True),
        "state_bytes": (None,),
    }.items():
        for value in values:
            assert isinstance(read_answer(b"reply", right | {name: value}), Lost), (name, value)


def test_a_device_without_samples_or_with_strange_ones_is_named(tmp_path):
    write_split(tmp_path, SAMPLES, Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])))
    assert len(read_split(tmp_path, SAMPLES)) == 3
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        client_app.checked(read_split(tmp_path, SAMPLES), Described(2, (1, 8, 8)))
    with pytest.raises(ValueError, match=r"its images are \[1, 8, 8\], and those of the run \[1, 16, 16\]"):
        client_app.checked(read_split(tmp_path, SAMPLES), Described(3, (1, 16, 16)))
    on_meta = SimpleNamespace(classes=3, in_shape=(1, 8, 8), config=SimpleNamespace(torch_device="meta"))
    assert client_app.checked(read_split(tmp_path, SAMPLES), on_meta).images.is_meta
    np.savez(tmp_path / "samples.npz", images=np.zeros((3, 8, 8)), labels=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match=r"samples\.npz: images must be uint8 .*it must hold images"):
        read_split(tmp_path, SAMPLES)
    np.savez(tmp_path / "samples.npz", images=np.zeros((3, 1, 8, 8), np.uint8), labels=np.array(["a", "b", "c"]))
    whole = (tmp_path / "samples.npz").read_bytes()
    for wrong in (b"PK nonsense", whole, whole[:-50], whole[:90] + b"?" + whole[91:], _saved(np.zeros(3))):
        (tmp_path / "samples.npz").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"samples\.npz: .*it must hold images"):
            read_split(tmp_path, SAMPLES)
    (tmp_path / "server.json").write_text("[]")
    with pytest.raises(ValueError, match="must name the classes"):
        read_holdings(tmp_path, "cpu")
    with pytest.raises(ValueError, match="which client it is"):
        client_app.number(Context(1, 1, {}, RecordDict(), {}))


def test_what_the_servers_folder_must_hold(tmp_path):
    def folder(labels=(0, 1), test_labels=(1,), side=8, **told):
        write_split(tmp_path, "public", _black(labels, 8))
        write_split(tmp_path, "test", _black(test_labels, side))
        write_json(tmp_path / "server.json", {"classes": ["cat", "dog"]} | told)
        return tmp_path

    dataset, holdings = read_holdings(folder(), "cpu")
    fingerprint = holdings.summary.pop("fingerprint")
    assert dataset == f"devices-{fingerprint}" and holdings.summary == {"public_images": 2, "test_images": 1}
    assert read_holdings(folder(summary={"a": 1}, dataset="digits"), "cpu")[0] == "digits"
    assert read_holdings(folder(summary={"a": 1}), "cpu")[1].summary == {"a": 1}
    assert read_holdings(folder(), "meta")[1].test.images.is_meta
    for wrong, said in (
        ({"labels": (0, 2)}, r"public\.npz: there must be samples, with labels from 0 to 1"),
        ({"test_labels": (-100,)}, r"test\.npz: there must be samples, with labels from 0 to 1"),
        ({"classes": []}, r"public\.npz: there must be samples, with labels"),
        ({"side": 16}, r"images of public are \[1, 8, 8\], of test \[1, 16, 16\]"),
        ({"summary": "two"}, r"server\.json: its summary must be an object"),
    ):
        with pytest.raises(ValueError, match=said):
            read_holdings(folder(**wrong), "cpu")


def test_what_leaves_a_device_is_the_reply_and_a_few_values(tmp_path):
    """No image, no label, no memory."""
    config = tiny()
    replies = []

    def note(k, question, answer):
        replies.append(answer)
        return answer

    nodes = Nodes(partitioned(config), note)
    on_nodes(config, nodes)
    surveys = [message for message in nodes.sent if message.metadata.message_type == SURVEY]
    told = [json.loads(opened(message.content)[1]["config"]) for message in surveys]
    assert told == [{k: v for k, v in config.identity().items() if k != "torch_device"}] * CLIENTS
    for reply in replies:
        data, about = opened(reply.content)
        assert about.keys() in ({"client"}, {"memory", "trained_on", "flops", "kept", "state_bytes"})
        assert len(json.dumps(about)) < 200 and unpack(data).tensors.keys().isdisjoint({"images", "labels", "pool"})


# --- the command lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my images", "it's", 'a"b', "back\\slash", "größe"])
def test_settings_reach_the_server_as_they_are(name, tmp_path):
    """Whatever a path holds; those too that change no result."""
    config = tiny(dataset=f"folder:/{name}", min_replies=3)
    told = parse_config_args([Loopback(config, tmp_path / name)._run(config, 1.5)[-1]])
    assert make_config({}, **parse_settings(shlex.split(told["settings"]))) == config
    assert told["round-timeout"] == 1.5 and told["out"] == str(tmp_path / name)


@pytest.mark.parametrize("main", [loopback.main, simulated.main])
def test_a_mistyped_setting_is_one_line(main, tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--set", "lrr=1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: lrr is not a setting; did you mean lr?")


def test_a_demonstration_takes_any_method(tmp_path, capsys, monkeypatch):
    """Settings of the demonstration that another method lacks are left out."""
    monkeypatch.setattr(loopback, "Loopback", lambda config, *_: pytest.fail(f"begun with {config.method}"))
    with pytest.raises(pytest.fail.Exception, match="begun with magnitude"):
        loopback.main(["--out", str(tmp_path), "--set", "method=magnitude"])


def test_keys_are_of_one_host_and_of_some_days(tmp_path, monkeypatch):
    made = make_keys(tmp_path / "secrets", 1, "server.example")
    assert (make_keys(made, 1, "SERVER.example", first=1) / "client1").exists()  # a device more
    assert (make_keys(made, 1, first=2) / "client2").exists()
    with pytest.raises(ValueError, match=r"server\.pem is of server\.example, localhost, not of 127\.0\.0\.1: give "):
        make_keys(made, 1, "127.0.0.1")
    monkeypatch.setattr(keys, "DAYS", -1e-3)  # they ended a minute ago
    expired = make_keys(tmp_path / "old", 1)
    with pytest.raises(ValueError, match=r"server\.pem has expired on 20.*: give another folder"):
        make_keys(expired, 1)
    assert keys.main([str(expired)]) == 1
