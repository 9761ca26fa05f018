"""Which addresses may be connected to, however they are written."""

from __future__ import annotations

import pytest

from homeserver.runtime.outbound_addresses import AddressPolicy, parse_networks


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_address_is_permitted(text: str) -> None:
    assert AddressPolicy().permits(text)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1"),
        *(
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:5db8:d822::1",
        ),
        *("", "localhost", "127.1", "2130706433", "0x7f.1", "1.2.3.4.5"),
    ],
)
def test_private_address_is_refused_in_every_form(text: str) -> None:
    assert not AddressPolicy().permits(text)


@pytest.mark.parametrize("text", ["1.2.3.4", "::ffff:1.2.3.4", "::1.2.3.4", "64:ff9b::102:304", "2002:102:304::"])
def test_denied_network_is_refused_in_every_form(text: str) -> None:
    denied = parse_networks(["1.2.3.0/24"], "")
    assert not AddressPolicy(allow_private=True, denied=denied, allowed=denied).permits(text)


def test_allowed_network_is_permitted_though_others_are_not() -> None:
    policy = AddressPolicy(allowed=parse_networks(["10.1.0.0/16", "fec0::/64"], ""))
    permitted = [text for text in ("10.1.2.3", "10.2.0.1", "fec0::1", "fec0:1::1") if policy.permits(text)]
    assert permitted == ["10.1.2.3", "fec0::1"]
