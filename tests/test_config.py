"""Settings: what each may be, whose it is, how it is read, and what names a run."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite import config as config_module
from fedtiny_lite.config import (
    METHODS,
    MODELS,
    PROFILES,
    Config,
    load_method,
    make_config,
    own_settings,
    parse_settings,
)
from fedtiny_lite.federated.checks import too_long
from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.methods._selection import Selection, pool_size
from fedtiny_lite.methods._settings import Adjustment, Growth, GrowthBatch, Saliency
from fedtiny_lite.records.bundles import COMMITTED, read_bundle
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.settings import Settings, defaults, names, rules, setting

NAN, INF = float("nan"), float("inf")

# Setting -> values that are refused, and what is said of the allowed ones.
OUT_OF_RANGE = {
    "seed": ([-1], "at least 0"),
    "samples": ([-1], "at least 0"),
    "test_samples": ([-1], "at least 0"),
    "server_shots": ([0], "at least 1"),
    "clients": ([0, -3, 1000001], "at least 1 and at most 1000000"),
    "clients_per_round": ([-1], "at least 0"),
    "update_limit": ([-1, NAN, INF], "at least 0"),
    "clip_norm": ([-1, NAN, INF], "at least 0"),
    "noise": ([-1, NAN, INF], "at least 0"),
    "alpha": ([0, 0.0, -0.5, NAN, INF], "above 0"),
    "min_samples": ([1], "at least 2"),
    "width": ([0, 1025], "at least 1 and at most 1024"),
    "pretrain_lr": ([0, -0.1, NAN, INF], "above 0"),
    "pretrain_epochs": ([-1, 10001], "at least 0 and at most 10000"),
    "rounds": ([-1, 100001], "at least 0 and at most 100000"),
    "local_epochs": ([0, 1001], "at least 1 and at most 1000"),
    "batch_size": ([1, 65537], "at least 2 and at most 65536"),
    "lr": ([0, -0.1, NAN, INF], "above 0"),
    "momentum": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "weight_decay": ([-1e-9, NAN, INF], "at least 0"),
    "density": ([0, 0.0, -0.1, 1.0001, 2, NAN, INF, -INF], "above 0 and at most 1"),
    "selection_clients": ([-1], "at least 0"),
    "candidate": ([-1, 10001], "at least 0 and at most 10000"),
    "pool_size": ([-1, 10001], "at least 0 and at most 10000"),
    "pool_noise": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "pool_work": ([0, 0.9, NAN, INF], "at least 1"),
    "trial_epochs": ([-1, 10001], "at least 0 and at most 10000"),
    "dev_fraction": ([0, 1.1, NAN], "above 0 and at most 1"),
    "adjust_every": ([0, 100001], "at least 1 and at most 100000"),
    "adjust_until": ([-1, 100001], "at least 0 and at most 100000"),
    "adjust_rate": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "growth_batch": ([1, 65537], "at least 2 and at most 65536"),
    "extrusion": ([-0.1, NAN, INF], "at least 0"),
    "activation_density": ([0, 1.1, NAN], "above 0 and at most 1"),
    "thompson_weight": ([0, -1, 1e39, NAN, INF], "above 0 and at most 1000000.0"),
    "thompson_fusion": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "saliency_steps": ([-1, 1001], "at least 0 and at most 1000"),
    "lottery_accuracy": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "lottery_rate": ([-0.1, 1.1, NAN], "at least 0 and at most 1"),
    "min_replies": ([0], "at least 1"),
    "workers": ([0, 1025], "at least 1 and at most 1024"),
}
CHOICES = {
    "method": METHODS,
    "server_set": ("distorted", "as_clients"),
    "pixel_statistics": ("clients", "server"),
    "augment": ("none", "crop_flip", "crop_flip_cutout"),
    "partition": ("iid", "dirichlet", "dirichlet_client", "shards", "quantity"),
    "model": MODELS,
    "score_on": ("test", "validation"),
    "density_of": ("prunable", "model"),
    "prune_linear": ("auto", "yes", "no"),
    "selection": ("adaptive", "vanilla", "server", "fixed"),
    "bn_variance": ("paper", "pooled"),
    "pool": ("paper", "allocations"),
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
KIT = sorted({record["config"]["method"] for record in read_bundle(COMMITTED / "digits.json")})
"""The kit's own methods: a reader's has no committed records, and its settings are no matter of this file."""
MACHINE = {"workers", "min_replies"}
"""Settings that cannot change the result of a run that finishes, and so are no part of its name."""
COMMON = {rule.name: rule for rule in rules(Config)}
OWN = {rule.name: rule for method in KIT for rule in rules(own_settings(method))}
OWNER = {name: next(method for method in KIT if name in names(own_settings(method))) for name in OWN}
RULES = COMMON | OWN
WHOLE, REAL, WORDS = (
    sorted(name for name, rule in RULES.items() if type(rule.default) is kind) for kind in (int, float, str)
)


def owner(name: str) -> str:
    """A method that has the setting."""
    return OWNER.get(name, "fedtiny")


def having(name: str, value) -> Config:
    """The defaults, but for one setting, of a method that has it."""
    return make_config({"method": owner(name)}, **{name: value})


def value_in(config: Config, name: str):
    """The value of a setting, be it the method's own."""
    return getattr(config if name in COMMON else config.own, name)


def other_value(name: str):
    """An allowed value of the setting that is not its default."""
    default, kind = RULES[name].default, type(RULES[name].default)
    if kind is str:
        return next(word for word in (*CHOICES.get(name, ()), "other") if word != default)
    if kind is int or name == "update_limit":
        return default + 1
    return default / 2 + 0.125


def test_every_number_setting_is_tried_out_of_range_and_every_word_has_its_choices():
    assert set(OUT_OF_RANGE) == set(WHOLE) | set(REAL)
    assert set(CHOICES) | FREE_WORDS == set(WORDS)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [(name, value, allowed) for name, (values, allowed) in OUT_OF_RANGE.items() for value in values],
)
def test_a_value_out_of_range_is_refused(name, value, allowed):
    finite = "finite and " if RULES[name].metadata["high"] is None and not -INF < value < INF else ""
    with pytest.raises(ValueError, match=f"^{name} = {re.escape(repr(value))}: it must be {finite}{allowed}$"):
        having(name, value)


def test_a_number_that_no_computation_takes_is_refused():
    """1e309 is read as infinity, and a whole number of 301 digits is none that a record of floats could hold."""
    with pytest.raises(ValueError, match=r"^lr = inf: it must be finite and above 0$"):
        make_config(**parse_settings(["lr=1e309"]))
    with pytest.raises(
        ValueError, match=r"^seed = 10+\.\.\. \(302 characters\): it must be below 3e\+38 and at least 0$"
    ):
        make_config(seed=10**301)


def test_zero_has_one_sign_and_names_one_run():
    negative, zero = make_config(momentum=-0.0), make_config(momentum=0.0)
    assert str(negative.momentum) == "0.0" and negative.run_id == zero.run_id and negative == zero


def test_a_long_value_is_shortened_in_what_is_said():
    """A word has at most 4,096 characters, as no path is longer."""
    long = "x" * 100_000
    for values in ({"dataset": long}, {"model": long}, {"lr": long}, {"method": long}, {"profile": long}, {long: 1}):
        with pytest.raises(ValueError, match=r"\.\.\. \(100,002 characters\)") as caught:
            make_config(**values)
        assert len(str(caught.value)) < 500
    for pair in (f"lr={long}", f"dataset={long}", long):
        with pytest.raises(ValueError, match=r"\.\.\. \(100,00\d characters\)"):
            make_config(**parse_settings([pair]))


@pytest.mark.parametrize("profile", [None, [], 5, {"digits"}])
def test_a_profile_is_a_name_or_values_by_name(profile):
    said = f"profile = {profile!r}: give the name of one, or values of settings by their names"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        make_config(profile)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("adjust_evry", "did you mean adjust_every or adjust_rate? "),
        ("densty", "did you mean density or density_of? "),
        ("sparsity", ""),
    ],
)
def test_a_misspelt_setting_is_told_those_that_look_like_it(given, near):
    said = f"{given} is not a setting; {near}`python -m fedtiny_lite run --method fedtiny --help` lists all"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        make_config(**{given: 20})


def test_a_candidate_is_taken_by_its_number_with_fixed_selection_alone():
    assert make_config(selection="fixed", candidate=3).of(Selection).candidate == 3
    with pytest.raises(
        ValueError, match=r"^candidate = 3: selection = 'adaptive' chooses among all; set selection=fixed"
    ):
        make_config(candidate=3)


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_word_outside_the_choices_is_refused_and_all_choices_are_named(name):
    listed = ", ".join(CHOICES[name]) + {"model": ", or file:PATH"}.get(name, "")
    with pytest.raises(ValueError, match=f"^{name} = 'nonsense': choose one of {listed}$"):
        having(name, "nonsense")
    for word in CHOICES[name]:
        assert value_in(having(name, word), name) == word


@pytest.mark.parametrize(
    ("of_a_kind", "values", "kind"),
    [
        (WHOLE, [1.5, 2.0, "2", None, True, [2], NAN], "a whole number"),
        (REAL, ["0.5", None, True, [0.5], 1j], "a number"),
        (sorted(set(WORDS) - {"method"}), [1, None, True, b"cnn", ["cnn"]], "a word"),
    ],
    ids=["whole", "real", "word"],
)
def test_another_type_is_refused(of_a_kind, values, kind):
    for name in of_a_kind:
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} = {re.escape(repr(value))}: .* takes {kind}$"):
                having(name, value)


@pytest.mark.parametrize("value", [1, None, True, b"cnn", ["cnn"]])
def test_a_method_that_is_no_word_is_refused(value):
    with pytest.raises(ValueError, match=f"^method = {re.escape(repr(value))}: .* takes a word$"):
        Config(method=value)
    with pytest.raises(ValueError, match=r"^method = "):
        make_config(method=value)


def test_methods_are_the_files_in_the_folder():
    assert list(METHODS) == sorted(METHODS)
    assert {"fedavg", "fedtiny", "magnitude", "random"} <= set(METHODS)
    assert not any(name.startswith("_") for name in METHODS)


def test_a_setting_cannot_be_changed_later():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().density = 2


def test_every_setting_has_help_and_a_default_that_is_allowed():
    assert all(rule.metadata["help"] for rule in RULES.values())
    assert {field.name for field in dataclasses.fields(Config)} - set(COMMON) == {"own"}
    for method in METHODS:
        assert value_in(make_config(method=method), "method") == method


def test_no_more_clients_take_part_than_there_are():
    assert make_config(clients=5, clients_per_round=5).clients_per_round == 5
    with pytest.raises(ValueError, match=r"^clients_per_round = 6: there are 5 clients; it must be at most that, or 0"):
        make_config(clients=5, clients_per_round=6)


def test_a_limit_that_would_reject_equal_updates_is_refused():
    """Four updates of length 2 have the median 2: with a limit of 0.9 none of them passes, with one of 1 all do."""
    lengths = dict.fromkeys(range(4), 2.0)
    assert len(too_long(lengths, 0.9)) == 4 and too_long(lengths, 1) == {}
    message = r"^update_limit = 0\.9: .*; it must be at least 1, or 0 for no limit$"
    with pytest.raises(ValueError, match=message):
        make_config(update_limit=0.9)
    assert [make_config(update_limit=limit).update_limit for limit in (0, 1, 20)] == [0, 1, 20]


def test_no_more_replies_are_needed_than_clients_are_asked():
    assert make_config(clients=5, min_replies=5).min_replies == 5
    with pytest.raises(ValueError, match=r"^min_replies = 9: 5 clients are asked; it must be at most that$"):
        make_config(clients=5, min_replies=9)
    with pytest.raises(ValueError, match=r"^min_replies = 3: 2 clients are asked"):
        make_config(clients=5, clients_per_round=2, min_replies=3)


# --- whose a setting is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_its_own_settings_and_those_of_every_run(method):
    """And none of the former has the name of one of the latter, or the record could not hold both."""
    mine = names(own_settings(method))
    assert not mine & set(COMMON)
    config = make_config(method=method)
    assert type(config.own) is own_settings(method) and config.own.values() == defaults(own_settings(method))
    assert config.identity().keys() == (set(COMMON) - MACHINE) | mine


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_several_methods_share_is_the_same_setting(name):
    """The same default and the same limits, for a profile sets it for all of them; help may say more."""
    found = [rule for method in KIT for rule in rules(own_settings(method)) if rule.name == name]
    allowed = [(rule.default, dict(rule.metadata) | {"help": ""}) for rule in found]
    assert all(rule == allowed[0] for rule in allowed)


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("thompson_weight", "magnitude", "thompson_weight is a setting of fedrts; those of magnitude alone are: none"),
        ("saliency_steps", "ssfl", "saliency_steps is a setting of grasp, snip, synflow; those of ssfl alone are: "),
        ("growth_batch", "fedavg", "growth_batch is a setting of feddst, fedmef, fedrts, fedtiny, ssfl; those of fe"),
    ],
)
def test_a_setting_of_another_method_is_refused_and_it_is_said_whose_it_is(name, method, said, monkeypatch):
    monkeypatch.setattr(config_module, "METHODS", tuple(KIT))
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        make_config(method=method, **{name: 1})
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        parse_settings([f"{name}=1"], method)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        parse_settings([f"method={method}", f"{name}=1"])
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        make_config(method=method).changed(**{name: 1})


def test_own_settings_are_read_by_the_group_that_declares_them():
    config = make_config(method="fedtiny", adjust_every=3, pool_size=4)
    assert config.of(Adjustment) is config.of(Growth) is config.of(Selection) is config.of(Settings) is config.own
    assert (config.of(Adjustment).adjust_every, config.of(Selection).pool_size) == (3, 4)
    with pytest.raises(TypeError, match=r"^fedtiny has no settings of fedtiny_lite\.methods\._settings\.Saliency$"):
        config.of(Saliency)
    with pytest.raises(TypeError, match=r"^prunefl has no settings of .*GrowthBatch$"):
        make_config(method="prunefl").of(GrowthBatch)


def test_settings_of_another_method_make_no_config():
    own = make_config(method="feddst").own
    assert Config(method="feddst", own=own) == make_config(method="feddst")
    with pytest.raises(ValueError, match=r"fedtiny takes fedtiny_lite\.methods\.fedtiny\.Settings$"):
        Config(method="fedtiny", own=own)


def test_a_changed_config_knows_its_own_settings_and_is_checked():
    config = make_config("smoke", method="fedtiny", workers=3)
    other = config.changed(pool_size=5, density=0.5)
    assert other.differing(config.identity()) == ["density", "pool_size"]
    assert (other.of(Selection).pool_size, other.density, other.workers) == (5, 0.5, 3)
    assert config.changed() == config and config.changed(workers=1).workers == 1
    with pytest.raises(ValueError, match=r"^pool_size = -1: it must be at least 0 and at most 10000$"):
        config.changed(pool_size=-1)


def test_a_config_of_a_readers_method_changes_to_another(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from fedtiny_lite.methods.magnitude import METHOD\n"
        "from fedtiny_lite.settings import Settings, setting\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Own(Settings):\n"
        "    power: float = setting(0.5, 'its help')\n"
        "METHOD = replace(METHOD, settings=Own)\n"
    )
    mine = make_config("smoke", method=f"file:{tmp_path / 'mine.py'}", power=0.25)
    assert mine.changed(density=0.5).identity()["power"] == 0.25
    assert mine.changed(method="magnitude") == make_config("smoke", method="magnitude")


def test_another_method_keeps_the_settings_that_it_has():
    config = make_config("smoke", method="fedtiny", adjust_every=3, pool_size=5).changed(method="feddst")
    assert config == make_config("smoke", method="feddst", adjust_every=3)
    assert config.changed(method="magnitude") == make_config("smoke", method="magnitude")


# --- profiles and words of the command line ---------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_lie_on_top_of_the_profile(profile):
    """As far as the method has them."""
    for method in METHODS:
        config = make_config(profile, method=method, seed=7, density=0.5)
        expected = defaults(Config) | defaults(own_settings(method))
        expected |= {name: value for name, value in PROFILES[profile].items() if name in expected}
        expected |= {"method": method, "seed": 7, "density": 0.5}
        assert config.identity() | {name: getattr(config, name) for name in MACHINE} == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_every_value_of_a_profile_is_a_setting_and_allowed(profile):
    for name, value in PROFILES[profile].items():
        assert value_in(having(name, value), name) == value


def test_a_profile_may_be_values_of_ones_own():
    own = {"method": "feddst", "rounds": 3, "adjust_every": 2, "pool_size": 4}
    assert make_config(own, seed=1) == Config(method="feddst", rounds=3, seed=1, own=Growth(adjust_every=2))
    assert make_config(own, method="magnitude") == Config(method="magnitude", rounds=3)
    with pytest.raises(ValueError, match=r"^densty is not a setting; did you mean density or density_of\? `.*feddst"):
        make_config(own | {"densty": 0.1})


def test_unknown_profile_and_setting_are_named_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"^profile = 'big': choose one of smoke, digits, laptop, paper$"):
        make_config("big")
    with pytest.raises(ValueError, match=r"^sparsity is not a setting; `python .* --method fedtiny --help` lists"):
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
        ("sparsity=0.9", "sparsity is not a setting; `python -m fedtiny_lite run --method fedtiny --help` lists all"),
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
    config = make_config(density=density, seed=seed, method=method)
    pairs = [f"{name}={value}" for name, value in (config.identity() | {"workers": config.workers}).items()]
    assert make_config({}, **parse_settings(pairs)) == config


def test_settings_are_read_for_the_method_that_is_named():
    assert parse_settings(["lottery_rate=1"], "lotteryfl") == {"lottery_rate": 1.0}
    assert parse_settings(["lottery_rate=1", "method=lotteryfl"]) == {"lottery_rate": 1.0, "method": "lotteryfl"}
    with pytest.raises(ValueError, match=r"^method = 'fedprox': choose one of"):
        parse_settings(["rounds=1"], "fedprox")


# --- the name of a run ------------------------------------------------------------------------------------


def test_run_id_is_a_slug_and_eight_hex_digits():
    config = make_config("digits", method="magnitude", density=0.02, alpha=0.5, seed=3)
    assert re.fullmatch(r"magnitude-digits-cnn8-d0\.02-a0\.5-s3-[0-9a-f]{8}", config.run_id)


@pytest.mark.parametrize("path", ["shared/cifar", "shared/cifar/", "/a/cifar"])
def test_run_id_is_one_file_name_for_a_folder_of_images(path):
    assert Config(dataset=f"folder:{path}").run_id.startswith("fedtiny-cifar-cnn8-")


@pytest.mark.parametrize("name", sorted(RULES))
def test_run_id_depends_on_every_setting_that_can_change_a_result(name):
    needed = {"noise": {"clip_norm": 1.0}, "candidate": {"selection": "fixed"}}.get(name, {})
    default = make_config({"method": owner(name)}, **needed)
    changed = default.changed(**{name: other_value(name)})
    assert (changed.run_id == default.run_id) == (name in MACHINE)
    assert not MACHINE & changed.identity().keys()
    assert changed.differing(default.identity()) == ([] if name in MACHINE else [name]) or name == "method"


@dataclass(frozen=True, kw_only=True)
class Later(Settings):
    """A setting that a later version might have."""

    eagerness: float = setting(0.5, "how eager a client is", above=0)


@dataclass(frozen=True, kw_only=True)
class LaterGrowth(Growth, Later):
    """What FedDST's settings might become."""


@pytest.fixture
def later(monkeypatch):
    """From now on FedDST has one setting more."""

    def change() -> None:
        changed = dataclasses.replace(load_method("feddst"), settings=LaterGrowth)
        assert isinstance(changed, Method)
        monkeypatch.setattr("fedtiny_lite.methods.feddst.METHOD", changed)

    return change


def test_a_new_setting_renames_no_run_until_it_is_used(later):
    settings = [dict(), dict(lr=0.1, adjust_rate=0.5), dict(adjust_until=3, clients=4, clients_per_round=2)]
    before = [make_config(method="feddst", **chosen) for chosen in settings]
    later()
    after = [make_config(method="feddst", **chosen) for chosen in settings]
    assert [config.run_id for config in after] == [config.run_id for config in before]
    assert all("eagerness" in config.identity() for config in after)
    used = make_config(method="feddst", eagerness=0.25)
    assert used.run_id not in {config.run_id for config in after}
    assert make_config(method="feddst", eagerness=0.5).run_id == after[0].run_id


def test_a_record_that_is_older_than_a_setting_had_its_default(later):
    record = make_config(method="feddst", lr=0.1).identity()
    later()
    assert make_config(method="feddst", lr=0.1).differing(record) == []
    assert make_config(method="feddst", lr=0.1, eagerness=0.25).differing(record) == ["eagerness"]


def test_a_new_setting_of_every_run_renames_none(monkeypatch):
    before, added = make_config(method="magnitude", lr=0.1), dataclasses.fields(Later)[0]

    class Newer(Config):
        eagerness = added.default

        def values(self):
            return super().values() | {"eagerness": self.eagerness}

    known = config_module.defaults
    monkeypatch.setattr(
        config_module, "defaults", lambda kind: known(kind) | ({"eagerness": 0.5} if kind is Config else {})
    )
    now = Newer(method="magnitude", lr=0.1)
    assert now.identity() == before.identity() | {"eagerness": 0.5} and now.run_id == before.run_id
    assert now.differing(before.identity()) == []


def test_what_differs_from_a_record_is_named():
    config = make_config(method="feddst", lr=0.1, adjust_every=2)
    assert config.differing(config.identity()) == []
    assert config.differing(json.loads(json.dumps(config.identity()))) == []
    assert config.differing({"method": "feddst", "lr": 0.1, "adjust_every": 2}) == []
    assert config.differing({"method": "feddst", "lr": 0.2}) == ["adjust_every", "lr"]
    others = make_config(method="fedtiny", lr=0.1, adjust_every=2).identity()
    assert config.differing(others) == sorted({"method"} | names(own_settings("fedtiny")) - names(Growth))


def test_run_id_does_not_depend_on_how_a_number_is_written():
    assert Config(density=1, alpha=1).run_id == Config(density=1.0, alpha=1.0).run_id


def test_identity_is_json_and_makes_the_same_run():
    config = make_config("laptop", seed=2)
    again = make_config({}, **json.loads(json.dumps(config.identity())), workers=config.workers)
    assert again == config and again.run_id == config.run_id and hash(again) == hash(config)


def test_run_id_is_the_same_in_another_process():
    code = "from fedtiny_lite.config import make_config; print(make_config('paper', seed=5).run_id)"
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
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
    assert pool_size(make_config(density=density)) == candidates
    assert pool_size(make_config(density=density, pool_size=7)) == 7


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
