"""4-bit weights that lie in host memory are made where they are told to be, and are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train_box import in_a_child


def test_weights_are_those_of_a_plain_load(small_models: Path) -> None:
    """Bytes, scales and the scales' scales; each weight was made on the device that was named."""
    in_a_child(loads_alike, str(small_models / "small"))


def loads_alike(folder: str) -> None:
    """Load it twice."""
    import torch
    from bitsandbytes.nn import Params4bit

    from runner.training.fit.model import Machine, load_base

    machine, made_on = Machine(device="cpu", compute="float32"), []
    inner = Params4bit._quantize

    def noting(weight: Any, device: Any) -> Any:
        made_on.append(device)
        return inner(weight, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Params4bit, "_quantize", noting)
        plain = load_base(Path(folder), method="qlora", machine=machine)
        seen = len(made_on)
        assert machine.host.quantises_on == "cpu"
        hosted = load_base(Path(folder), method="qlora", machine=machine.host)
        assert Params4bit._quantize is noting  # as it was
    assert seen
    assert made_on[seen:] == ["cpu"] * seen  # a name: torch gives a device
    wanted, found = plain.state_dict(), hosted.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any("nested_absmax" in name for name in wanted)
