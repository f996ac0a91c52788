"""Sixteen rows at once: what the kernels do in vector registers.

``dots`` multiplies the coarse bytes of a block with one query, ``dots_of_tile`` with ``TILE`` queries, ``dot_of_row``
the bytes of one row with one query.  The type of the
query chooses how (spec/search.md, "Kernels"):

* int16, each group of 4 dimensions once for each of the 16 rows: plain multiplications and additions (portable);
* int8, two limbs side by side, or one in a tile: the CPU's dot product of bytes, four at a time, emitted as such
  (native).  That of x86 takes one operand unsigned, so 128 is added to each coarse byte, and 128 times the query's sum
  is taken off again by the bounds, as their ``surplus``.

``lower``, ``least`` and ``least_shown`` turn products into bounds.

All are emitted as vectors of 16 or 64 numbers, which every CPU's compiler cuts to its own width; what it makes of the
same in loops is several times slower.  Without the jit, NumPy makes the same numbers: the functions that say so stand
first.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core import config as numba_config
from numba.extending import intrinsic

__all__ = [
    "TILE",
    "UNSIGNED",
    "byte_dot_product",
    "dot_of_row",
    "dots",
    "dots_of_tile",
    "fetch",
    "least",
    "least_shown",
    "lower",
    "unsound",
]

TILE = 16  # queries whose sums fit the vector registers beside a line of rows
UNSIGNED = 128  # added to each coarse byte by the native kernel

_SETTINGS: Any = numba_config  # made of environment variables, so its names have no types
_LINE = 64
_NONE = (1 << 63) - 1
_PANEL = 1 << 9  # steps whose int32 sums cannot overflow, in each of the 64 places

assert _PANEL * 127 * (127 * 128 + 63) < 1 << 31


def unsound() -> str | None:
    """Why nothing compiled may be used here, or None.

    On s390x an array allocated in a kernel ends in a crash: numba does not say how the runtime's 32-bit arguments are
    extended, and there the caller must.  On mips64 ``measure`` crashes; why is not known.  (Numba 0.56, LLVM 14.)
    """
    triple = str(llvm.get_default_triple())
    return f"what numba compiles crashes on {triple}" if triple.startswith(("s390x", "mips64")) else None


def byte_dot_product() -> int:
    """Bits of the widest byte dot product that the compiler may use here: 512, 256, or 0 for none.

    What NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say is believed.
    """
    if _SETTINGS.CPU_FEATURES is not None:
        given = set(_SETTINGS.CPU_FEATURES.split(","))
        features = {name[1:] for name in given if name.startswith("+")}
    elif _SETTINGS.CPU_NAME is not None and _SETTINGS.CPU_NAME != "host":
        return 0
    else:
        features = {name for name, has in llvm.get_host_cpu_features().items() if has}
    if {"avx512vnni", "avx512bw", "avx512vl"} <= features:
        return 512
    if "avxvnni" in features:
        return 256
    return 0


# ------------------------------------------------------------------------------------------------------- what they mean


def _plain_dots(data, block, query, products):
    """products[row] = sum of coarse bytes times the query, int64 (16,); with limbs, 128 times the query's sum too much.

    ``data`` int8 (blocks, steps, 64); ``query`` int16 (steps, 64), or limbs int8 (steps, 8): 4 high, 4 low.
    """
    rows = data[block].reshape(-1, 16, 4).astype(np.int64)
    if query.dtype == np.int16:
        products[:] = (rows * query.reshape(-1, 16, 4)).sum(axis=(0, 2))
    else:
        _plain_sum(rows, query[:, :4].astype(np.int64) * 128 + query[:, 4:], products)


def _plain_sum(rows, query, products):
    products[:] = ((rows + UNSIGNED) * query[:, None, :]).sum(axis=(0, 2))


def _plain_dots_of_tile(data, block, queries, tile, products):
    """``dots`` of the ``TILE`` queries of a tile: products int64 (TILE, 16).

    ``queries`` int16 (tiles, TILE, steps, 64), or int8 (tiles, steps, TILE, 4), which is one limb.
    """
    for member in range(TILE):
        if queries.dtype == np.int16:
            _plain_dots(data, block, queries[tile, member], products[member])
        else:
            rows = data[block].reshape(-1, 16, 4).astype(np.int64)
            _plain_sum(rows, queries[tile, :, member].astype(np.int64), products[member])


def _plain_dot_of_row(data, row, query):
    """The product of one row with a query, int64: ``data`` int8 (rows, n, 64), ``query`` int16 (n, 64), n at most 4."""
    return (data[row].astype(np.int64) * query).sum()


def _plain_lower(products, member, first, base, shift, rho, surplus, t, alpha, shared, out):
    """out[lane] = base - (products - surplus) * 2^(shift + t) - rho * alpha - shared, for 16 rows from ``first`` on.

    ``products`` int64 (members, 16).  All int64, but shift uint8, and rho int32, which is not negative; 0 <= alpha <
    2^32.
    """
    rows = slice(first, first + 16)
    scaled = (products[member] - surplus) << (shift[rows].astype(np.int64) + t)
    out[:] = base[rows] - scaled - rho[rows].astype(np.int64) * alpha - shared


def _plain_least(products, member, first, base, shift, rho, surplus, t, alpha, quantum, above, place):
    """The least ``lower`` of the 16 rows, with nothing shared.

    How many times 2^quantum each is above that, 255 if more, goes to ``above``, uint8, from its element ``place`` on.
    """
    out = np.empty(16, dtype=np.int64)
    _plain_lower(products, member, first, base, shift, rho, surplus, t, alpha, 0, out)
    return _plain_steps(out, quantum, above, place)


def _plain_least_shown(products, member, first, base, shift, rho, surplus, t, alpha, quantum, above, place, mask):
    """``least`` of those that bool ``mask`` shows; 2^63 - 1 if there are none."""
    out = np.empty(16, dtype=np.int64)
    _plain_lower(products, member, first, base, shift, rho, surplus, t, alpha, 0, out)
    return _plain_steps(np.where(mask[first : first + 16], out, _NONE), quantum, above, place)


def _plain_steps(bounds, quantum, above, place):
    least = bounds.min()
    above.reshape(-1)[place : place + 16] = np.minimum(
        (bounds.view(np.uint64) - least.view(np.uint64)) >> np.uint64(quantum), 255
    )
    return least


def _plain_fetch(data, block):
    """Ask for the lines of a block that will be read soon; nothing depends on it."""


# ----------------------------------------------------------------------------------------------------- what is emitted

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _data(context: Any, builder: Any, signature: Any, args: Any, number: int, kind: Any) -> Any:
    """The address of an array argument's first element."""
    array = context.make_array(signature.args[number])(context, builder, args[number])
    return builder.bitcast(array.data, kind.as_pointer())


def _length(context: Any, builder: Any, signature: Any, args: Any, number: int, axis: int) -> Any:
    """An array argument's length, in 64 bits on every machine."""
    array = context.make_array(signature.args[number])(context, builder, args[number])
    return builder.zext(cgutils.unpack_tuple(builder, array.shape)[axis], _I64)


def _load(builder: Any, address: Any, at: Any, kind: Any, count: int) -> Any:
    """``count`` elements from ``at`` on."""
    place = builder.gep(builder.bitcast(address, kind.as_pointer()), [at])
    return builder.load(builder.bitcast(place, ir.VectorType(kind, count).as_pointer()), align=1)


def _everywhere(builder: Any, value: Any, count: int) -> Any:
    """A vector of ``count`` times the same."""
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, count), [0] * count))


def _emit_native(
    builder: Any, rows: Any, steps: Any, query: Any, products: Any, *, queries: int, limbs: int, chains: int
) -> None:
    """products[query][row] of one block with ``queries`` queries of one limb, or of two: 128 high + low.

    A byte dot product takes some cycles until its sum can be added to again, so the steps of one query are dealt out to
    ``chains`` sums, which are added at the end.
    """
    bits = byte_dot_product() or 512  # a forced compile elsewhere fails in LLVM, not in silence
    lanes, parts, width = bits // 32, 512 // bits, limbs * queries
    numbers, octets, wide = (ir.VectorType(kind, n) for kind, n in ((_I32, lanes), (_I8, 4 * lanes), (_I64, lanes)))
    dot = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(numbers, [numbers, numbers, numbers]), f"llvm.x86.avx512.vpdpbusd.{bits}"
    )  # its octets by fours: later LLVM types them as octets, and still reads the older type
    flip = ir.Constant(octets, [-UNSIGNED] * (4 * lanes))

    def add(step: Any, part: int, totals: list[Any]) -> None:
        at = builder.add(builder.mul(step, _number(_LINE)), _number(4 * lanes * part))
        line = builder.bitcast(builder.xor(_load(builder, rows, at, _I8, 4 * lanes), flip), numbers)
        word = builder.mul(step, _number(width))
        for number in range(width):
            limb = builder.load(builder.gep(query, [builder.add(word, _number(number))]), align=4)
            spread = _everywhere(builder, limb, lanes)
            builder.store(builder.call(dot, [builder.load(totals[number]), line, spread]), totals[number])

    rounds = builder.udiv(steps, _number(chains))
    dealt = builder.mul(rounds, _number(chains))
    for part in range(parts):
        zero = ir.Constant(numbers, None)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(width)] for _ in range(chains)]
        with cgutils.for_range(builder, rounds) as loop:
            first = builder.mul(loop.index, _number(chains))
            for chain in range(chains):
                add(builder.add(first, _number(chain)), part, totals[chain])
        with cgutils.for_range(builder, builder.sub(steps, dealt)) as loop:
            add(builder.add(dealt, loop.index), part, totals[0])
        for number in range(queries):
            whole = ir.Constant(wide, None)
            for limb in range(limbs * number, limbs * number + limbs):
                total = builder.load(totals[0][limb])
                for chain in range(1, chains):
                    total = builder.add(total, builder.load(totals[chain][limb]))
                whole = builder.add(builder.shl(whole, ir.Constant(wide, [7] * lanes)), builder.sext(total, wide))
            place = builder.gep(products, [_number(16 * number + lanes * part)])
            builder.store(whole, builder.bitcast(place, wide.as_pointer()), align=8)


def _emit_portable(builder: Any, rows: Any, steps: Any, query: Any, products: Any) -> None:
    """products[row] of one block with one query: 64 sums in int32, a panel of steps at a time, then 16 in int64."""
    numbers, wide = ir.VectorType(_I32, _LINE), ir.VectorType(_I64, 16)
    total = cgutils.alloca_once(builder, wide)
    builder.store(ir.Constant(wide, None), total)
    panel = cgutils.alloca_once(builder, numbers)
    panels = builder.udiv(builder.add(steps, _number(_PANEL - 1)), _number(_PANEL))
    with cgutils.for_range(builder, panels) as outer:
        first = builder.mul(outer.index, _number(_PANEL))
        left = builder.sub(steps, first)
        count = builder.select(builder.icmp_signed("<", left, _number(_PANEL)), left, _number(_PANEL))
        builder.store(ir.Constant(numbers, None), panel)
        with cgutils.for_range(builder, count) as inner:
            at = builder.mul(builder.add(first, inner.index), _number(_LINE))
            line = builder.sext(_load(builder, rows, at, _I8, _LINE), numbers)
            factors = builder.sext(_load(builder, query, at, ir.IntType(16), _LINE), numbers)
            builder.store(builder.add(builder.load(panel), builder.mul(line, factors)), panel)
        sums = builder.load(panel)
        for place in range(4):
            chosen = ir.Constant(ir.VectorType(_I32, 16), [4 * lane + place for lane in range(16)])
            some = builder.sext(builder.shuffle_vector(sums, ir.Constant(numbers, ir.Undefined), chosen), wide)
            builder.store(builder.add(builder.load(total), some), total)
    builder.store(builder.load(total), builder.bitcast(products, wide.as_pointer()), align=8)


@intrinsic
def _dots(typingctx, data, block, query, products):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        steps = _length(context, builder, signature, args, 0, 1)
        place = builder.mul(args[1], builder.mul(steps, _number(_LINE)))
        rows = builder.gep(_data(context, builder, signature, args, 0, _I8), [place])
        out = _data(context, builder, signature, args, 3, _I64)
        if query.dtype == types.int8:
            limbs = _data(context, builder, signature, args, 2, _I32)
            _emit_native(builder, rows, steps, limbs, out, queries=1, limbs=2, chains=4)
        else:
            _emit_portable(builder, rows, steps, _data(context, builder, signature, args, 2, _I8), out)
        return context.get_dummy_value()

    return types.void(data, types.int64, query, products), emit


@intrinsic
def _dots_of_tile(typingctx, data, block, queries, tile, products):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        steps = _length(context, builder, signature, args, 0, 1)
        place = builder.mul(args[1], builder.mul(steps, _number(_LINE)))
        rows = builder.gep(_data(context, builder, signature, args, 0, _I8), [place])
        out = _data(context, builder, signature, args, 4, _I64)
        if queries.dtype == types.int8:
            first = builder.mul(args[3], builder.mul(steps, _number(TILE)))
            limbs = builder.gep(_data(context, builder, signature, args, 2, _I32), [first])
            _emit_native(builder, rows, steps, limbs, out, queries=TILE, limbs=1, chains=1)
        else:
            line = builder.mul(steps, _number(2 * _LINE))
            for member in range(TILE):
                number = builder.add(builder.mul(args[3], _number(TILE)), _number(member))
                start = builder.mul(number, line)
                query = builder.gep(_data(context, builder, signature, args, 2, _I8), [start])
                _emit_portable(builder, rows, steps, query, builder.gep(out, [_number(16 * member)]))
        return context.get_dummy_value()

    return types.void(data, types.int64, queries, types.int64, products), emit


@intrinsic
def _dot_of_row(typingctx, data, row, query):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lines = _length(context, builder, signature, args, 0, 1)
        place = builder.mul(args[1], builder.mul(lines, _number(_LINE)))
        start = builder.gep(_data(context, builder, signature, args, 0, _I8), [place])
        factors = _data(context, builder, signature, args, 2, ir.IntType(16))
        numbers = ir.VectorType(_I32, 16)
        total = cgutils.alloca_once_value(builder, ir.Constant(numbers, None))
        with cgutils.for_range(builder, lines) as loop:
            for part in range(0, _LINE, 16):
                at = builder.add(builder.mul(loop.index, _number(_LINE)), _number(part))
                some = builder.sext(_load(builder, start, at, _I8, 16), numbers)
                weights = builder.sext(_load(builder, factors, at, ir.IntType(16), 16), numbers)
                builder.store(builder.add(builder.load(total), builder.mul(some, weights)), total)
        added = ir.FunctionType(_I32, [numbers])
        function = cgutils.get_or_insert_function(builder.module, added, "llvm.vector.reduce.add.v16i32")
        return builder.sext(builder.call(function, [builder.load(total)]), _I64)

    return types.int64(data, types.int64, query), emit


def _bounds(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """The bounds of 16 rows, from the arguments that the three below begin with: <16 x i64>."""
    first, surplus, t, alpha = args[2], args[6], args[7], args[8]
    wide = ir.VectorType(_I64, 16)

    def column(number: int, kind: Any, at: Any) -> Any:
        return _load(builder, _data(context, builder, signature, args, number, kind), at, kind, 16)

    row = builder.mul(args[1], _number(16))
    product = builder.sub(column(0, _I64, row), _everywhere(builder, surplus, 16))
    shifts = builder.add(builder.zext(column(4, _I8, first), wide), _everywhere(builder, t, 16))
    # alpha through 32 bits, so that one 32 x 32 -> 64 bit multiplication is seen to do
    narrow = _everywhere(builder, builder.zext(builder.trunc(alpha, _I32), _I64), 16)
    error = builder.mul(builder.zext(column(5, _I32, first), wide), narrow)
    return builder.sub(builder.sub(column(3, _I64, first), builder.shl(product, shifts)), error)


def _least_of(context: Any, builder: Any, signature: Any, args: Any, bounds: Any) -> Any:
    """The least of the bounds; how far the others are above it goes to ``above``."""
    smallest = ir.FunctionType(_I64, [bounds.type])
    function = cgutils.get_or_insert_function(builder.module, smallest, "llvm.vector.reduce.smin.v16i64")
    lowest = builder.call(function, [bounds])
    distance = builder.sub(bounds, _everywhere(builder, lowest, 16))
    steps = builder.lshr(distance, _everywhere(builder, args[9], 16))
    most = ir.Constant(bounds.type, [255] * 16)
    octets = builder.trunc(builder.select(builder.icmp_unsigned("<", steps, most), steps, most), ir.VectorType(_I8, 16))
    place = builder.gep(_data(context, builder, signature, args, 10, _I8), [args[11]])
    builder.store(octets, builder.bitcast(place, octets.type.as_pointer()), align=1)
    return lowest


@intrinsic
def _lower(typingctx, products, member, first, base, shift, rho, surplus, t, alpha, shared, out):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bounds = builder.sub(_bounds(context, builder, signature, args), _everywhere(builder, args[9], 16))
        place = builder.bitcast(_data(context, builder, signature, args, 10, _I64), bounds.type.as_pointer())
        builder.store(bounds, place, align=8)
        return context.get_dummy_value()

    n = types.int64
    return types.void(products, n, n, base, shift, rho, n, n, n, n, out), emit


@intrinsic
def _least(typingctx, products, member, first, base, shift, rho, surplus, t, alpha, quantum, above, place):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _least_of(context, builder, signature, args, _bounds(context, builder, signature, args))

    n = types.int64
    return n(products, n, n, base, shift, rho, n, n, n, n, above, n), emit


@intrinsic
def _least_shown(typingctx, products, member, first, base, shift, rho, surplus, t, alpha, quantum, above, place, mask):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bounds = _bounds(context, builder, signature, args)
        bits = _load(builder, _data(context, builder, signature, args, 12, _I8), args[2], _I8, 16)
        shown = builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, [0] * 16))
        chosen = builder.select(shown, bounds, ir.Constant(bounds.type, [_NONE] * 16))
        return _least_of(context, builder, signature, args, chosen)

    n = types.int64
    return n(products, n, n, base, shift, rho, n, n, n, n, above, n, mask), emit


@intrinsic
def _fetch(typingctx, data, block):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        steps = _length(context, builder, signature, args, 0, 1)
        start = builder.mul(args[1], builder.mul(steps, _number(_LINE)))
        rows = builder.gep(_data(context, builder, signature, args, 0, _I8), [start])
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        pointer = "p0" if llvm.llvm_version_info[0] > 16 else "p0i8"  # since pointers have no types
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.prefetch.{pointer}")
        to_read, keep, as_data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        with cgutils.for_range(builder, steps) as loop:
            line = builder.gep(rows, [builder.mul(loop.index, _number(_LINE))])
            builder.call(function, [line, to_read, keep, as_data])
        return context.get_dummy_value()

    return types.void(data, types.int64), emit


# Each as it is called: emitted under the jit, plain without.
_CALLED: dict[bool, tuple[Any, ...]] = {
    False: (_dots, _dots_of_tile, _dot_of_row, _lower, _least, _least_shown, _fetch),
    True: (
        _plain_dots, _plain_dots_of_tile, _plain_dot_of_row,
        _plain_lower, _plain_least, _plain_least_shown, _plain_fetch,
    ),
}  # fmt: skip
dots, dots_of_tile, dot_of_row, lower, least, least_shown, fetch = _CALLED[bool(_SETTINGS.DISABLE_JIT)]
