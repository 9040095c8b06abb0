"""The choice of ports. A run chooses some for its servers before it starts the first."""

import pytest

from deploy.local import ports


def test_a_port_is_chosen_again_only_when_all_others_were(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ports.free_ports([0] * 4)
    monkeypatch.setattr(ports, "_CHOICE", few)
    monkeypatch.setattr(ports, "_chosen", set())

    chosen = [ports.free_ports([0])[0] for _ in few]

    assert sorted(chosen) == sorted(few)
    assert ports.free_ports([0])[0] in few
