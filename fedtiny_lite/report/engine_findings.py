"""What the records of `report.engines` say, a sentence each, for the captions of their figures."""

from collections.abc import Mapping, Sequence

from fedtiny_lite.report.engines import (
    Step,
    best_dense,
    fitted,
    grouped_parts,
    predictions,
    recorded,
    rows_with,
    sparse_steps,
    times_as_fast,
)


def of_speed(record: Mapping, model: str, width: int) -> str:
    """At the lowest density: times as fast, what multiply-adds alone would give, and what no mask saves."""
    speeds, steps = times_as_fast(record, model, width, "uniform"), sparse_steps(record, model, width, "uniform")
    rows = rows_with(record["steps"], model=model, width=width)
    fixed, _ = fitted(rows_with(rows, engine="sparse"))
    alone = {density: best_dense(rows)["macs"] / row["macs"] for density, row in steps.items()}
    said = [f"{speeds[d]:.1f} times as fast at {d:g} (by multiply-adds alone {alone[d]:.0f})" for d in _ends(steps)]
    shares = [f"{min(fixed / steps[d]['seconds'], 1):.0%}" for d in _ends(steps)]
    return f"{' and '.join(said)}: what no mask saves is {' and '.join(shares)} of these steps, by the fitted line."


def of_bfloat16(record: Mapping, model: str, width: int) -> str:
    """What dense bfloat16 is worth on the record's processor."""
    how = "has instructions for" if record["has_bf16"] else "emulates"
    ratio = recorded(record, model, width)["bf16"]
    return f"This processor {how} bfloat16: at density 0.01 the sparse step is {ratio:.1f} times as fast as that."


def of_parts(record: Mapping, model: str, width: int, mask: str) -> str:
    """The share of convolutions in the densest and the sparsest step, and what their parts add up to."""
    steps = sparse_steps(record, model, width, mask)
    shares = [f"{_convolutions(steps[density]):.0%} at density {density:g}" for density in _ends(steps)]
    sums = [f"{sum(steps[d]['parts'].values()) / steps[d]['seconds']:.0%}" for d in _ends(steps)]
    return (
        f"Of the sparse step, convolutions take {' and '.join(shares)}, their fixed part included. Timed one by one, "
        f"the parts add up to {' and '.join(sums)} of these steps."
    )


def of_layers(record: Mapping, model: str, width: int, mask: str) -> str:
    """How fast the first convolution, never pruned, and the others are at the lowest density."""
    steps = sparse_steps(record, model, width, mask)
    dense = best_dense([row for row in rows_with(record["steps"], model=model, width=width) if "layers" in row])
    lowest = min(steps)
    (first, *others), of_dense = _layer_seconds(steps[lowest]).items(), _layer_seconds(dense)
    most, least = (pick(others, key=lambda layer: of_dense[layer[0]] / layer[1]) for pick in (max, min))
    words = [f"{name} {of_dense[name] / seconds:.1f}" for name, seconds in (first, least, most)]
    return (
        f"Times as fast as dense at density {lowest:g}: {words[0]} (never pruned), the others {' to '.join(words[1:])}."
    )


def of_memory(record: Mapping, model: str, width: int) -> str:
    """Peak, growth steps and two clients at once."""
    found, growth = recorded(record, model, width), [row["seconds"] / row["step_seconds"] for row in record["growth"]]
    pairs = ", ".join(
        f"{ratio:.2f} times as fast at {key.removeprefix('pair-')}"
        for key, ratio in found.items()
        if key.startswith("pair-")
    )
    return (
        f"At 0.01 the peak is {found['memory']:.2f} of dense; a growth step is {min(growth):.1f} to {max(growth):.1f}"
        f" training steps; two sparse clients at once are {pairs}."
    )


def of_predictions(record: Mapping) -> str:
    """At density 0.01, by batch."""
    found = predictions(record)
    ratios, batches = _listed([f"{ratio:.1f}" for ratio in found.values()]), _listed([str(batch) for batch in found])
    return (
        f"At density 0.01 the sparse engine is {ratios} times as fast as the best dense program, for {batches} images."
    )


def _listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _ends(steps: Mapping[float, Step]) -> tuple[float, float]:
    return max(steps), min(steps)


def _convolutions(step: Step) -> float:
    """The share of convolutions in a step."""
    parts = grouped_parts(step["parts"])
    return sum(seconds for part, seconds in parts.items() if part.startswith("convolutions")) / sum(parts.values())


def _layer_seconds(step: Step) -> dict[str, float]:
    return {layer["name"]: layer["forward"] + layer["backward"] for layer in step["layers"]}
