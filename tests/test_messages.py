import builtins
import json
import math
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedtiny_lite.federated.formats import decode_growth_list, decode_mask, encode_growth_list, encode_mask, read_mask
from fedtiny_lite.federated.messages import decode_state, encode_state, pack, unpack
from fedtiny_lite.model.costs import tensor_bytes
from fedtiny_lite.model.masks import Mask

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
relaxed = settings(deadline=None)

# Any bit pattern, NaNs with payloads and signed zeros among them.
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def masked_layers(draw) -> dict[str, torch.Tensor]:
    """One to four layers of 1 to 300 weights, each keeping one, all, or any number in between."""
    layers = {}
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 64, 65]) | st.integers(1, 300))
        kept = draw(st.sampled_from([1, size]) | st.integers(1, size))
        keep = np.zeros(size, bool)
        keep[np.random.default_rng(draw(st.integers(0, 2**32))).permutation(size)[:kept]] = True
        rows = draw(st.sampled_from([row for row in range(1, size + 1) if size % row == 0]))
        shape = draw(st.sampled_from([(size,), (rows, size // rows), (rows, 1, 1, size // rows)]))
        layers[f"layer{number}"] = torch.from_numpy(keep.reshape(shape))
    return layers


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def bits_for(size: int) -> int:
    return math.ceil(math.log2(size))


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


# --- bytes ------------------------------------------------------------------------------------------------


@relaxed
@given(st.dictionaries(st.text(max_size=8), arrays, max_size=4), st.dictionaries(st.text(), plain, max_size=3))
def test_unpack_gives_back_what_was_packed(arrays_by_name, meta):
    meta.pop("tensors", None)  # the one name that `pack` has for itself
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays_by_name.items()}
    message = unpack(pack(tensors, **meta))
    assert message.meta == meta
    assert list(message.tensors) == list(tensors)
    for name, array in arrays_by_name.items():
        found = message.tensors[name].numpy()
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_message_is_as_long_as_its_parts():
    data = pack({"weights": torch.zeros(5), "index": torch.zeros(3, dtype=torch.uint8)}, samples=7)
    header = b'{"meta":{"samples":7},"tensors":[["weights","float32",[5]],["index","uint8",[3]]]}'  # no spaces
    assert len(data) == 4 + 4 + len(header) + 5 * 4 + 3 * 1 + 4
    assert data[8 : 8 + len(header)] == header


def test_a_transposed_tensor_is_packed_in_its_own_order():
    tensor = torch.arange(6).view(2, 3).T
    assert torch.equal(unpack(pack({"a": tensor})).tensors["a"], tensor)


def test_unpacked_tensors_do_not_share_memory_with_the_bytes():
    data = pack({"a": torch.zeros(3)})
    unpack(data).tensors["a"].add_(1)
    assert torch.equal(unpack(data).tensors["a"], torch.zeros(3))


def test_every_altered_byte_and_every_cut_is_noticed():
    data = pack({"a": torch.arange(3)}, samples=2)
    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            altered = bytearray(data)
            altered[place] ^= flip
            with pytest.raises(ValueError, match="not a whole message"):
                unpack(bytes(altered))
        with pytest.raises(ValueError, match="not a whole message"):
            unpack(data[:place])
    with pytest.raises(ValueError, match="not a whole message"):
        unpack(data + b"\0")


@given(st.binary(max_size=64))
def test_foreign_bytes_are_refused(data):
    for foreign in (data, b"FTL1" + data, sealed(b"FTL1" + struct.pack("<I", len(data)) + b"?" + data)):
        with pytest.raises(ValueError):
            unpack(foreign)


class Bomb:
    """Unpickling one raises; so would any reader that executes what it reads."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


def test_reading_executes_nothing(monkeypatch):
    bomb = pickle.dumps(Bomb())
    with pytest.raises(SystemExit):
        pickle.loads(bomb)
    code = "__import__('sys').exit('code was executed')"

    def refuse(*_, **__):
        raise AssertionError("a reader ran code")

    data = pack({code: torch.frombuffer(bytearray(bomb), dtype=torch.uint8)}, **{code: [code, {code: code}]})
    with monkeypatch.context() as patch:
        for owner, name in (
            (pickle, "loads"),
            (pickle, "load"),
            (pickle, "Unpickler"),
            (torch, "load"),
            (builtins, "eval"),
            (builtins, "exec"),
            (builtins, "compile"),
        ):
            patch.setattr(owner, name, refuse)
        message = unpack(data)
        with pytest.raises(ValueError, match="not a whole message"):
            unpack(bomb)
    assert message.meta == {code: [code, {code: code}]}
    assert message.tensors[code].numpy().tobytes() == bomb


# --- weights ----------------------------------------------------------------------------------------------


@relaxed
@given(masked_layers(), st.integers(0, 2**32))
def test_a_state_travels_as_its_kept_weights(layers, seed):
    rng = np.random.default_rng(seed)
    mask = Mask(layers)
    state = {"stem": torch.from_numpy(rng.normal(size=(2, 3)).astype("f4"))}
    for name, keep in layers.items():
        state[name] = torch.from_numpy(rng.normal(size=keep.shape).astype("f4")) * keep
    state["running_mean"] = torch.from_numpy(rng.normal(size=4).astype("f4"))
    vector = encode_state(state, mask)
    assert vector.dtype == torch.float32
    assert vector.tolist() == [
        *state["stem"].flatten().tolist(),
        *(weight for name, keep in layers.items() for weight in state[name].numpy()[keep.numpy()].tolist()),
        *state["running_mean"].tolist(),
    ]
    back = decode_state(vector, mask, shapes_of(state))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("stray", [1e-30, -1.0, math.inf, math.nan])
def test_a_weight_outside_the_mask_cannot_be_sent(stray):
    mask = Mask({"a": torch.tensor([True, False])})
    with pytest.raises(ValueError, match="a has 1 non-zero weights outside its mask"):
        encode_state({"a": torch.tensor([1.0, stray])}, mask)


def test_a_diverged_weight_inside_the_mask_travels_as_it_is():
    mask = Mask({"a": torch.tensor([True, False, True])})
    vector = encode_state({"a": torch.tensor([math.nan, 0.0, -math.inf])}, mask)
    assert vector.isnan().tolist() == [True, False] and vector[1] == -math.inf


def test_a_vector_of_another_mask_is_refused():
    mask = Mask({"a": torch.tensor([True, False, True])})
    with pytest.raises(RuntimeError):
        decode_state(torch.zeros(3), mask, {"a": torch.Size([3])})


# --- masks ------------------------------------------------------------------------------------------------


@relaxed
@given(masked_layers())
def test_masks_travel_whole(layers):
    packed = encode_mask(layers, list(layers))
    assert Mask(decode_mask(packed, shapes_of(layers))) == Mask(layers)
    assert read_mask(packed.numpy().tobytes(), tuple(shapes_of(layers).items())) == Mask(layers)


def formats_of(keep: torch.Tensor) -> dict[str, int]:
    """Bytes of a layer's mask in each format, runs of numbers rounded up to bytes."""
    size, kept, rows = keep.numel(), int(keep.sum()), keep.shape[0]
    formats = {"bitmap": math.ceil(size / 8)}
    for what, marked in {"kept": kept, "pruned": size - kept}.items():
        counts, columns = rows * bits_for(min(marked, size // rows) + 1), marked * bits_for(size // rows)
        formats[f"coo of the {what}"] = math.ceil(marked * bits_for(size) / 8)
        formats[f"csr of the {what}"] = math.ceil(counts / 8) + math.ceil(columns / 8)
    return formats | ({"all": 0} if kept == size else {})


@relaxed
@given(masked_layers())
def test_a_mask_takes_the_smallest_format(layers):
    expected = sum(7 + min(formats_of(keep).values()) for keep in layers.values())
    assert len(encode_mask(layers, list(layers))) == expected


@relaxed
@given(st.integers(1, 40), st.integers(1, 700), st.floats(0, 0.99), st.integers(0, 2**32))
def test_a_mask_is_as_large_as_the_cost_model_counts(rows, cols, density, seed):
    """Apart from 7 bytes a layer, what rounds up to bytes, and a bit a row where the number of kept weights is a
    power of two."""
    keep = torch.from_numpy(np.random.default_rng(seed).random((rows, cols)) < density)
    size, kept = keep.numel(), int(keep.sum())
    counted = min(bits for name, bits in tensor_bytes(size, kept, rows, cols, value_bits=0).items() if name != "dense")
    assert len(encode_mask({"a": keep}, ["a"])) <= 7 + counted + 1 + math.ceil(rows / 8)


@relaxed
@given(st.integers(0, 300), st.data())
def test_masks_within_masks_and_empty_layers_travel_whole(size, data):
    """One dimension, as a candidate has within the union of the pool; nothing kept, of nothing too."""
    kept = data.draw(st.sets(st.integers(0, size - 1)) if size else st.just(set()))
    keep = torch.zeros(size, dtype=torch.bool)
    keep[list(kept)] = True
    packed = encode_mask({"a": keep}, ["a"])
    assert torch.equal(decode_mask(packed, {"a": keep.shape})["a"], keep)
    assert len(packed) <= 7 + math.ceil(size / 8)


@relaxed
@given(masked_layers(), st.data())
def test_some_layers_travel_alone(layers, data):
    chosen = data.draw(st.sets(st.sampled_from(sorted(layers))))
    some = {name: layers[name] for name in layers if name in chosen}
    found = decode_mask(encode_mask(some, list(layers)), shapes_of(layers))
    assert list(found) == list(some)
    assert all(torch.equal(found[name], keep) for name, keep in some.items())


def test_masks_by_hand():
    """Each layer: number uint16, kind uint8, kept uint32; then 8 bits, or 1 index of 4 bits, or nothing."""
    layers = {
        "bitmap": torch.tensor([True, False, True, True, False, True, True, False]),
        "index": torch.arange(16) == 9,
        "all": torch.ones(40, dtype=torch.bool),
    }
    bitmap, index, everything = (
        bytes([0, 0, 0, 5, 0, 0, 0, 0b10110110]),
        bytes([1, 0, 1, 1, 0, 0, 0, 9 << 4]),
        bytes([2, 0, 2, 40, 0, 0, 0]),
    )
    assert encode_mask(layers, list(layers)).numpy().tobytes() == bitmap + index + everything


def test_rows_by_hand():
    """4 rows of 256 weights, 12 kept: four counts of 0 ... 12 in 4 bits each and a byte a column, 14 bytes; indices of
    10 bits would take 15."""
    columns = [[0, 7, 255], [], [1, 2, 3, 4, 5, 6, 7, 8], [100]]
    keep = torch.zeros(4, 64, 2, 2, dtype=torch.bool)
    for row, kept in zip(keep.view(4, 256), columns, strict=True):
        row[kept] = True
    expected = bytes([0, 0, 3, 12, 0, 0, 0, 0x30, 0x81, *columns[0], *columns[2], *columns[3]])
    assert encode_mask({"rows": keep}, ["rows"]).numpy().tobytes() == expected


def test_a_large_layer_at_one_percent_takes_its_columns_bits():
    """512 x 512 x 3 x 3 weights, 23,592 kept: a column of 4,608 takes 13 bits, so does a count of at most that."""
    keep = torch.zeros(512, 512, 3, 3, dtype=torch.bool)
    keep.view(-1)[torch.arange(23_592) * 100] = True
    packed = encode_mask({"a": keep}, ["a"])
    assert len(packed) == 7 + 512 * 13 // 8 + 23_592 * 13 // 8
    assert torch.equal(decode_mask(packed, {"a": keep.shape})["a"], keep)


# --- lists ------------------------------------------------------------------------------------------------


@relaxed
@given(st.sampled_from([1, 2, 3, 256, 257, 2_359_296]) | st.integers(1, 2**20), st.integers(0, 2**32), st.data())
def test_growth_lists_travel_whole(size, seed, data):
    count = data.draw(st.integers(0, min(size, 50)))
    rng = np.random.default_rng(seed)
    index = torch.from_numpy(np.sort(rng.choice(size, count, replace=False)))
    value = torch.from_numpy(rng.normal(size=count).astype("f4"))
    packed = encode_growth_list((index, value), size)
    found_index, found_value = decode_growth_list(unpack(pack(packed)).tensors, size)
    assert torch.equal(found_index, index) and torch.equal(found_value, value)
    assert packed["index"].nbytes == math.ceil(count * bits_for(size) / 8)
    assert packed["value"].nbytes == 4 * count


def test_the_header_is_the_only_overhead():
    data = pack({"weights": torch.ones(1000)}, samples=50)
    assert len(data) - 4000 == 12 + len(json.dumps(json.loads(data[8:-4004]), separators=(",", ":")))


# --- masks that keep nearly all ---------------------------------------------------------------------------


def random_keep(shape: tuple[int, ...], density: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < density)


@pytest.mark.parametrize("density", [0, 1e-4, 0.01, 0.2, 0.5, 0.8, 0.99, 0.9999, 1])
@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (10, 512), (3, 5), (1, 1)])
def test_a_mask_and_its_values_never_take_more_than_the_dense_layer(shape, density):
    keep = random_keep(shape, density, 1)
    packed = encode_mask({"a": keep}, ["a"])
    assert len(packed) + 4 * int(keep.sum()) <= 7 + 4 * keep.numel()
    assert torch.equal(decode_mask(packed, {"a": keep.shape})["a"], keep)
    inverse = encode_mask({"a": ~keep}, ["a"])
    assert len(inverse) == len(packed) or keep.all() or not keep.any()  # what is rare is named, whichever it is


def test_pruned_positions_by_hand():
    """16 weights without number 9: one index of 4 bits. And 4 rows of 64 weights, 12 pruned, by rows."""
    keep = torch.arange(16) != 9
    assert encode_mask({"a": keep}, ["a"]).tolist() == [0, 0, 4, 15, 0, 0, 0, 9 << 4]
    columns = [[0, 7, 63], [], [1, 2, 3, 4, 5, 6, 7, 8], [10]]
    rows = torch.ones(4, 64, dtype=torch.bool)
    for row, pruned in zip(rows, columns, strict=True):
        row[pruned] = False
    packed = encode_mask({"a": rows}, ["a"])
    bits = "".join(f"{len(row):04b}" for row in columns) + "".join(f"{c:06b}" for row in columns for c in row)
    assert packed.tolist()[:7] == [0, 0, 5, 244, 0, 0, 0]
    assert packed.numpy()[7:].tobytes() == int(bits, 2).to_bytes(len(bits) // 8)


# --- bytes that no encoder made ---------------------------------------------------------------------------


def layer(number: int, kind: int, kept: int, numbers=(), width: int = 0) -> bytes:
    """One layer of a packed mask, written bit by bit."""
    bits = "".join(f"{n:0{width}b}" for n in numbers)
    bits += "0" * (-len(bits) % 8)
    return struct.pack("<HBI", number, kind, kept) + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


BITMAP, INDICES, ALL, ROWS, PRUNED_INDICES, PRUNED_ROWS = range(6)
SHAPES = {"a": torch.Size([4, 16]), "b": torch.Size([8])}  # indices of 6 and of 3 bits
DAMAGED = {
    "cut in the head": layer(0, ALL, 64)[:6],
    "cut in the numbers": layer(0, INDICES, 3, [1, 2, 3], 6)[:-1],
    "a byte too many": layer(0, ALL, 64) + b"\0",
    "a layer out of range": layer(2, ALL, 64),
    "a layer twice": layer(0, ALL, 64) + layer(0, INDICES, 0),
    "an unknown kind": layer(0, 6, 3, [1, 2, 3], 6),
    "more kept than there are": layer(0, ALL, 65),
    "all, but not all kept": layer(0, ALL, 63),
    "all kept, but a bitmap": layer(1, BITMAP, 8, [1] * 8, 1),
    "fewer bits than kept": layer(1, BITMAP, 3, [1, 0, 0, 1, 0, 0, 0, 0], 1),
    "a bit behind the last": layer(0, INDICES, 3, [1, 2, 3, 1], 6),
    "indices that descend": layer(0, INDICES, 2, [5, 4], 6),
    "an index twice": layer(0, INDICES, 2, [5, 5], 6),
    "pruned indices that descend": layer(0, PRUNED_INDICES, 62, [5, 4], 6),
    "rows that keep too few": layer(0, ROWS, 3, [0b01, 0b01, 0, 0, 0b0001, 0b0010, 0b0011], 2),
    "columns twice": struct.pack("<HBI", 0, ROWS, 2) + bytes([0b10000000, 0x33]),
    "columns that descend": struct.pack("<HBI", 0, ROWS, 2) + bytes([0b10000000, 0x32]),
    "pruned columns that descend": struct.pack("<HBI", 0, PRUNED_ROWS, 62) + bytes([0b00100000, 0x32]),
}


def as_bytes(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_mask_is_refused(data):
    with pytest.raises(ValueError, match=r"mask is|packed"):
        decode_mask(as_bytes(data), SHAPES)


def test_a_mask_in_another_kind_than_the_smallest_is_read():
    """Number 9 of 16 weights: an index of 4 bits is the smallest, and a bitmap of two bytes says the same."""
    shapes, keep = {"a": torch.Size([16])}, torch.arange(16) == 9
    bitmap = layer(0, BITMAP, 1, keep.int().tolist(), 1)
    assert len(bitmap) == len(encode_mask({"a": keep}, ["a"])) + 1
    assert torch.equal(decode_mask(as_bytes(bitmap), shapes)["a"], keep)


def test_indices_and_columns_beyond_the_layer_are_refused():
    """12 weights take 4 bits, which hold 12 to 15 too; so do the columns of rows of 12."""
    shapes = {"flat": torch.Size([12]), "rows": torch.Size([2, 12])}
    one_in_row_0_at_12 = struct.pack("<HBI", 1, ROWS, 1) + bytes([0b10000000, 12 << 4])
    for data in (layer(0, INDICES, 1, [12], 4), layer(0, PRUNED_INDICES, 11, [12], 4), one_in_row_0_at_12):
        with pytest.raises(ValueError, match="damaged"):
            decode_mask(as_bytes(data), shapes)


def test_what_is_not_packed_bytes_is_refused():
    for tensor in (torch.zeros(7), torch.zeros(1, 7, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            decode_mask(tensor, SHAPES)


@relaxed
@given(masked_layers(), st.data())
def test_an_altered_mask_is_a_mask_or_refused(layers, data):
    """Any bytes changed, removed or added: masks of the right shapes, or ValueError, and nothing else."""
    raw = bytearray(encode_mask(layers, list(layers)).numpy().tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    shapes = shapes_of(layers)
    try:
        found = decode_mask(as_bytes(bytes(raw)), shapes)
    except ValueError:
        return
    assert all(keep.dtype == torch.bool and keep.shape == shapes[name] for name, keep in found.items())
    again = decode_mask(encode_mask(found, list(shapes)), shapes)
    assert all(torch.equal(again[name], keep) for name, keep in found.items())


@relaxed
@given(st.binary(max_size=60))
def test_random_bytes_are_a_mask_or_refused(data):
    try:
        found = decode_mask(as_bytes(data), SHAPES)
    except ValueError:
        return
    assert all(keep.shape == SHAPES[name] for name, keep in found.items())


@pytest.mark.parametrize(
    "index, value, size",
    [
        ([1, 1], [1.0, 2.0], 16),
        ([2, 1], [1.0, 2.0], 16),
        ([1, 12], [1.0, 2.0], 12),
        ([1, 0], [1.0, 2.0], 2),  # indices of one bit
        ([0, 0], [1.0, 2.0], 1),  # of none
        ([1, 2, 3, 4], [1.0, 2.0], 16),
        ([1], [1.0, 2.0, 3.0], 16),
        ([1], [[1.0]], 16),
    ],
)
def test_a_damaged_growth_list_is_refused(index, value, size):
    packed = encode_growth_list((torch.tensor(index), torch.tensor(value)), size)
    with pytest.raises(ValueError, match=r"growth list|positions|bit behind"):
        decode_growth_list(packed, size)


@pytest.mark.parametrize(
    "packed",
    [
        {"index": torch.zeros(1, dtype=torch.uint8)},
        {"index": torch.zeros(1), "value": torch.zeros(1)},
        {"index": torch.zeros(1, dtype=torch.uint8), "value": torch.zeros(1, dtype=torch.int64)},
        {"index": torch.ones(1, dtype=torch.uint8), "value": torch.zeros(1)},  # a bit behind the index
    ],
)
def test_parts_that_are_no_growth_list_are_refused(packed):
    with pytest.raises(ValueError, match=r"growth list|uint8|bit behind"):
        decode_growth_list(packed, 16)


def message(header: bytes, body: bytes = b"") -> bytes:
    return sealed(b"FTL1" + struct.pack("<I", len(header)) + header + body)


def with_tensors(*entries) -> bytes:
    return json.dumps({"meta": {}, "tensors": entries}).encode()


FOREIGN = {
    "a header longer than the message": sealed(b"FTL1" + struct.pack("<I", 2**32 - 1) + b"{}"),
    "no JSON": message(b"{"),
    "no text": message(b"\xff\xfe\xfd"),
    "nested without end": message(b"[" * 100_000),
    "no object": message(b"[]"),
    "no meta": message(b'{"tensors": []}'),
    "no tensors": message(b'{"meta": {}}'),
    "a third part": message(b'{"meta": {}, "tensors": [], "code": 1}'),
    "meta is no object": message(b'{"meta": 1, "tensors": []}'),
    "tensors are no list": message(b'{"meta": {}, "tensors": {"a": 1}}'),
    "an entry is no list": message(with_tensors("abc")),
    "an entry is too short": message(with_tensors(["a", "uint8"])),
    "a name is no text": message(with_tensors([1, "uint8", [0]])),
    "an unknown dtype": message(with_tensors(["a", "float16", [1]]), b"00"),
    "a dtype is a list": message(with_tensors(["a", [], [0]])),
    "a shape is no list": message(with_tensors(["a", "uint8", 2]), b"00"),
    "a negative side": message(with_tensors(["a", "uint8", [-1]])),
    "two negative sides": message(with_tensors(["a", "uint8", [-1, -2]]), b"00"),
    "a side is a fraction": message(with_tensors(["a", "uint8", [1.0]]), b"0"),
    "a side is true": message(with_tensors(["a", "uint8", [True]]), b"0"),
    "a huge side": message(with_tensors(["a", "uint8", [10**30]])),
    "a huge empty tensor": message(with_tensors(["a", "uint8", [0, 2**62, 2**62]])),
    "too many dimensions": message(with_tensors(["a", "uint8", [1] * 65]), b"0"),
    "too few bytes": message(with_tensors(["a", "int32", [2]]), b"1234567"),
    "too many bytes": message(with_tensors(["a", "int32", [2]]), b"123456789"),
    "a name twice": message(with_tensors(["a", "uint8", [1]], ["a", "uint8", [1]]), b"00"),
    "a bool of 2": message(with_tensors(["a", "bool", [1]]), b"\2"),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_whole_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError):
        unpack(data)


def test_as_many_dimensions_as_numpy_has_travel_whole():
    tensor = torch.ones([1] * 64)
    assert unpack(pack({"a": tensor})).tensors["a"].shape == tensor.shape


@relaxed
@given(st.dictionaries(st.text(max_size=3), arrays, max_size=3), st.data())
def test_an_altered_message_with_a_right_checksum_is_a_message_or_refused(arrays_by_name, data):
    raw = bytearray(pack({name: torch.from_numpy(array.copy()) for name, array in arrays_by_name.items()}, samples=3))[
        :-4
    ]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(4, len(raw)))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        found = unpack(sealed(bytes(raw)))
    except ValueError:
        return
    assert isinstance(found.meta, dict)
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.tensors.values())
