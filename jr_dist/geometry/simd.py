"""Sixteen float32 lanes as one numba value.

LLVM does not vectorise "sixteen queries against one leaf" by itself (it keeps the running minima in memory), so the
vectors are spelled out. LLVM splits sixteen lanes into what a machine has: one AVX-512, two AVX or four NEON
registers; nothing here names an instruction set. Only what the nearest-neighbour kernels use is defined.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
#: the exact answer must not depend on flags: no fastmath, only the fused multiply-add that `multiply_add` asks for
OPTIONS = {"nogil": True, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Any:
    """njit with the machine code cached on disk: beside the source, in NUMBA_CACHE_DIR, or in the user's cache."""
    try:
        return njit(function, cache=True, **OPTIONS)
    except RuntimeError:  # a read-only installation and no home: compile anew in each process
        return njit(function, **OPTIONS)


def inlined(function: Callable[..., Any]) -> Any:
    """njit whose text takes the place of its calls: vectors then stay in registers, which a call puts into memory."""
    return njit(function, inline="always", **OPTIONS)


def operation(typed: Callable[..., Any]) -> Any:
    """An operation that numba replaces by the instructions `typed` emits; called without its first argument."""
    return intrinsic(typed)


class LanesType(types.Type):
    """A numba type that is an LLVM vector."""

    def __init__(self, name, element):
        super().__init__(name=name)
        self.vector = ir.VectorType(element, LANES)


floats = LanesType("FloatLanes", ir.FloatType())
integers = LanesType("IntegerLanes", ir.IntType(32))
masks = LanesType("MaskLanes", ir.IntType(1))


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """Held in memory and passed to functions as the vector itself."""

    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, lanes.vector)


def _address(context, builder, array_type, array, offset, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


@operation
def load(typing_context, array, offset):
    """array[offset : offset + 16] of a contiguous float32 vector."""

    def emit(context, builder, signature, arguments):
        value = builder.load(_address(context, builder, array, arguments[0], arguments[1], floats.vector))
        value.align = 4
        return value

    return floats(array, types.intp), emit


@operation
def store(typing_context, array, offset, lanes):
    """array[offset : offset + 16] = lanes, float32 or int32."""

    def emit(context, builder, signature, arguments):
        address = _address(context, builder, array, arguments[0], arguments[1], lanes.vector)
        builder.store(arguments[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@operation
def splat(typing_context, scalar):
    """The same number in each lane: float32 of a float, int32 of an integer."""
    lanes, number = (floats, types.float32) if isinstance(scalar, types.Float) else (integers, types.int32)

    def emit(context, builder, signature, arguments):
        undefined = ir.Constant(lanes.vector, ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.IntType(32)(0))
        return builder.shuffle_vector(first, undefined, ir.Constant(integers.vector, [0] * LANES))

    return lanes(number), emit


def _elementwise(result: LanesType, emit_values: Callable[..., Any]) -> Any:
    """An operation on two vectors of floats."""

    def typed(typing_context, a, b):
        def emit(context, builder, signature, arguments):
            return emit_values(builder, *arguments)

        return result(floats, floats), emit

    return operation(typed)


def _select(builder, sign, a, b):
    return builder.select(builder.fcmp_ordered(sign, a, b), a, b)


subtract = _elementwise(floats, lambda builder, a, b: builder.fsub(a, b))
multiply = _elementwise(floats, lambda builder, a, b: builder.fmul(a, b))
minimum = _elementwise(floats, lambda builder, a, b: _select(builder, "<", a, b))
maximum = _elementwise(floats, lambda builder, a, b: _select(builder, ">", a, b))
less = _elementwise(masks, lambda builder, a, b: builder.fcmp_ordered("<", a, b))


def _call(builder, name, result, arguments, **flags):
    kind = ir.FunctionType(result, [floats.vector] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments, **flags)


@operation
def multiply_add(typing_context, a, b, c):
    """a * b + c, in one rounding where the machine has that instruction."""

    def emit(context, builder, signature, arguments):
        return _call(builder, "fmuladd", floats.vector, arguments)

    return floats(floats, floats, floats), emit


@operation
def where(typing_context, mask, a, b):
    """a in the lanes where mask holds, b elsewhere."""

    def emit(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(masks, a, a), emit


@operation
def bits(typing_context, mask):
    """The mask as the low 16 bits of an integer."""

    def emit(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), ir.IntType(32))

    return types.uint32(masks), emit


@operation
def lowest_bit(typing_context, number):
    """The position of the lowest set bit of a number that isn't zero."""

    def emit(context, builder, signature, arguments):
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), ir.IntType(64))

    return types.intp(types.uint32), emit


def _across(name: str) -> Any:
    def typed(typing_context, lanes):
        def emit(context, builder, signature, arguments):
            # without "no lane is NaN" LLVM would compare one lane after another
            return _call(builder, f"vector.reduce.{name}", ir.FloatType(), arguments, fastmath=("nnan",))

        return types.float32(floats), emit

    return operation(typed)


largest = _across("fmax")
smallest = _across("fmin")
