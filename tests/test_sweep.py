"""Many runs: in order, skipped when finished, and one that fails is named while the others are kept."""

import pytest

from fedtiny_lite.config import make_config
from fedtiny_lite.records import canonical
from fedtiny_lite.simulate import run
from fedtiny_lite.sweep import run_all

TINY = dict(method="magnitude", clients=2, rounds=1, pretrain_epochs=0, width=2, density=0.1)


def test_a_failed_run_is_named_and_the_others_are_kept(tmp_path):
    good, other = (make_config(**TINY, seed=seed) for seed in (0, 1))
    bad = make_config(**TINY | dict(clients=500))
    with pytest.raises(RuntimeError, match=f"1 of 3 runs failed:\n{bad.run_id}: .*500"):
        run_all([good, bad, other], tmp_path, processes=2)
    written = (tmp_path / good.run_id / "record.json").stat().st_mtime_ns
    records = run_all([other, good], tmp_path, processes=1)
    assert [record["run_id"] for record in records] == [other.run_id, good.run_id]
    assert (tmp_path / good.run_id / "record.json").stat().st_mtime_ns == written
    assert canonical(records[1]) == canonical(run(good))
