import pytest

from infra import efa
from infra.efa import Interface
from infra.instances import facts, names

CAPABLE = [name for name in names() if facts(name).efa_interfaces]


def test_the_table_knows_hundreds_of_types_with_efa() -> None:
    assert len(CAPABLE) > 250


@pytest.mark.parametrize("name", CAPABLE)
def test_interfaces_are_as_the_type_allows(name: str) -> None:
    found = facts(name)
    interfaces = efa.layout(found, efa=True)
    efas = [interface for interface in interfaces if interface.kind != "interface"]

    assert interfaces[0][:2] == (0, 0)
    assert interfaces[0].kind != "efa-only", "the primary interface needs an address"
    assert len(efas) == found.efa_interfaces
    assert len({interface.card for interface in efas}) == len(efas), "one EFA a card"
    assert len({interface[:2] for interface in interfaces}) == len(interfaces)
    for card, device, kind in interfaces:
        held = sum(other.card == card for other in interfaces)
        assert held <= found.cards[card].interfaces
        assert device < max(found.cards[card].interfaces, 1)
        assert kind == "interface" or found.cards[card].efa


@pytest.mark.parametrize("name", CAPABLE)
def test_without_efa_there_is_one_interface(name: str) -> None:
    assert efa.layout(facts(name), efa=False) == (Interface(0, 0, "interface"),)


# Counts of AWS's and Karpenter's tables.
@pytest.mark.parametrize(
    ("name", "interfaces", "efas"),
    [
        ("p4d.24xlarge", 5, 4),
        ("p5.48xlarge", 33, 32),
        ("p5en.48xlarge", 17, 16),
        ("p6-b200.48xlarge", 9, 8),
        ("p6-b300.48xlarge", 17, 16),
        ("g6e.48xlarge", 5, 4),
        ("g6.8xlarge", 1, 1),
        ("p5.4xlarge", 1, 1),
        ("hpc6id.32xlarge", 2, 2),
        ("hpc7a.96xlarge", 3, 2),
    ],
)
def test_well_known_types(name: str, interfaces: int, efas: int) -> None:
    made = efa.layout(facts(name), efa=True)
    assert (len(made), efa.efa_count(made)) == (interfaces, efas)


def test_card_0_of_b300_has_no_efa() -> None:
    made = efa.layout(facts("p6-b300.48xlarge"), efa=True)
    assert [interface.kind for interface in made if interface.card == 0] == ["interface"]


def test_one_card_keeps_its_public_address() -> None:
    assert efa.layout(facts("g6e.8xlarge"), efa=True) == (Interface(0, 0, "efa"),)


def test_a_type_without_efa_is_refused() -> None:
    with pytest.raises(ValueError, match="g6.xlarge takes no EFA"):
        efa.layout(facts("g6.xlarge"), efa=True)
