"""Which network interfaces a node has: a pure function of the table of instance types."""

from typing import Literal, NamedTuple

from infra.instances import InstanceFacts

Kind = Literal["interface", "efa", "efa-only"]


class Interface(NamedTuple):
    """One network interface of a launch template.

    Attributes:
        card: Network card index.
        device: Device index on that card.
        kind: `interface` has an address, `efa` an address and an EFA, `efa-only` no address.
    """

    card: int
    device: int
    kind: Kind


def layout(facts: InstanceFacts, efa: bool) -> tuple[Interface, ...]:
    """The interfaces of a node, the primary one first.

    AWS's advice of 2026: an ordinary primary interface, and an EFA-only one on every card that takes one; they need no
    addresses and the kernel's network stack never routes over them. A type with a single EFA has it beside the primary
    interface's address instead: EC2 gives a public address to none that has two interfaces.

    Args:
        facts: The instance type.
        efa: Whether EFAs are wanted.

    Raises:
        ValueError: The type takes no EFA.
    """
    if not efa:
        return (Interface(0, 0, "interface"),)
    if not facts.efa_interfaces:
        raise ValueError(f"{facts.name} takes no EFA")
    first = facts.cards[0]
    if first.efa and (facts.efa_interfaces == 1 or first.interfaces == 1):
        return (Interface(0, 0, "efa"), *_efa_only(facts, range(1, len(facts.cards)), facts.efa_interfaces - 1))
    return (Interface(0, 0, "interface"), *_efa_only(facts, range(len(facts.cards)), facts.efa_interfaces))


def efa_count(interfaces: tuple[Interface, ...]) -> int:
    """How many of them are EFAs."""
    return sum(interface.kind != "interface" for interface in interfaces)


def _efa_only(facts: InstanceFacts, cards: range, count: int) -> list[Interface]:
    able = [card for card in cards if facts.cards[card].efa]
    return [Interface(card, facts.cards[card].efa_device, "efa-only") for card in able[:count]]
