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
    """array[index] of a contiguous vector of float32 or int32, lane by lane; nothing checks its bounds."""
    lanes = {types.float32: floats, types.int32: integers}[array.dtype]

    def emit(context, builder, signature, arguments):
        start = _data(context, builder, array, arguments[0])
        addresses = builder.gep(start, [arguments[1]], source_etype=lanes.vector.element)
        addresses.type = ir.VectorType(start.type, LANES)  # which llvmlite doesn't know of: an address a lane
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES)
        kind = ir.FunctionType(lanes.vector, [addresses.type, ir.IntType(32), all_lanes.type, lanes.vector])
        name = f"llvm.masked.gather.v{LANES}{'f' if lanes is floats else 'i'}32.v{LANES}p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(
            function, [addresses, ir.IntType(32)(4), all_lanes, ir.Constant(lanes.vector, ir.Undefined)]
        )

    return lanes(array, integers), emit


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
