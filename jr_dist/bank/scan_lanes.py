"""Operations on sixteen lanes that the scan of the bank needs beside those of geometry/simd.py, in the same way."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from jr_dist.geometry.simd import LANES, LanesType, floats, integers, masks, operation

#: 64 random bits a lane
hashes = LanesType("HashLanes", ir.IntType(64))

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _constant(lanes: LanesType, value: float) -> ir.Constant:
    return ir.Constant(lanes.vector, [value] * LANES)


def _splat(builder, scalar, lanes: LanesType):
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, _constant(integers, 0))


def _address(context, builder, array_type, array, offset):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _elementwise(result: LanesType, operand: LanesType, emit_values: Callable[..., Any]) -> Any:
    """An operation on two vectors of a kind."""

    def typed(typing_context, a, b):
        def emit(context, builder, signature, arguments):
            return emit_values(builder, *arguments)

        return result(operand, operand), emit

    return operation(typed)


add = _elementwise(floats, floats, lambda builder, a, b: builder.fadd(a, b))
divide = _elementwise(floats, floats, lambda builder, a, b: builder.fdiv(a, b))


@operation
def broadcast(typing_context, array, offset):
    """array[offset] of a contiguous float32 vector in each lane."""

    def emit(context, builder, signature, arguments):
        value = builder.load(_address(context, builder, array, *arguments))
        return _splat(builder, value, floats)

    return floats(array, types.intp), emit


@operation
def multiply_subtract(typing_context, a, b, c):
    """a * b - c, in one rounding where the machine has that instruction."""

    def emit(context, builder, signature, arguments):
        a, b, c = arguments
        kind = ir.FunctionType(floats.vector, [floats.vector] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, [a, b, builder.fneg(c)])

    return floats(floats, floats, floats), emit


@operation
def prefetch(typing_context, array, offset):
    """Ask for the cache line of array[offset], into the second level; past the end it does no harm."""

    def emit(context, builder, signature, arguments):
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(_address(context, builder, array, *arguments), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [address, flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@operation
def scaled(typing_context, value, exponent):
    """value * 2^n, where `exponent` is 1.5 * 2^23 + n: the low bits of such a number are those of n."""

    def emit(context, builder, signature, arguments):
        value, exponent = (builder.bitcast(argument, integers.vector) for argument in arguments)
        return builder.bitcast(builder.add(value, builder.shl(exponent, _constant(integers, 23))), floats.vector)

    return floats(floats, floats), emit


@operation
def with_bits(typing_context, lanes):
    """The floats whose bits are the whole parts of these, all of them positive."""

    def emit(context, builder, signature, arguments):
        return builder.bitcast(builder.fptosi(arguments[0], integers.vector), floats.vector)

    return floats(floats), emit


def _load_hashes(context, builder, array_type, array, offset):
    address = _address(context, builder, array_type, array, offset)
    value = builder.load(builder.bitcast(address, hashes.vector.as_pointer()))
    value.align = 8
    return value


@operation
def mixed(typing_context, keys, offset, number):
    """The finaliser of splitmix64 of keys[offset : offset + 16] + number; see bank/noise.py."""

    def emit(context, builder, signature, arguments):
        array, offset, number = arguments
        value = _load_hashes(context, builder, keys, array, offset)
        value = builder.add(value, _splat(builder, number, hashes))
        for shift, factor in MIX:
            value = builder.xor(value, builder.lshr(value, _constant(hashes, shift)))
            value = builder.mul(value, _constant(hashes, factor))
        return builder.xor(value, builder.lshr(value, _constant(hashes, 31)))

    return hashes(keys, types.intp, types.uint64), emit


@operation
def from_above(typing_context, bits):
    """2^31 (1 - u) rounded down, of u in [0, 1) given by its bits, as floats."""

    def emit(context, builder, signature, arguments):
        upper = builder.lshr(builder.not_(arguments[0]), _constant(hashes, 33))
        return builder.sitofp(builder.trunc(upper, integers.vector), floats.vector)

    return floats(hashes), emit


@operation
def less_bits(typing_context, bits, limits, offset):
    """bits < limits[offset : offset + 16], both unsigned."""

    def emit(context, builder, signature, arguments):
        bits, array, offset = arguments
        value = _load_hashes(context, builder, limits, array, offset)
        return builder.icmp_unsigned("<", bits, value)

    return masks(hashes, limits, types.intp), emit
