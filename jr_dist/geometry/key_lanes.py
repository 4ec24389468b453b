"""Lanes that hold keys to sort by: 32-bit integers, compared with their sign; what kd_order.py needs beside simd.py."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from jr_dist.geometry.simd import LANES, floats, integers, masks, operation

_WORD = ir.IntType(32)


def _constant(*values: int) -> ir.Constant:
    return ir.Constant(integers.vector, list(values) * (LANES // len(values)))


def _splat(builder, scalar):
    undefined = ir.Constant(integers.vector, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, _WORD(0)), undefined, _constant(0))


@operation
def places(typing_context, first, step):
    """first, first + step, first + 2 step, ..."""

    def emit(context, builder, signature, arguments):
        first, step = (_splat(builder, argument) for argument in arguments)
        return builder.add(first, builder.mul(step, _constant(*range(LANES))))

    return integers(types.int32, types.int32), emit


@operation
def sortable(typing_context, values, mask, place):
    """Integers in the order of these floats, but for their low bits, those of `mask`, which are those of `place`."""

    def emit(context, builder, signature, arguments):
        values, mask, place = arguments
        pattern = builder.bitcast(values, integers.vector)
        # negative floats sort backwards by their bits: flip all of those but the sign
        flips = builder.and_(builder.ashr(pattern, _constant(31)), _constant(0x7FFFFFFF))
        return builder.or_(builder.and_(builder.xor(pattern, flips), builder.not_(_splat(builder, mask))), place)

    return integers(floats, types.int32, integers), emit


@operation
def below(typing_context, a, b):
    """a < b."""

    def emit(context, builder, signature, arguments):
        return builder.icmp_signed("<", *arguments)

    return masks(integers, integers), emit


@operation
def equal(typing_context, a, b):
    """a == b."""

    def emit(context, builder, signature, arguments):
        return builder.icmp_signed("==", *arguments)

    return masks(integers, integers), emit


@operation
def add_one(typing_context, counts, mask):
    """counts + 1 in the lanes where mask holds."""

    def emit(context, builder, signature, arguments):
        return builder.sub(arguments[0], builder.sext(arguments[1], integers.vector))

    return integers(integers, masks), emit


@operation
def both(typing_context, a, b):
    """Where both masks hold."""

    def emit(context, builder, signature, arguments):
        return builder.and_(*arguments)

    return masks(masks, masks), emit


@operation
def opposite(typing_context, mask):
    """Where mask doesn't hold."""

    def emit(context, builder, signature, arguments):
        return builder.not_(arguments[0])

    return masks(masks), emit


@operation
def compress(typing_context, lanes, mask):
    """The lanes where mask holds moved to the front, in their order; what follows them may be anything."""

    def emit(context, builder, signature, arguments):
        kind = ir.FunctionType(integers.vector, [integers.vector, masks.vector, integers.vector])
        name = f"llvm.experimental.vector.compress.v{LANES}i32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [*arguments, ir.Constant(integers.vector, ir.Undefined)])

    return integers(integers, masks), emit


@operation
def count(typing_context, mask):
    """How many lanes hold."""

    def emit(context, builder, signature, arguments):
        return builder.zext(builder.ctpop(builder.bitcast(arguments[0], ir.IntType(LANES))), ir.IntType(64))

    return types.intp(masks), emit
