"""Exercises of notebook 08: what a client lacks, the bytes of a question, which replies close a round."""

import math

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import lacking, needed
from fedtiny_lite.federated.messages import encode_state
from fedtiny_lite.model.masks import Mask


def _whole(generator: Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


# --- which layers a client lacks --------------------------------------------------------------------------


def _versions(generator: Generator) -> tuple[Tensor, int]:
    """The version of each layer, and one that a client says: none, one of the server's, or one of another run."""
    versions = torch.randint(1, 6, (7,), generator=generator)
    kinds = (0, 1, 2, 2, 3, 3, 4, int(versions.max()) + 3)
    return versions, kinds[_whole(generator, 0, len(kinds) - 1)]


def _by_layer(versions: Tensor, names: list[str]) -> Tensor:
    return torch.tensor([f"{number}" in names for number in range(len(versions))])


def _lacks(versions: Tensor, held: int) -> Tensor:
    known = {f"{number}": version for number, version in enumerate(versions.tolist())}
    return _by_layer(versions, lacking(known, held))


def _known_too(versions: Tensor, held: int) -> Tensor:
    """You also send the layers of the version that the client holds; those it has."""
    return _lacks(versions, held) | (versions == held)


def _strangers(versions: Tensor, held: int) -> Tensor:
    """A client that names a version which the server never gave is sent nothing; it has to be sent every layer."""
    return versions > held


def _last_change(versions: Tensor, held: int) -> Tensor:
    """You send what changed last; a client that missed two adjustments lacks the layers of both."""
    return (versions == versions.max()) & _lacks(versions, held)


def _whole_mask(versions: Tensor, held: int) -> Tensor:
    """You send every layer to whoever lacks one."""
    lacks = _lacks(versions, held)
    return torch.full_like(lacks, bool(lacks.any()))


def _held_layers(versions: Tensor, held: int) -> Tensor:
    """You mark the layers that the client has; wanted are those that it lacks."""
    return ~_lacks(versions, held)


_LACKS = Exercise(
    inputs=_versions,
    right=_lacks,
    parts=("set of layers",),
    mistakes=(_known_too, _strangers, _last_change, _whole_mask, _held_layers),
    hints=(
        "A layer is lacking if its version is above the one held. And if the version held is above all of them?",
        "`(versions > held) | (held > versions.max())`",
    ),
)


# --- bytes of a question ----------------------------------------------------------------------------------


def _layer(generator: Generator) -> tuple[Tensor, int]:
    """A layer's mask, bool [weights], and how many numbers of the model are never pruned."""
    density = (0.02, 0.3)[_whole(generator, 0, 1)]
    return torch.rand(_whole(generator, 300, 2000), generator=generator) < density, _whole(generator, 5, 40)


def _question_bytes(keep: Tensor, others: int) -> int:
    weights = {"layer": torch.ones(len(keep)) * keep, "others": torch.ones(others)}
    return encode_state(weights, Mask({"layer": keep})).nbytes + encode_mask({"layer": keep}, ["layer"]).nbytes


def _positions(bits: float) -> int:
    return 7 + math.ceil(bits / 8)


def _index_bits(keep: Tensor) -> int:
    return int(keep.sum()) * math.ceil(math.log2(len(keep)))


def _values(keep: Tensor, others: int) -> int:
    return 4 * (int(keep.sum()) + others)


def _in_bits(keep: Tensor, others: int) -> int:
    """You add bits to bytes; 8 bits are a byte, and the last byte is rounded up."""
    return _values(keep, others) + 7 + min(len(keep), _index_bits(keep))


def _always_bitmap(keep: Tensor, others: int) -> int:
    """You always write a bitmap; where little is kept, an index for each kept weight is shorter."""
    return _values(keep, others) + _positions(len(keep))


def _always_indices(keep: Tensor, others: int) -> int:
    """You always write indices; where much is kept, a bit for each weight is shorter."""
    return _values(keep, others) + _positions(_index_bits(keep))


def _without_header(keep: Tensor, others: int) -> int:
    """You leave out the 7 bytes in front of a layer's mask: its number, the kind, and how many are kept."""
    return _question_bytes(keep, others) - 7


def _dense_values(keep: Tensor, others: int) -> int:
    """You send a value for every weight; pruned ones are 0 on both sides and stay at home."""
    return _question_bytes(keep, others) + 4 * int((~keep).sum())


def _kept_alone(keep: Tensor, others: int) -> int:
    """You leave out what is never pruned: biases and batch norm, 4 bytes a number."""
    return _question_bytes(keep, 0)


def _values_alone(keep: Tensor, others: int) -> int:
    """You leave out the mask; this client does not have it yet."""
    return _values(keep, others)


def _wide_indices(keep: Tensor, others: int) -> int:
    """You take 32 bits for an index; as many as number the layer's weights will do."""
    return _values(keep, others) + _positions(min(len(keep), 32 * int(keep.sum())))


_QUESTION_BYTES = Exercise(
    inputs=_layer,
    right=_question_bytes,
    parts=("bytes",),
    mistakes=(
        _in_bits,
        _always_bitmap,
        _always_indices,
        _without_header,
        _dense_values,
        _kept_alone,
        _values_alone,
        _wide_indices,
    ),
    hints=(
        "4 bytes for each kept or never pruned number; 7 for the layer; then the shorter of bitmap and indices.",
        "`bits = min(n, kept * math.ceil(math.log2(n)))`, and `-(-bits // 8)` rounds up to bytes.",
    ),
)


# --- which replies close a round --------------------------------------------------------------------------


def _replies(generator: Generator) -> tuple[Tensor, Tensor, float, int]:
    """When each client's reply came (inf: never), whether it passed the checks, the timeout, `min_replies`.

    In turn by chance: most answer; few do; all do, and `min_replies` is larger than their number; one reply too few.
    """
    asked, timeout, kind = _whole(generator, 5, 8), float(_whole(generator, 25, 55)), _whole(generator, 0, 3)
    late, wrong = ((1, 1), (asked - 2, 0), (0, 0), (1, 1))[kind]
    order = torch.randperm(asked, generator=generator)
    seconds, passed = timeout * torch.rand(asked, generator=generator), torch.ones(asked, dtype=torch.bool)
    seconds[order[:late]] += timeout
    seconds[order[: late // 2]] = math.inf
    passed[order[late : late + wrong]] = False
    return seconds, passed, timeout, (1, 1, asked + 2, asked - 1)[kind]


def _folded(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    return _enough((seconds <= timeout) & passed, needed(len(seconds), min_replies))


def _enough(accepted: Tensor, least: float) -> Tensor:
    return accepted if int(accepted.sum()) >= least else torch.zeros_like(accepted)


def _late_too(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average replies that came after the timeout; the round was closed by then."""
    return _folded(seconds.clamp(max=1e6), passed, 1e6 - 1, min_replies)


def _unchecked(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average replies that failed a check; a rejected reply counts as none."""
    return _folded(seconds, torch.ones_like(passed), timeout, min_replies)


def _however_few(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average however few are left; below half of those asked, or below `min_replies`, the run stops."""
    return (seconds <= timeout) & passed


def _half_alone(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for half of the clients alone; there have to be `min_replies` too."""
    return _folded(seconds, passed, timeout, 1)


def _least_alone(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for `min_replies` alone; there has to be half of those asked too."""
    return _enough((seconds <= timeout) & passed, min(min_replies, len(seconds)))


def _more_than_asked(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for more replies than there are clients; where fewer are asked than `min_replies`, all have to answer."""
    return _enough((seconds <= timeout) & passed, max(len(seconds) / 2, min_replies))


_FOLDED = Exercise(
    inputs=_replies,
    right=_folded,
    parts=("set of clients",),
    mistakes=(_late_too, _unchecked, _however_few, _half_alone, _least_alone, _more_than_asked),
    hints=(
        "Accepted: in time, and passed. If they are fewer than half of all, or than min(min_replies, all): nobody.",
        "`enough = accepted.sum() >= max(len(seconds) / 2, min(min_replies, len(seconds)))`, then `accepted & enough`",
    ),
)

EXERCISES = {"lacks": _LACKS, "question_bytes": _QUESTION_BYTES, "folded": _FOLDED}
