import builtins
import itertools
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedtiny_lite.config import make_config
from fedtiny_lite.data import datasets
from fedtiny_lite.federated.ledger import SHARED, Ledger
from fedtiny_lite.federated.memory import Memories
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import checkpoint, reading, rounds
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, interrupted

CONFIG = four_clients()


@pytest.fixture
def saved(tmp_path):
    """An interrupted run: its folder and the state it had."""
    state = interrupted(CONFIG, tmp_path)
    return tmp_path / CONFIG.run_id, state


def test_without_a_checkpoint_there_is_nothing_to_continue(tmp_path, server):
    assert checkpoint.load(tmp_path / "none", CONFIG, server.task) is None


def _put_images(folder, grey):
    for part, name in itertools.product(("train", "test"), ("cat", "dog")):
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (grey, 10 * (name == "dog"), number)).save(folder / part / name / f"{number}.png")


def test_a_finished_run_whose_images_have_changed_is_refused(tmp_path):
    photos, small = tmp_path / "photos", dict(clients=2, rounds=1, server_shots=2, pretrain_epochs=1, min_samples=2)
    _put_images(photos, 10)
    config = make_config("smoke", dataset=f"folder:{photos}", density=0.1, **small)
    record = run(config, tmp_path / "out")
    assert run(config, tmp_path / "out") == record
    _put_images(photos, 20)
    datasets._load.cache_clear()  # as in another process
    with pytest.raises(ValueError, match=r"record\.json was made of other images than folder:.* holds now; bring"):
        run(config, tmp_path / "out")
    shutil.rmtree(photos)
    datasets._load.cache_clear()
    assert run(config, tmp_path / "out") == record


def test_another_process_can_read_the_record_so_far(saved, server, tmp_path):
    folder, _ = saved
    assert checkpoint.record_in(folder, CONFIG) == checkpoint.load(folder, CONFIG, server.task)[0]
    with pytest.raises(FileNotFoundError):
        checkpoint.record_in(tmp_path, CONFIG)


def test_a_checkpoint_is_the_state_the_record_and_the_digests_of_the_clients_memories(saved, server):
    folder, state = saved
    record, progress, *_ = checkpoint.load(folder, CONFIG, server.task)
    found, ledger = progress.state, progress.ledger
    assert [entry["round"] for entry in record["rounds"]] == [0] and record["complete"] is False
    assert found.mask == state.mask
    assert list(found.weights) == list(state.weights)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in state.weights.items())
    [name] = set(ledger.memories.values())  # all remember the same mask and nothing else
    assert sorted(ledger.memories) == list(range(CONFIG.clients))
    assert list(unpack(Memories(folder / "clients").recall(name)).tensors) == ["held mask"]
    assert ledger.samples == dict(enumerate(record["data"]["sizes"]))
    held = max(ledger.versions[SHARED].values())  # round 0 adjusts nothing; selection made the mask the second one
    assert held == 2 and ledger.held == dict.fromkeys(range(CONFIG.clients), held)


def test_what_a_method_keeps_beside_the_weights_comes_back(tmp_path, saved, server):
    folder, state = saved
    extra = {"scores": torch.arange(6.0).view(2, 3), "votes": torch.tensor([1, 2])}
    versions = {name: number for number, name in enumerate(state.mask, 1)}
    ledger = Ledger({SHARED: versions}, {3: 4, 0: 1}, {0: 50, 2: 60}, {3: "3a", 0: "0a"})
    (tmp_path / "a").mkdir()
    saved_progress = Progress(replace(state, extra=extra), ledger)
    so_far = checkpoint.load(folder, CONFIG, server.task).record
    checkpoint.save(tmp_path / "a", CONFIG, so_far, saved_progress)
    record, found, *_ = checkpoint.load(tmp_path / "a", CONFIG, server.task)
    assert record == so_far and found.ledger == ledger
    assert list(found.state.extra) == list(extra)
    assert all(torch.equal(found.state.extra[name], tensor) for name, tensor in extra.items())


def test_of_what_rounds_say_of_a_client_the_last_one_counts(tmp_path):
    """Every client uploads in each of three rounds, and the server keeps the last upload."""
    config = four_clients(method="fl_pqsu", selective_upload="no", rounds=4)
    state = interrupted(config, tmp_path, after=2)
    folder = tmp_path / config.run_id
    assert len(list((folder / "rounds").iterdir())) == 3
    found = checkpoint.load(folder, config, build_federation(config).task).progress.state.of_clients
    assert found.keys() == state.of_clients.keys() == set(range(config.clients))
    for k, held in state.of_clients.items():
        assert all(torch.equal(found[k][name], tensor) for name, tensor in held.items())


def test_a_file_of_a_round_that_is_whole_but_another_is_refused(saved, server):
    folder, _ = saved
    [of_round] = (folder / "rounds").iterdir()
    whole = unpack(of_round.read_bytes())
    of_round.write_bytes(pack(whole.tensors, **whole.meta | {"extra": 1}))
    with pytest.raises(ValueError, match=r"\.round, which it names, is damaged or missing; delete it to start"):
        checkpoint.load(folder, CONFIG, server.task)


def test_only_whole_checkpoints_are_read(saved, server):
    folder, _ = saved
    path = checkpoint.path_in(folder)
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    for torn in (b"", whole[:11], whole[: len(whole) // 2], whole[:-1], bytes(altered), b"\0" * len(whole)):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"checkpoint\.ftl: .*cut short, altered.*delete it to start"):
            checkpoint.load(folder, CONFIG, server.task)
        assert path.read_bytes() == torn


def test_a_run_on_a_torn_checkpoint_stops_and_starts_over_once_it_is_deleted(saved, tmp_path):
    folder, _ = saved
    path = checkpoint.path_in(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path}.*delete it"):
        run(CONFIG, tmp_path)
    path.unlink()
    assert schema.canonical(run(CONFIG, tmp_path)) == schema.canonical(run(CONFIG))


def test_a_checkpoint_of_another_run_is_refused_and_says_where_it_differs(saved, tmp_path):
    folder, _ = saved
    other = replace(CONFIG, lr=0.01, rounds=5)
    target = checkpoint.path_in(tmp_path / other.run_id)
    target.parent.mkdir()
    data = checkpoint.path_in(folder).read_bytes()
    target.write_bytes(data)
    with pytest.raises(ValueError, match=r"of another run \(it differs in lr, rounds\).*another output folder"):
        run(other, tmp_path)
    assert target.read_bytes() == data


def test_a_run_does_not_go_on_with_other_images(saved, tmp_path, monkeypatch):
    began = rounds._new_record
    other = lambda *given: (new := began(*given)) | {"data": new["data"] | {"fingerprint": "other"}}  # noqa: E731
    monkeypatch.setattr(rounds, "_new_record", other)
    with pytest.raises(ValueError, match=r"began with other images \(its fingerprint differ\); bring these back"):
        run(CONFIG, tmp_path)
    monkeypatch.undo()
    assert run(CONFIG, tmp_path)["complete"]


@pytest.mark.parametrize(
    "pixels",
    [
        *(None, [], {}, {"mean": [0.5]}, {"mean": [0.5, 0.5], "std": [0.2]}, {"mean": 0.5, "std": 0.2}),
        *({"mean": ["0.5"], "std": [0.2]}, {"mean": [0.5], "std": [0.0]}, {"mean": [float("nan")], "std": [0.2]}),
    ],
)
def test_statistics_of_pixels_that_are_none_are_refused(pixels):
    with pytest.raises(ValueError, match=r"its pixels have|in place of named values"):
        reading.read_pixels({"data": {"pixels": pixels}}, 1)
    assert reading.read_pixels({"data": {"pixels": {"mean": [0.5], "std": [0.2]}}}, 1) == Normalisation((0.5,), (0.2,))


def test_statistics_of_pixels_may_differ_only_where_other_clients_answered():
    def surveyed(mean, lost, rejected=()):
        reasons = {"lost": dict.fromkeys(lost, "gone"), "rejections": dict.fromkeys(rejected, "torn")}
        entry = {"exchange": "pixel_statistics", "asked": [0, 1, 2]} | {key: of for key, of in reasons.items() if of}
        return {"data": {"public_images": 5, "pixels": {"mean": [mean]}}, "prelude": [entry]}

    begun = surveyed(0.5, ["2"])
    for now in (surveyed(0.5, ["2"]), surveyed(0.6, []), surveyed(0.6, ["1"]), surveyed(0.6, ["2"], ["0"])):
        checkpoint.check_data(Path("run"), begun, now)
    for now in (surveyed(0.6, ["2"]), surveyed(0.6, [], ["2"])):
        with pytest.raises(ValueError, match=r"began with other images \(its pixels differ\)"):
            checkpoint.check_data(Path("run"), begun, now)
    with pytest.raises(ValueError, match="its public_images, pixels differ"):
        checkpoint.check_data(Path("run"), begun, {**surveyed(0.6, []), "data": {"public_images": 6, "pixels": {}}})
    for later in ([], [{"exchange": "bn_statistics", "asked": [1]}]):  # with pixel_statistics=server nobody is surveyed
        with pytest.raises(ValueError, match="its pixels differ"):
            checkpoint.check_data(Path("run"), begun | {"prelude": later}, surveyed(0.6, []) | {"prelude": []})


def test_a_record_names_every_environment_that_its_run_went_on_in(tmp_path, monkeypatch):
    """Begun under torch 1 and killed, gone on under torch 2 from round 1 and killed, then twice under torch 3."""
    longer, torches = replace(CONFIG, rounds=4), iter([1, 2, 3, 3])
    monkeypatch.setattr(rounds, "environment", lambda gpu: {"torch": next(torches)})
    for last in range(3):
        interrupted(longer, tmp_path, after=last)
    here = run(longer, tmp_path)["environment"]
    assert here["torch"] == 1
    assert [(other["round"], other["torch"]) for other in here["resumed"]] == [(1, 2), (2, 3)]


def test_a_checkpoint_serves_any_number_of_workers(saved, server):
    folder, state = saved
    found = checkpoint.load(folder, replace(CONFIG, workers=3), server.task)
    assert found.progress.state.mask == state.mask


def test_a_write_that_fails_half_way_leaves_the_checkpoint_before_it(saved, server, monkeypatch):
    folder, state = saved
    before = checkpoint.path_in(folder).read_bytes()
    write = Path.write_bytes

    def full_disk(path, data):
        write(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(folder, CONFIG, {"rounds": []}, Progress(state, Ledger()))
    assert checkpoint.path_in(folder).read_bytes() == before


def test_nothing_but_the_checkpoint_and_what_clients_remember_lies_in_the_folder(saved):
    folder, _ = saved
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.ftl", "clients", "lock", "rounds"]
    assert [len(list((folder / name).iterdir())) for name in ("clients", "rounds")] == [1, 1]


def test_a_finished_run_leaves_its_record_and_its_model_only(saved, tmp_path):
    folder, _ = saved
    run(CONFIG, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.tiny", "record.json"]
    (folder / rounds.LOCK).touch()  # of a process that was killed just before it would have deleted it
    run(CONFIG, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.tiny", "record.json"]


def test_resuming_executes_nothing_that_it_reads(saved, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a reader ran code")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    assert run(CONFIG, tmp_path)["complete"] is True
