"""What the GPU kernels of the chamfer and of IDO compile to for sm_90 (H100, H200): no GPU is needed.

    python benchmarks/gpu_resources.py [--csv FILE] [--json FILE]

A row a kernel and form: registers of a thread, bytes of shared memory of a program, bytes spilled (stack and local
memory), all by ptxas; and for the search, whose loop is nearly all of its time, the instructions of that loop for a
distance, by the disassembler: a machine issues one a clock, so eight, the least that any exact search takes (three
differences, three multiplications and additions, two comparisons), over that number bounds the share of it attained.
Both programs come with Triton. In the records `gpu_resources.KERNEL.WHAT`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from harness import Record, finish, parser

#: kernel, form by name, warps, arguments known when compiling
FORMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "search": ("search", 1, {"DEFORM": False, "MIRROR": False, "TWO_SIDED": True}),
    "search_deformed": ("search", 1, {"DEFORM": True, "MIRROR": False, "TWO_SIDED": True}),
    "search_mirror": ("search", 1, {"DEFORM": False, "MIRROR": True, "TWO_SIDED": True}),
    "search_one_sided": ("search", 1, {"DEFORM": False, "MIRROR": False, "TWO_SIDED": False}),
    "search_one_tile": ("search", 1, {"DEFORM": True, "MIRROR": False, "TWO_SIDED": True, "num_tiles": 1}),
    "resolve": ("resolve", 4, {"MIRROR": False, "BLOCK": 128}),
    "resolve_mirror": ("resolve", 4, {"MIRROR": True, "BLOCK": 128}),
    "row_means": ("row_means", 4, {"BLOCK": 128}),
    "count_pulls": ("count_pulls", 4, {"MIRROR": False, "BLOCK": 128}),
    "point_gradient": ("point_gradient", 4, {"MIRROR": False, "OWN": True, "COUNTED": True, "BLOCK": 128}),
    "point_gradient_mirror": ("point_gradient", 4, {"MIRROR": True, "OWN": True, "COUNTED": True, "BLOCK": 128}),
    "pull_parts_from_x": ("pull_parts", 1, {"FROM_X": True, "MIRROR": False, "BLOCK": 256}),
    "pull_parts_from_y": ("pull_parts", 1, {"FROM_X": False, "MIRROR": False, "BLOCK": 256}),
    "lower_bounds": ("lower_bounds", 4, {"SLACK": 1e-5, "FIELD_SLACK": 1.5e-4, "VERTICES": 24, "BLOCK": 256}),
    "pull_parts_mirror": ("pull_parts", 1, {"FROM_X": True, "MIRROR": True, "BLOCK": 256}),
    "match_parts_from_x": ("match_parts", 1, {"FROM_X": True, "BLOCK": 128}),
    "match_parts_from_y": ("match_parts", 1, {"FROM_X": False, "BLOCK": 128}),
    "bounded_step_8": ("bounded_step", 1, {"PARTS": 8, "COLUMNS": 16}),
    "bounded_step_16": ("bounded_step", 4, {"PARTS": 16, "COLUMNS": 32}),
    "bounded_step_32": ("bounded_step", 16, {"PARTS": 32, "COLUMNS": 64}),
}
#: arguments that are not pointers to float32; those called num_... and span are int32
KINDS = {
    **dict.fromkeys(
        ("part_index", "y_rows", "query_rows", "cloud_rows", "from_x", "from_y", "table", "counts"), "*i64"
    ),
    "indices": "*i32",
    **dict.fromkeys(("match_sums", "rows", "basis", "step"), "*fp64"),
    **dict.fromkeys(("factor", "factor_counted"), "fp32"),
}


def compiled(kernel: Any, num_warps: int, known: dict[str, Any]) -> bytes:
    """The machine code of a kernel, for tensors that start at multiples of 16 bytes as torch's do."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name: str) -> str:
        if name in known:
            return "constexpr"
        return "i32" if name.startswith(("num_", "span")) else KINDS.get(name, "*fp32")

    signature = {name: kind(name) for name in kernel.arg_names}
    pointers = [place for place, of_argument in enumerate(signature.values()) if of_argument.startswith("*")]
    source = ASTSource(kernel, signature, known, {(place,): [["tt.divisibility", 16]] for place in pointers})
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


def told_of(code: bytes, *command: str) -> str:
    """What a tool of Triton's says of machine code."""
    import triton.backends.nvidia as nvidia

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        tool = Path(str(nvidia.__file__)).parent / "bin" / command[0]
        return subprocess.run([tool, *command[1:], file.name], capture_output=True, text=True, check=True).stdout


def longest_loop(disassembly: str) -> Counter[str]:
    """How often each instruction stands between a label and the branch back to it, where most do."""
    labels, instructions, longest = {}, [], []
    for line in disassembly.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label.group(1)] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?(\w+)(.*?);", line):
            instructions.append(found.group(1))
            back = re.search(r"`\((\.L_\S+)\)", found.group(2)) if found.group(1) == "BRA" else None
            if back and back.group(1) in labels:
                longest = max(longest, instructions[labels[back.group(1)] :], key=len)
    return Counter(longest)


def resources(name: str) -> dict[str, float]:
    """What one of FORMS takes."""
    from jr_dist.geometry import bound_kernels, chamfer_kernels, matched_kernels
    from jr_dist.models import step_kernels

    kernel, num_warps, known = FORMS[name]
    others = {"lower_bounds": bound_kernels, "match_parts": matched_kernels, "bounded_step": step_kernels}
    code = compiled(getattr(others.get(kernel, chamfer_kernels), kernel), num_warps, known)
    taken = {what: int(value) for what, value in re.findall(r"(\w+):(\d+)", told_of(code, "cuobjdump", "-res-usage"))}
    found: dict[str, float] = {
        "registers": taken["REG"],
        "shared": taken["SHARED"],
        "spilled": taken["STACK"] + taken["LOCAL"],
    }
    if kernel == "search":
        loop, distances = longest_loop(told_of(code, "nvdisasm", "-c")), chamfer_kernels.CHUNK * chamfer_kernels.STEP
        found["instructions"] = loop.total() / distances
        found["arithmetic"] = (loop["FADD"] + loop["FMUL"] + loop["FFMA"]) / distances
    return found


def main() -> None:
    """Compile, print, write."""
    options = parser(__doc__).parse_args()
    records = []
    units = {"shared": "B", "spilled": "B"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # what was compiled before may have been compiled otherwise
        for name in FORMS:
            for what, value in resources(name).items():
                records.append(Record(f"gpu_resources.{name}.{what}", value, units.get(what, "")))
    finish(records, options.json, options.csv)


if __name__ == "__main__":
    main()
