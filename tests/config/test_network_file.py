"""Network files: strict on the way in, the same on the way out, and with an id of their own."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.config.addresses import format_address
from eigen.config.errors import NetworkFileError
from eigen.config.network import (
    NETWORK_FILE_BYTES_MAX,
    ContractAddresses,
    NetworkFile,
    Parameters,
    dump_network,
    load_network,
    parse_network,
)
from eigen.protocol.types import Address

PEER = "/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2HAm1PoqMkJRM96Pmc1omy2YacdRHhu7YwstaN6wJr5QTPRb"
SOURCE = Path("net.toml")

accounts = st.binary(min_size=20, max_size=20).filter(any)
networks = st.builds(
    lambda name, chain, contracts, block, scale, confirmations: NetworkFile(
        name=name,
        chain_id=chain,
        rpc_urls=("http://127.0.0.1:8545",),
        contracts=ContractAddresses(*map(Address, contracts)),
        bootstrap=(PEER,),
        start_block=block,
        parameters=Parameters(
            *(f * scale for f in (10, 35, 60, 30, 20, 20, 300, 5, 10)), confirmations
        ),
    ),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    st.integers(1, 2**63 - 1),
    st.lists(accounts, min_size=4, max_size=4, unique=True),
    st.integers(0, 2**63 - 1),
    st.floats(0.01, 100),
    st.integers(0, 1000),
)

SMALL = """\
name = "demo"
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545"]

[contracts]
token = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
governor = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
timelock = "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB"
ledger = "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"
"""


@given(networks)
def test_a_network_is_read_back_as_it_was_written(network: NetworkFile) -> None:
    text = dump_network(network)
    assert parse_network(text, SOURCE) == network
    assert format_address(network.contracts.ledger) in text


def test_the_rest_has_defaults() -> None:
    network = parse_network(SMALL, SOURCE)
    assert network.parameters == Parameters()
    assert network.bootstrap == ()
    assert network.start_block == 0


def test_the_id_is_stable_and_follows_name_chain_and_ledger_alone() -> None:
    network = parse_network(SMALL, SOURCE)
    assert network.network_id == "k7c5xdgrnw5la3ox"  # in topics of running nodes: never change
    same = replace(network, rpc_urls=("http://elsewhere",), parameters=Parameters(heartbeat_s=1))
    assert same.network_id == network.network_id
    other = replace(network.contracts, ledger=network.contracts.token)
    others = [
        replace(network, name="demo2"),
        replace(network, chain_id=1),
        replace(network, contracts=other),
    ]
    assert len({network.network_id, *(other.network_id for other in others)}) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "demo"', 'name = "Demo"', "net.toml:1: name: 'Demo' is no network name"),
        ('name = "demo"', "name = 5", "net.toml:1: name: '5' is no network name"),
        ('name = "demo"\n', "", "net.toml: name: is missing"),
        ("chain_id = 31337", "chain_id = 0", "net.toml:2: chain_id: 0 is out of range"),
        ("chain_id = 31337", "chainid = 31337", "net.toml:2: chainid: no such key; did you mean"),
        ('["http://127.0.0.1:8545"]', "[]", "rpc_urls: at least one endpoint"),
        ("token =", "tocken =", "net.toml:6: contracts.tocken: no such key; did you mean token?"),
        ("BeAed", "beaed", "net.toml:6: contracts.token: '0x5aAeb6053F3E94C9b9A09f33669435E7Ef1"),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", f"0x{'0' * 40}", "none of them zero"),
        (
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "different addresses",
        ),
        ("[contracts]", "[contrakts]", "net.toml:5: contrakts: no such key; did you mean contr"),
        ("[contracts]", "contracts = 1\n[parameters]", "contracts: is a table: write [contracts]"),
        ("[contracts]", "[contracts", "not valid TOML"),
        ("[contracts]", f"bootstrap = {'[' * 3000}", "not valid TOML"),
        ("[contracts]", 'bootstrap = ["/ip4/1.2.3.4/tcp/1"]\n[contracts]', "does not end in /p2p/"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(NetworkFileError) as caught:
        parse_network(SMALL.replace(old, new), SOURCE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("heartbeat_s = 20", "heartbeat_ttl_s: at least twice heartbeat_s (20 s)"),
        ("attempt_s = 110", "attempt_s: more than commit_s + inputs_s + owner_s (110 s)"),
        ("commit_s = 0", "parameters.commit_s: 0 is out of range"),
        ("confirmations = 1.5", "parameters.confirmations: 1.5 is no whole number"),
        ("hartbeat_s = 1", "did you mean heartbeat_s?"),
    ],
)
def test_times_that_contradict_each_other_are_refused(parameters: str, message: str) -> None:
    with pytest.raises(NetworkFileError) as caught:
        parse_network(f"{SMALL}[parameters]\n{parameters}\n", SOURCE)
    assert message in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_network_or_an_error_with_a_name(text: str) -> None:
    with pytest.raises(NetworkFileError):
        parse_network(text, SOURCE)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match="there is no network file"):
        load_network(tmp_path / "absent.toml")
    with pytest.raises(NetworkFileError, match="cannot be read"):
        load_network(tmp_path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (NETWORK_FILE_BYTES_MAX + 1))
    with pytest.raises(NetworkFileError, match="no network file"):
        load_network(large)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(NetworkFileError, match="not UTF-8"):
        load_network(binary)
