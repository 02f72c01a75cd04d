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

from fedtiny_lite.federated.messages import (
    decode_growth_list,
    decode_mask,
    decode_state,
    encode_growth_list,
    encode_mask,
    encode_state,
    pack,
    read_mask,
    unpack,
)
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
    counts, columns = rows * bits_for(min(kept, size // rows) + 1), kept * bits_for(size // rows)
    formats = {"bitmap": size, "coo": kept * bits_for(size)}
    formats = {name: math.ceil(bits / 8) for name, bits in formats.items()}
    formats["csr"] = math.ceil(counts / 8) + math.ceil(columns / 8)
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
