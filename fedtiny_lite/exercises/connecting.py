"""Exercises of notebook 08: what a client lacks, and the bytes of a question."""

import math

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import lacking
from fedtiny_lite.federated.messages import encode_state
from fedtiny_lite.model.masks import Mask

# --- which layers a client lacks --------------------------------------------------------------------------


def _versions(generator: Generator) -> tuple[Tensor, int]:
    """The version of each layer, and one that a client says: none, one of the server's, or one of another run.

    No layer carries one of the server's versions: all that changed in it have changed again.
    """
    versions, gap = torch.randint(1, 6, (7,), generator=generator), whole_number(generator, 2, 3)
    versions[versions == gap] = 5
    kinds = (0, 1, 2, 3, gap, 4, int(versions.max()) + 3)
    return versions, kinds[whole_number(generator, 0, len(kinds) - 1)]


def _by_layer(versions: Tensor, names: list[str]) -> Tensor:
    return torch.tensor([f"{number}" in names for number in range(len(versions))])


def _lacks(versions: Tensor, held: int) -> Tensor:
    known = {f"{number}": version for number, version in enumerate(versions.tolist())}
    return _by_layer(versions, lacking(known, held))


def _known_too(versions: Tensor, held: int) -> Tensor:
    """You also send the layers of the version that the client holds; those it has."""
    return _lacks(versions, held) | (versions == held)


def _known_too_no_strangers(versions: Tensor, held: int) -> Tensor:
    """You also send the layers of the version that the client holds; those it has."""
    return versions >= held


def _unlisted(versions: Tensor, held: int) -> Tensor:
    """You send all layers where none carries `held`; the server gave it if it is not above all of `versions`."""
    return versions > held if held in versions else torch.ones_like(versions, dtype=torch.bool)


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
    mistakes=(
        _known_too,
        _known_too_no_strangers,
        _unlisted,
        _strangers,
        _last_change,
        _whole_mask,
        _held_layers,
    ),
    hints=(
        "A layer is lacking if its version is above the one held. And if the version held is above all of them?",
        "`(versions > held) | (held > versions.max())`",
    ),
)


# --- bytes of a question ----------------------------------------------------------------------------------


def _layer(generator: Generator) -> tuple[Tensor, int]:
    """A layer's mask, bool [weights], and how many numbers of the model are never pruned."""
    density = (0.02, 0.3)[whole_number(generator, 0, 1)]
    size = (512, 1024, whole_number(generator, 300, 2000))[whole_number(generator, 0, 2)]
    return torch.rand(size, generator=generator) < density, whole_number(generator, 5, 40)


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


def _floored(keep: Tensor, others: int) -> int:
    """You round the last byte of the positions down; bits that fill a part of it take the whole byte."""
    return _values(keep, others) + 7 + min(len(keep), _index_bits(keep)) // 8


def _unrounded(keep: Tensor, others: int) -> float:
    """You return parts of a byte; round the positions up to whole bytes: `-(-bits // 8)`."""
    return _values(keep, others) + 7 + min(len(keep), _index_bits(keep)) / 8


def _always_bitmap(keep: Tensor, others: int) -> int:
    """You always write a bitmap; where little is kept, an index for each kept weight is shorter."""
    return _values(keep, others) + _positions(len(keep))


def _always_indices(keep: Tensor, others: int) -> int:
    """You always write indices; where much is kept, a bit for each weight is shorter."""
    return _values(keep, others) + _positions(_index_bits(keep))


def _one_bit_more(keep: Tensor, others: int) -> int:
    """You take a bit too many for 512 weights: numbered from 0 they take 9 bits, and `(512).bit_length()` is 10."""
    return _values(keep, others) + _positions(min(len(keep), int(keep.sum()) * len(keep).bit_length()))


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
        _floored,
        _unrounded,
        _always_bitmap,
        _always_indices,
        _one_bit_more,
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

EXERCISES = {"lacks": _LACKS, "question_bytes": _QUESTION_BYTES}
