"""Compile each kernel of the fast path for a card that is not here; print what it needs, as JSON.

Started with Triton on the path by test_kernels_for_other_cards.py: on a machine without a card
nothing else of the project wants Triton.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from runner.training.kernels import (
    dropout,
    embedding,
    fp8,
    glu,
    loss,
    nf4,
    packed_attention,
    rmsnorm,
    rope,
)
from runner.training.kernels.gpu import warps_for

NUMBER = "*bf16"
WIDTHS = (2048, 4096, 8192)
Kernel = tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]


def signature(function: Any, constants: dict[str, Any], **types: str) -> dict[str, str]:
    """Name each argument's type: tensors of bf16 unless told, sizes and strides as integers."""
    found = {}
    for name in function.arg_names:
        if name in constants:
            found[name] = "constexpr"
        elif name in types:
            found[name] = types[name]
        else:
            is_size = name in _SIZES or name.endswith(("stride", "heads"))
            found[name] = "i32" if is_size else NUMBER
    return found


_SIZES = frozenset({"height", "width", "heads", "lines"})


def kernels(capability: int) -> dict[str, Kernel]:
    """List every kernel of a card, with the constants of models from 1B to 70B."""
    found: dict[str, Kernel] = {}

    def add(
        name: str,
        function: Any,
        warps: int,
        types: dict[str, str],
        stages: int | None = None,
        **constants: Any,
    ) -> None:
        options = {"num_warps": warps} | ({} if stages is None else {"num_stages": stages})
        found[name] = (function, signature(function, constants, **types), constants, options)

    scales = {"packed": "*u8", "scales": "*u8"}
    scales |= dict.fromkeys(("scales_2", "offsets", "scale_code", "code"), "*fp32")
    add("unpack", nf4._unpack, 4, scales, ROWS=nf4._ROWS, STEPS=nf4._MOST_STEPS)
    if capability >= 89:
        in_fp8 = {**scales, "factors": "*fp32", "out": "*fp8e4nv"}
        for turned in (False, True):
            sizes = {"ROWS": fp8._ROWS, "STEPS": fp8._MOST_STEPS, "TURNED": turned}
            add(f"unpack to fp8, turned {turned}", fp8._unpack, 4, in_fp8, **sizes)
        line = {"factors": "*fp32", "y": "*fp8e4nv"}
        add("lines in fp8", fp8._lines, 8, line, WIDTH=28672, BLOCK=fp8._BLOCK)
    norm = {"weight": "*fp32", "bias": "*fp32", "eps": "fp32"}
    for width in WIDTHS:
        warps = warps_for(width)
        layer_norm = {"BIAS": True, "CENTRED": True, "RESIDUAL": True, "BLOCK": width}
        add(f"norm {width}", rmsnorm._forward, warps, norm, LATE=False, **layer_norm)
        kinds = {**layer_norm, "AGAIN": True, "LATE": True}
        add(f"norm back {width}", rmsnorm._backward, warps, norm, **kinds)
    turns = {"position": "*i32", "cos": "*fp32", "sin": "*fp32"}
    for size, pairs, neighbours in ((64, 32, False), (128, 48, False), (256, 128, True)):
        step, gap = (2, 1) if neighbours else (1, pairs)
        where = {"SIZE": size, "PAIRS": pairs, "BLOCK": 1 << (pairs - 1).bit_length()}
        where |= {"STEP": step, "GAP": gap, "HEADS": 64}
        rest = size - 2 * pairs
        add(f"turn {size}", rope._turn, 4, turns, SIGN=1, **where)
        add(f"join {size}", rope._join, 4, turns, REST=rest, REST_BLOCK=max(1, rest), **where)
    for gate in glu.Gate:
        add(f"gate {gate.name}", glu._forward, 4, {}, GATE=int(gate), BLOCK=glu._BLOCK)
        add(f"gate back {gate.name}", glu._backward, 4, {}, GATE=int(gate), BLOCK=glu._BLOCK)
    of_loss = {"targets": "*i64", "losses": "*fp32", "scale": "*fp32"}
    of_loss |= {"factor": "fp32", "cap": "fp32"}
    wide = {"WIDTH": 128256, "BLOCK": loss._BLOCK}
    add("loss", loss._cross_entropy, 8, of_loss, CAPPED=False, **wide)
    add("capped loss", loss._cross_entropy, 8, of_loss, CAPPED=True, **wide)
    of_table = {"ids": "*i64", "words": "i32"}
    add("embedding", embedding._fetch, 4, of_table, BLOCK=embedding._BLOCK)
    of_drop = {"line": "i32", "key": "i32", "limit": "i32", "factor": "fp32"}
    add("drop", dropout._drop, 4, of_drop, ADD=False, BLOCK=dropout._BLOCK)
    add("drop back", dropout._drop, 4, of_drop, ADD=True, BLOCK=dropout._BLOCK)
    of_attention = dict.fromkeys(("sums", "inner"), "*fp32") | {"scale": "fp32"}
    of_attention |= dict.fromkeys(("position", "last"), "*i32")
    for size in packed_attention.SIZES:
        for name, function, tile in (
            ("attention", packed_attention._forward, packed_attention.FORWARD),
            ("queries back", packed_attention._queries_back, packed_attention.QUERIES_BACK),
            ("keys back", packed_attention._keys_back, packed_attention.KEYS_BACK),
        ):
            sizes = {"SHARED": 4, "SIZE": size, "TOKENS": tile.lines // 4}
            sizes |= {"LINES": tile.lines, "KEYS": tile.keys}
            add(f"{name} {size}", function, tile.warps, of_attention, tile.stages, **sizes)
    return found


def main() -> None:
    """Compile for the capability in the first argument."""
    capability = int(sys.argv[1])
    target = GPUTarget("cuda", capability, 32)
    needs = {}
    for name, (function, types, constants, options) in kernels(capability).items():
        places = {(function.arg_names.index(key),): value for key, value in constants.items()}
        source = ASTSource(fn=function, signature=types, constexprs=places)
        made = triton.compile(source, target=target, options=options)
        needs[name] = {"shared": made.metadata.shared, "code": len(made.asm["cubin"])}
    print(json.dumps(needs))


if __name__ == "__main__":
    main()
