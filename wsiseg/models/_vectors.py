"""Eight float32 numbers as one value, inside functions compiled by numba.

numba leaves it to the compiler whether a loop becomes vector instructions, and in what order
it adds; here both are said.  Every operation is one IEEE operation on each lane (`fma` rounds
once), so a result is the same on every processor that multiplies and adds in one step, and
does not depend on where in an array it is computed.

Arrays are C-contiguous; `at` counts elements from their start, whatever their shape is.

numba caches compiled kernels by the file they stand in: after a change here, touch those that
use it.
"""

# numba hands over more than most functions here need.
# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.extending import models, register_model

LANES = 8
"""Numbers in a vector."""

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
intrinsic: Any = extending.intrinsic
_EXPONENT_BIAS, _FRACTION_BITS = 127, 23


class _Vector(types.Type):
    """numba's type of the value."""

    def __init__(self) -> None:
        super().__init__(name="wsiseg_float32x8")


_VECTOR: Any = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    """How it lies in a register."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def _in_all_lanes(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


@intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """Return the eight numbers from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], *values)
        return builder.load(builder.bitcast(place, _FLOATS.as_pointer()), align=4)

    return _VECTOR(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, vector: Any) -> Any:
    """Write the eight numbers from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], values[0], values[1])
        builder.store(values[2], builder.bitcast(place, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@intrinsic
def store_bytes(typing: Any, array: Any, at: Any, vector: Any) -> Any:
    """Write eight whole numbers that an array of bytes (uint8 or int8) can hold."""
    is_signed = array.dtype.signed

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], values[0], values[1])
        convert = builder.fptosi if is_signed else builder.fptoui
        whole = builder.trunc(convert(values[2], _INTEGERS), _BYTES)
        builder.store(whole, builder.bitcast(place, _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@intrinsic
def spread(typing: Any, array: Any, at: Any) -> Any:
    """Return the number at `at` in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _in_all_lanes(
            builder, builder.load(_place(context, builder, signature.args[0], *values))
        )

    return _VECTOR(array, types.intp), generate


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """Return a number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = context.cast(builder, values[0], signature.args[0], types.float32)
        return _in_all_lanes(builder, number)

    return _VECTOR(number), generate


def _call(name: str, n: int) -> Any:
    """Return an intrinsic that is LLVM's of that name, of `n` vectors."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * n)
        full_name = f"llvm.{name}.v8f32"
        function = builder.module.globals.get(full_name)
        if function is None:
            function = ir.Function(builder.module, kind, full_name)
        return builder.call(function, values)

    return _VECTOR(*[_VECTOR] * n), generate


def _instruction(name: str) -> Any:
    """Return an intrinsic that is one instruction of LLVM on two vectors."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, name)(*values)

    return _VECTOR(_VECTOR, _VECTOR), generate


def _chosen(comparison: str) -> Any:
    """Return an intrinsic: the first where the comparison holds, else the second."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered(comparison, *values), *values)

    return _VECTOR(_VECTOR, _VECTOR), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a·b + c, rounded once."""
    return _call("fma", 3)


@intrinsic
def rint(typing: Any, a: Any) -> Any:
    """Return the nearest whole numbers, of two the even one."""
    return _call("rint", 1)


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Return a + b."""
    return _instruction("fadd")


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """Return a - b."""
    return _instruction("fsub")


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """Return a·b."""
    return _instruction("fmul")


@intrinsic
def divide(typing: Any, a: Any, b: Any) -> Any:
    """Return a / b."""
    return _instruction("fdiv")


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger of two; `b` where one is not a number."""
    return _chosen(">")


@intrinsic
def smaller(typing: Any, a: Any, b: Any) -> Any:
    """Return the smaller of two; `b` where one is not a number."""
    return _chosen("<")


@intrinsic
def power_of_two(typing: Any, exponent: Any) -> Any:
    """Return 2 to whole numbers from -126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bias = ir.Constant(_INTEGERS, [_EXPONENT_BIAS] * LANES)
        shift = ir.Constant(_INTEGERS, [_FRACTION_BITS] * LANES)
        biased = builder.add(builder.fptosi(values[0], _INTEGERS), bias)
        return builder.bitcast(builder.shl(biased, shift), _FLOATS)

    return _VECTOR(_VECTOR), generate


def is_whole(n: int) -> bool:
    """Return whether `n` numbers fill vectors."""
    return n % LANES == 0


def padded(n: int) -> int:
    """Return how many numbers `n` are when filled up to whole vectors."""
    return -(-n // LANES) * LANES


FLOAT = np.float32
"""What the lanes hold."""
