import dataclasses
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.config import METHODS, PROFILES, Config, make_config, parse_settings
from fedtiny_lite.records.files import ROOT

NAN, INF = float("nan"), float("inf")

# Setting -> values that are refused, and what is said of the allowed ones.
OUT_OF_RANGE = {
    "seed": ([-1], "at least 0"),
    "samples": ([-1], "at least 0"),
    "test_samples": ([-1], "at least 0"),
    "server_shots": ([0], "at least 1"),
    "clients": ([0, -3], "at least 1"),
    "alpha": ([0, 0.0, -0.5, NAN, INF], "above 0"),
    "min_samples": ([1], "at least 2"),
    "width": ([0], "at least 1"),
    "pretrain_lr": ([0, -0.1, NAN, INF], "above 0"),
    "pretrain_epochs": ([-1], "at least 0"),
    "rounds": ([-1], "at least 0"),
    "local_epochs": ([0], "at least 1"),
    "batch_size": ([1], "at least 2"),
    "lr": ([0, -0.1, NAN, INF], "above 0"),
    "momentum": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "weight_decay": ([-1e-9, NAN, INF], "at least 0"),
    "density": ([0, 0.0, -0.1, 1.0001, 2, NAN, INF, -INF], "above 0 and at most 1"),
    "candidate": ([-1], "at least 0"),
    "pool_size": ([-1], "at least 0"),
    "pool_noise": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "dev_fraction": ([0, 1.1, NAN], "above 0 and at most 1"),
    "adjust_every": ([0], "at least 1"),
    "adjust_until": ([-1], "at least 0"),
    "adjust_rate": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "growth_batch": ([0], "at least 1"),
    "extrusion": ([-0.1, NAN, INF], "at least 0"),
    "activation_density": ([0, 1.1, NAN], "above 0 and at most 1"),
    "thompson_weight": ([0, -1, NAN, INF], "above 0"),
    "thompson_fusion": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "saliency_steps": ([-1], "at least 0"),
    "lottery_accuracy": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "lottery_rate": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "workers": ([0], "at least 1"),
}
CHOICES = {
    "method": METHODS,
    "server_set": ("distorted", "as_clients"),
    "augment": ("none", "crop_flip", "crop_flip_cutout"),
    "partition": ("iid", "dirichlet", "dirichlet_client", "shards", "quantity"),
    "model": ("cnn", "resnet18", "vgg11"),
    "score_on": ("test", "validation"),
    "density_of": ("prunable", "model"),
    "prune_linear": ("auto", "yes", "no"),
    "selection": ("adaptive", "vanilla", "server", "fixed"),
    "bn_variance": ("paper", "pooled"),
    "progressive": ("yes", "no"),
    "granularity": ("layer", "block", "entire"),
    "order": ("backward", "forward"),
    "prunefl_layers": ("free", "fixed"),
    "saliency_scope": ("global", "layer"),
    "selective_upload": ("yes", "no"),
    "engine": ("dense", "sparse", "auto"),
    "torch_device": ("auto", "cpu", "cuda"),
}
# Free words are judged where they are used: by the data and by the model.
FREE_WORDS = {"dataset", "adjust_blocks"}
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
WHOLE = sorted(name for name, field in FIELDS.items() if field.type is int)
REAL = sorted(name for name, field in FIELDS.items() if field.type is float)
WORDS = sorted(name for name, field in FIELDS.items() if field.type is str)


def other_value(name: str):
    """An allowed value of the setting that is not its default."""
    default = FIELDS[name].default
    if FIELDS[name].type is str:
        return next(word for word in (*CHOICES.get(name, ()), "other") if word != default)
    return default + 1 if FIELDS[name].type is int else default / 2 + 0.125


def test_every_number_setting_is_tried_out_of_range_and_every_word_has_its_choices():
    assert set(OUT_OF_RANGE) == set(WHOLE) | set(REAL)
    assert set(CHOICES) | FREE_WORDS == set(WORDS)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [(name, value, allowed) for name, (values, allowed) in OUT_OF_RANGE.items() for value in values],
)
def test_a_value_out_of_range_is_refused(name, value, allowed):
    with pytest.raises(ValueError, match=f"^{name} = {re.escape(repr(value))}: it must be {allowed}$"):
        Config(**{name: value})


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_word_outside_the_choices_is_refused_and_all_choices_are_named(name):
    listed = ", ".join(CHOICES[name])
    with pytest.raises(ValueError, match=f"^{name} = 'nonsense': choose one of {listed}$"):
        Config(**{name: "nonsense"})
    for word in CHOICES[name]:
        assert getattr(Config(**{name: word}), name) == word


@pytest.mark.parametrize(
    ("names", "values", "kind"),
    [
        (WHOLE, [1.5, 2.0, "2", None, True, [2], NAN], "a whole number"),
        (REAL, ["0.5", None, True, [0.5], 1j], "a number"),
        (WORDS, [1, None, True, b"cnn", ["cnn"]], "a word"),
    ],
    ids=["whole", "real", "word"],
)
def test_another_type_is_refused(names, values, kind):
    for name in names:
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} = {re.escape(repr(value))}: .* takes {kind}$"):
                Config(**{name: value})


def test_methods_are_the_files_in_the_folder():
    assert list(METHODS) == sorted(METHODS)
    assert {"fedavg", "fedtiny", "magnitude", "random"} <= set(METHODS)
    assert not any(name.startswith("_") for name in METHODS)


def test_a_setting_cannot_be_changed_later():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().density = 2


def test_every_setting_has_help():
    assert all(field.metadata["help"] for field in FIELDS.values())


# --- profiles and words of the command line ---------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_lie_on_top_of_the_profile(profile):
    config = make_config(profile, seed=7, density=0.5)
    expected = dataclasses.asdict(Config()) | PROFILES[profile] | {"seed": 7, "density": 0.5}
    assert dataclasses.asdict(config) == expected


def test_unknown_profile_and_setting_are_named_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"^profile = 'big': choose one of smoke, digits, laptop, paper$"):
        make_config("big")
    with pytest.raises(ValueError, match=r"^sparsity is not a setting; the settings are .*density.*rounds"):
        make_config("smoke", sparsity=0.9)


def test_settings_are_read_with_their_types():
    read = parse_settings(["density=1e-2", "clients=5", "alpha=1", "dataset=folder:a=b", "adjust_blocks=1,3"])
    assert read == {
        "density": 0.01,
        "clients": 5,
        "alpha": 1.0,
        "dataset": "folder:a=b",
        "adjust_blocks": "1,3",
    }
    assert [type(value) for value in read.values()] == [float, int, float, str, str]
    assert parse_settings([]) == {}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("density", "'density': write a setting as key=value, for example density=0.01"),
        ("sparsity=0.9", "sparsity is not a setting; the settings are activation_density, "),
        ("=1", " is not a setting"),
        ("clients=5.5", "clients = '5.5': this setting takes a whole number"),
        ("clients=", "clients = '': this setting takes a whole number"),
        ("density=tiny", "density = 'tiny': this setting takes a number"),
    ],
)
def test_unreadable_settings_are_refused(pair, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_settings([pair])


@pytest.mark.parametrize("text", ["nan", "inf", "0", "2"])
def test_a_density_that_is_read_is_still_checked(text):
    with pytest.raises(ValueError, match=r"^density = .*: it must be above 0 and at most 1$"):
        make_config("digits", **parse_settings([f"density={text}"]))


@given(st.floats(0, 1, exclude_min=True), st.integers(0, 2**63), st.sampled_from(METHODS))
def test_what_is_written_as_settings_reads_back(density, seed, method):
    config = Config(density=density, seed=seed, method=method)
    pairs = [f"{name}={value}" for name, value in dataclasses.asdict(config).items()]
    assert Config(**parse_settings(pairs)) == config


# --- the name of a run ------------------------------------------------------------------------------------


def test_run_id_is_a_slug_and_eight_hex_digits():
    config = make_config("digits", method="magnitude", density=0.02, alpha=0.5, seed=3)
    assert re.fullmatch(r"magnitude-digits-cnn8-d0\.02-a0\.5-s3-[0-9a-f]{8}", config.run_id)


@pytest.mark.parametrize("path", ["shared/cifar", "shared/cifar/", "/a/cifar"])
def test_run_id_is_one_file_name_for_a_folder_of_images(path):
    assert Config(dataset=f"folder:{path}").run_id.startswith("fedtiny-cifar-cnn8-")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_run_id_depends_on_every_setting_that_can_change_a_result(name):
    changed = Config(**{name: other_value(name)})
    assert (changed.run_id == Config().run_id) == (name == "workers")
    assert "workers" not in changed.identity()


def test_run_id_does_not_depend_on_how_a_number_is_written():
    assert Config(density=1, alpha=1).run_id == Config(density=1.0, alpha=1.0).run_id


def test_identity_is_json_and_makes_the_same_run():
    config = make_config("laptop", seed=2)
    again = Config(**json.loads(json.dumps(config.identity())), workers=config.workers)
    assert again == config and again.run_id == config.run_id


def test_run_id_is_the_same_in_another_process():
    code = "from fedtiny_lite.config import make_config; print(make_config('paper', seed=5).run_id)"
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            text=True,
            check=True,
            capture_output=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert names == {make_config("paper", seed=5).run_id}


# --- values that follow from others -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "candidates"), [(1, 1), (0.1, 1), (0.05, 2), (0.01, 10), (0.005, 20), (0.001, 100)]
)
def test_pool_size_follows_from_the_density_unless_set(density, candidates):
    assert Config(density=density).candidates == candidates
    assert Config(density=density, pool_size=7).candidates == 7


@pytest.mark.parametrize(
    ("density", "rule", "pruned"),
    [
        (0.005, "auto", False),
        (0.0051, "auto", True),
        (0.001, "yes", True),
        (0.5, "no", False),
    ],
)
def test_the_last_layer_is_dense_at_tiny_densities_unless_set(density, rule, pruned):
    assert Config(density=density, prune_linear=rule).prunes_linear is pruned
