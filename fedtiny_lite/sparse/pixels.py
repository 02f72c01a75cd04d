"""Pixels as values in compiled code: n pixels of sixteen samples each, 16 n floats in vector registers.

numba leaves it to the compiler whether a loop over floats becomes vector instructions. Here it is written down: a
kernel loads `Pixels`, adds and multiplies them as if they were numbers, and stores them. A float32 beside them counts
for every one of their floats. Products and sums may be fused; in all else each float follows IEEE arithmetic, so that
NaN and infinity stay what they are. The functions below exist in compiled code only.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, register_model

LANES = 16
"""Samples that lie side by side in a pixel."""
RUN = 8 if binding.get_host_cpu_features().get("avx512f") else 4
"""Pixels that a convolution takes at a time: what fits into the registers twice."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLAGS = ("contract", "nsz")


class Pixels(types.Type):
    """The type of `count` pixels."""

    def __init__(self, count: int):
        self.count, self.vector = count, ir.VectorType(_FLOAT, LANES * count)
        super().__init__(f"Pixels({count})")


@register_model(Pixels)
class _PixelsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Pixels):
        super().__init__(manager, of, of.vector)


# --- arithmetic -----------------------------------------------------------------------------------------------


def compiled(function: Callable) -> Any:
    """A function of compiled code; `function` gives its signature and how it is built."""
    return intrinsic(prefer_literal=True)(function)


class _Arithmetic(AbstractTemplate):
    """Pixels with as many pixels, or with a number on either side."""

    def generic(self, args: tuple, kws: dict) -> Any:
        kinds = {a for a in args if isinstance(a, Pixels)}
        if len(args) == 2 and len(kinds) == 1 and all(isinstance(a, Pixels | types.Float) for a in args):
            pixels = kinds.pop()
            return signature(pixels, *(a if isinstance(a, Pixels) else types.float32 for a in args))
        return None


def _define(operation: Callable, instruction: str) -> None:
    infer_global(operation)(type(f"_{instruction}", (_Arithmetic,), {"key": operation}))

    def lower(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        values = [_spread(builder, sig.return_type, value) for value in args]
        return getattr(builder, instruction)(*values, flags=_FLAGS)

    for kinds in ((Pixels, Pixels), (Pixels, types.Float), (types.Float, Pixels)):
        lower_builtin(operation, *kinds)(lower)


def _spread(builder: Any, pixels: Pixels, value: Any) -> Any:
    """A number as pixels that all hold it; pixels as they are."""
    if value.type == pixels.vector:
        return value
    one = builder.insert_element(ir.Constant(pixels.vector, ir.Undefined), value, _INT(0))
    everywhere = ir.Constant(ir.VectorType(_INT, pixels.vector.count), [0] * pixels.vector.count)
    return builder.shuffle_vector(one, one, everywhere)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_operation, _instruction)


@compiled
def zeros(context: Any, count: Any) -> Any:
    """`count` pixels of zeros; `count` is a constant."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    pixels = Pixels(count.literal_value)
    return pixels(count), lambda context, builder, sig, args: _zeros(pixels)


def _zeros(pixels: Pixels) -> Any:
    return ir.Constant(pixels.vector, [0.0] * pixels.vector.count)


@compiled
def at_least(context: Any, value: Any, floor: Any) -> Any:
    """`value`, or the number `floor` where it is below. NaN stays."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        least = _spread(builder, value, args[1])
        return builder.select(builder.fcmp_ordered("<", args[0], least), least, args[0])

    return value(value, types.float32), build


@compiled
def where_above(context: Any, value: Any, other: Any, floor: Any) -> Any:
    """`value` where `other` is above the number `floor`, else 0."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        above = builder.fcmp_ordered(">", args[1], _spread(builder, value, args[2]))
        return builder.select(above, args[0], _zeros(value))

    return value(value, value, types.float32), build


@compiled
def where_equal(context: Any, value: Any, other: Any, wanted: Any) -> Any:
    """`value` where `other` equals `wanted`, else 0."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return builder.select(builder.fcmp_ordered("==", args[1], args[2]), args[0], _zeros(value))

    return value(value, value, value), build


@compiled
def where_other(context: Any, value: Any, other: Any, wanted: Any) -> Any:
    """`value` where `other` does not equal `wanted`, else 0."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return builder.select(builder.fcmp_ordered("==", args[1], args[2]), _zeros(value), args[0])

    return value(value, value, value), build


@compiled
def larger(context: Any, value: Any, other: Any) -> Any:
    """The larger of two, float by float; NaN where one is NaN."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        first = builder.or_(builder.fcmp_ordered(">", *args), builder.fcmp_unordered("uno", args[0], args[0]))
        return builder.select(first, *args)

    return value(value, value), build


@compiled
def repeat(context: Any, pixel: Any, like: Any) -> Any:
    """One pixel as often as `like` has pixels."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        order = [i % LANES for i in range(like.vector.count)]
        return builder.shuffle_vector(args[0], args[0], ir.Constant(ir.VectorType(_INT, len(order)), order))

    return like(pixel, like), build


@compiled
def pixel_sum(context: Any, value: Any) -> Any:
    """The sum of these pixels, one pixel."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        total, left = args[0], value.vector.count
        while left > LANES:
            left //= 2
            halves = (_part(builder, total, 0, left), _part(builder, total, left, left))
            total = builder.fadd(*halves, flags=_FLAGS)
        return total

    return Pixels(1)(value), build


@compiled
def float_sum(context: Any, value: Any) -> Any:
    """The sum of all floats."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT, value.vector])
        name = f"llvm.vector.reduce.fadd.v{value.vector.count}f32"
        add = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(add, [_FLOAT(-0.0), args[0]], fastmath=("reassoc",))

    return types.float32(value), build


@compiled
def first_lane(context: Any, value: Any) -> Any:
    """The first float."""
    return types.float32(value), lambda context, builder, sig, args: builder.extract_element(args[0], _INT(0))


# --- memory ---------------------------------------------------------------------------------------------------


@compiled
def load(context: Any, data: Any, at: Any, step: Any, like: Any) -> Any:
    """As many pixels as `like` has: those at data[at], data[at + step], ... The first must lie at a multiple of 64
    bytes, and `step` is a multiple of 16.
    """

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        parts = [_loaded(builder, place) for place in _places(context, builder, sig, args, like.count)]
        while len(parts) > 1:
            parts = [_joined(builder, *pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return like(data, types.intp, types.intp, like), build


@compiled
def store(context: Any, data: Any, at: Any, step: Any, value: Any) -> Any:
    """Writes the pixels to where `load` finds them."""

    def build(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        for number, place in enumerate(_places(context, builder, sig, args, value.count)):
            builder.store(_part(builder, args[3], number * LANES, LANES), place).align = 4 * LANES
        return context.get_dummy_value()

    return types.void(data, types.intp, types.intp, value), build


def _places(context: Any, builder: Any, sig: Any, args: tuple, count: int) -> list:
    """Pointers to `count` pixels, `step` floats apart."""
    first = context.make_array(sig.args[0])(context, builder, args[0]).data
    pixel, found = ir.VectorType(_FLOAT, LANES).as_pointer(), []
    for number in range(count):
        at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, number)))
        found.append(builder.bitcast(builder.gep(first, [at]), pixel))
    return found


def _loaded(builder: Any, place: Any) -> Any:
    value = builder.load(place)
    value.align = 4 * LANES
    return value


def _joined(builder: Any, a: Any, b: Any) -> Any:
    order = ir.Constant(ir.VectorType(_INT, 2 * a.type.count), list(range(2 * a.type.count)))
    return builder.shuffle_vector(a, b, order)


def _part(builder: Any, value: Any, first: int, count: int) -> Any:
    order = ir.Constant(ir.VectorType(_INT, count), list(range(first, first + count)))
    return builder.shuffle_vector(value, value, order)
