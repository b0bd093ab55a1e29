"""What a member writes to propose something, and what is said of mistakes in it."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.node.amounts import base_units, whole
from eigen.node.exit_codes import ExitCode
from eigen.node.member_file import MemberFileError
from eigen.node.proposal_file import load_proposal_file

ONE = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
TWO = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
PAYMENT = f'kind = "payment"\nto = "{ONE}"\namount = 12.5\n'
VALIDATORS = f'kind = "validators"\nvalidators = ["{ONE}", "{TWO}"]\nquorum = 2\n'
PARAMETERS = 'kind = "parameters"\nrun = "3fa2"\nfrom_round = 40\n'
MODEL = 'kind = "model"\nrun = "3fa2"\nroyalty_percent = 0.07\n'
CALLS = f'kind = "calls"\n[[call]]\nto = "{ONE}"\ndata = "0x0102"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "proposal.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "params"),
    [
        (PAYMENT, {"to": ONE, "amount": "12.5", "token": "dao", "description": ""}),
        (
            PAYMENT.replace("12.5", '"1e-18"') + f'token = "{TWO}"\ndescription = "x"\n',
            {"to": ONE, "amount": "0.000000000000000001", "token": TWO, "description": "x"},
        ),
        (VALIDATORS, {"validators": [ONE, TWO], "quorum": 2, "description": ""}),
        (
            MODEL + 'parent = "81b0"\nparent_round = 3\n',
            {
                "run": "3fa2",
                "owner": "dao",
                "royalty_bps": 7,
                "uri": "",
                "parent": "81b0",
                "parent_round": 3,
                "description": "",
            },
        ),
        (CALLS, {"calls": [{"to": ONE, "value": "0", "data": "0102"}], "description": ""}),
        (
            PARAMETERS + "[inner]\nlr = 0.5\n",
            {"run": "3fa2", "from_round": 40, "description": ""},
        ),
    ],
    ids=["payment", "small payment", "validators", "model", "calls", "parameters"],
)
def test_what_is_written_is_what_the_daemon_is_told(
    tmp_path: Path, text: str, params: dict[str, object]
) -> None:
    read = load_proposal_file(write(tmp_path, text))
    assert read.params == params
    assert read.changes == ({"inner": {"lr": 0.5}} if read.kind == "parameters" else {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kind = "party"\n', "kind: there are run, parameters, payment, validators, model, calls"),
        (MODEL + "parent_round = 3\n", "parent_round: of which parent"),
        (MODEL.replace("0.07", "0.075"), "royalty_percent: 0 to 100, with two decimals"),
        ("kind = 3\n", "kind: a whole number, not text"),
        (PAYMENT.replace("12.5", "0"), "amount: a positive number"),
        (PAYMENT.replace("12.5", "inf"), "amount: a positive number"),
        (PAYMENT.replace("12.5", '"1e999999999"'), "amount: a positive number"),
        (PAYMENT.replace("12.5", '"twelve"'), "amount: 'twelve' is no number"),
        (PAYMENT.replace("Aed", "aed"), "to: .*checksum"),
        (PAYMENT.replace(ONE, "0x" + "0" * 40), "to: the zero address"),
        (PAYMENT + "too = 1\n", "too: no such key; there are amount, description"),
        ('kind = "payment"\namount = 1\n', "to is missing"),
        (VALIDATORS.replace("quorum = 2", "quorum = 1"), "quorum: more than half of 2"),
        (VALIDATORS.replace(TWO, ONE), "validators: one is named twice"),
        (VALIDATORS.replace(f'"{ONE}", "{TWO}"', ""), "validators: name 1 to 64"),
        (CALLS.replace("0x0102", "0x010"), r"call\[0\].data: hexadecimal"),
        (CALLS + 'value = "-1"\n', r"call\[0\].value: wei"),
        (CALLS + "gas = 1\n", r"call\[0\].gas: no such key"),
        ('kind = "calls"\ncall = [1]\n', r"call\[0\]: a table"),
        (PARAMETERS, "it changes nothing"),
        (PARAMETERS.replace("40", "1") + "[inner]\nlr = 1.0\n", "from_round: 2 to"),
        (PARAMETERS + "[model]\n", "model: no such key"),
        ('kind = "payment"\ndescription = "' + "x" * 4097 + f'"\nto="{ONE}"\namount=1', "4096"),
    ],
    ids=lambda value: "" if "\n" in value else value[:24],
)
def test_a_mistake_names_its_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(MemberFileError, match=told) as caught:
        load_proposal_file(write(tmp_path, text))
    assert caught.value.exit_code is ExitCode.CONFIGURATION


@given(st.integers(0, 2**256 - 1), st.integers(0, 36))
def test_amounts_are_exact_both_ways(units: int, decimals: int) -> None:
    assert base_units(Decimal(whole(units, decimals)), decimals) == units


@pytest.mark.parametrize("text", ["0.1234567", "NaN", "inf", "1e400"])
def test_an_amount_that_a_token_cannot_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimals|no number"):
        base_units(Decimal(text), 6)
