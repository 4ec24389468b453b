"""Lanes that are looked up in tables: what simd.py leaves out because the search does without it."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from jr_dist.geometry.simd import LANES, floats, integers, operation


def _data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


@operation
def load_integers(typing_context, array, offset):
    """array[offset : offset + 16] of a contiguous int32 vector."""

    def emit(context, builder, signature, arguments):
        address = builder.gep(_data(context, builder, array, arguments[0]), [arguments[1]])
        value = builder.load(builder.bitcast(address, integers.vector.as_pointer()))
        value.align = 4
        return value

    return integers(array, types.intp), emit


@operation
def gather(typing_context, array, index):
    """array[index] of a contiguous float32 vector, lane by lane; no index is looked at whether it is in bounds."""

    def emit(context, builder, signature, arguments):
        words = ir.VectorType(ir.IntType(64), LANES)
        pointers = ir.VectorType(ir.FloatType().as_pointer(), LANES)
        start = builder.ptrtoint(_data(context, builder, array, arguments[0]), ir.IntType(64))
        undefined = ir.Constant(words, ir.Undefined)
        start = builder.insert_element(undefined, start, ir.IntType(32)(0))
        start = builder.shuffle_vector(start, undefined, ir.Constant(integers.vector, [0] * LANES))
        offsets = builder.shl(builder.zext(arguments[1], words), ir.Constant(words, [2] * LANES))
        addresses = builder.inttoptr(builder.add(start, offsets), pointers)
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES)
        kind = ir.FunctionType(floats.vector, [pointers, ir.IntType(32), all_lanes.type, floats.vector])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0")
        return builder.call(
            function, [addresses, ir.IntType(32)(4), all_lanes, ir.Constant(floats.vector, ir.Undefined)]
        )

    return floats(array, integers), emit


@operation
def whole(typing_context, lanes):
    """The integers below these floats, none of which is negative or as large as 2^31."""

    def emit(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], integers.vector)

    return integers(floats), emit


@operation
def as_floats(typing_context, lanes):
    """Integers as floats."""

    def emit(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], floats.vector)

    return floats(integers), emit


@operation
def multiply_add_integers(typing_context, a, b, c):
    """a * b + c."""

    def emit(context, builder, signature, arguments):
        return builder.add(builder.mul(arguments[0], arguments[1]), arguments[2])

    return integers(integers, integers, integers), emit
