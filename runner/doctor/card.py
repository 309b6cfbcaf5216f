"""Card test: a small NF4 product on the card or the CPU, checked against plain arithmetic.

    python -m runner.doctor.card auto

It runs in a child, because it imports torch and because a broken driver may take its caller down.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict
from typing import Any

from runner.doctor.judge_card import CardFacts, Product

# The 16 values of NF4 as the QLoRA paper derives them (quantiles of a normal distribution, scaled
# to [-1, 1]). Written out here so that the reference owes nothing to the library that is tested.
_NF4 = (
    -1.0,
    -0.6961928,
    -0.5250731,
    -0.3949175,
    -0.2844414,
    -0.1847734,
    -0.0910500,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.3379152,
    0.4407098,
    0.5626170,
    0.7229568,
    1.0,
)
_BLOCK = 64  # weights that share a scale
_INPUTS, _OUTPUTS, _ROWS = 512, 1024, 24  # small, and every dimension different
_SEED = 20261123


def facts_of_card(device: str) -> CardFacts:
    """Ask torch and bitsandbytes what they see, and let them multiply."""
    import torch  # noqa: PLC0415

    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "architectures": _architectures(torch),
    }
    on_card = device != "cpu" and torch.cuda.is_available()
    if device != "cpu" and torch.version.cuda and not on_card:
        facts["unreachable"] = _why_unreachable(torch)
    if on_card:
        major, minor = torch.cuda.get_device_capability()
        facts["name"] = torch.cuda.get_device_name()
        facts["capability"] = f"{major}.{minor}"
    try:
        facts |= _libraries()
        facts["product"] = _products(torch, on_card=on_card)
    except Exception as error:  # whatever a library or the card throws is the finding
        facts["error"] = _first_line(error)
    return CardFacts(**facts)


def _architectures(torch: Any) -> tuple[str, ...]:
    """List what torch has kernels for; its own public list is empty where no card answers."""
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")()  # noqa: SLF001
    return tuple((flags or "").split())


def _why_unreachable(torch: Any) -> str:
    try:
        torch.cuda.init()
        return "it sees none"
    except Exception as error:  # torch words the driver's error here
        return _first_line(error)


def _first_line(error: Exception) -> str:
    """Give what an error says, without the advice of several lines that libraries add."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _libraries() -> dict[str, Any]:
    from runner.training.import_stack import compiled_when_called  # noqa: PLC0415

    with compiled_when_called():  # torch's compiler takes longer to import than all of this test
        import bitsandbytes  # noqa: PLC0415
        from bitsandbytes import cextension  # noqa: PLC0415

    loaded = cextension.lib
    native = getattr(loaded, "_lib", None)
    return {
        "bitsandbytes": bitsandbytes.__version__,
        "library": str(getattr(native, "_name", "")).rpartition("/")[2],
        "library_has_cuda": bool(getattr(loaded, "compiled_with_cuda", False)),
    }


def _products(torch: Any, *, on_card: bool) -> Product:
    """Multiply as training does (and its gradient) and as answering does, against our own NF4."""
    import bitsandbytes as bnb  # noqa: PLC0415

    device = "cuda" if on_card else "cpu"
    major = torch.cuda.get_device_capability()[0] if on_card else 0
    compute = torch.bfloat16 if major >= 8 else torch.float16 if on_card else torch.float32
    dice = torch.Generator().manual_seed(_SEED)
    weights = torch.randn(_OUTPUTS, _INPUTS, generator=dice).to(compute)
    rows = torch.randn(_ROWS, _INPUTS, generator=dice)
    expected = _reference(torch, weights)
    rows_given = rows.to(device=device, dtype=compute).requires_grad_()
    packed, state = bnb.functional.quantize_4bit(
        weights.to(device), quant_type="nf4", blocksize=_BLOCK
    )
    got = bnb.matmul_4bit(rows_given, packed.t(), state)
    got.sum().backward()
    with torch.no_grad():
        one = bnb.matmul_4bit(rows_given[:1], packed.t(), state)
    inputs = rows_given.detach().cpu().double()
    return Product(
        compute=str(compute).removeprefix("torch."),
        forward_error=_error(got, inputs @ expected.t()),
        gradient_error=_error(rows_given.grad, expected.sum(dim=0).expand(_ROWS, _INPUTS)),
        one_row_error=_error(one, inputs[:1] @ expected.t()),
    )


def _reference(torch: Any, weights: Any) -> Any:
    """Quantise and unpack in plain arithmetic, in double precision on the CPU."""
    blocks = weights.double().reshape(-1, _BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    values = torch.tensor(_NF4, dtype=torch.float64)
    nearest = ((blocks / scale).unsqueeze(-1) - values).abs().argmin(dim=-1)
    return (values[nearest] * scale).reshape(weights.shape)


def _error(got: Any, expected: Any) -> float:
    """Give the size of the difference relative to what was expected."""
    difference = got.detach().cpu().double() - expected
    return float(difference.norm() / expected.norm())


if __name__ == "__main__":
    gc.disable()  # most of its time are imports, which leave no garbage
    print(json.dumps(asdict(facts_of_card(sys.argv[1] if len(sys.argv) > 1 else "auto"))))
