"""The committed artifacts are what the sources give, and offer the interface that clients use."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eigen.chain.artifacts import NAMES, WHOLE, UnknownArtifact, load
from eigen.chain.devnet.npm import find_npm

ROOT = Path(__file__).resolve().parents[2] / "chain"
SOURCES = sorted((ROOT / "contracts/src").glob("*.sol"))
EIP_170_CODE_BYTES_MAX = 24_576

FUNCTIONS = {
    "DaoToken": {
        "mint(address,uint256)",
        "delegates(address)",
        "getVotes(address)",
        "getPastVotes(address,uint256)",
        "balanceOf(address)",
        "counted(address)",
        "count(address[])",
        "credit(address,uint256)",
        "MINTER_ROLE()",
        "CLOCK_MODE()",
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
    },
    "TimelockController": {"getMinDelay()", "grantRole(bytes32,address)", "PROPOSER_ROLE()"},
    "DaoGovernor": {
        "propose(address[],uint256[],bytes[],string)",
        "castVotesBySig(uint256,uint8[],address[],bytes[])",
        "castVoteBySig(uint256,uint8,address,bytes)",
        "queue(address[],uint256[],bytes[],bytes32)",
        "execute(address[],uint256[],bytes[],bytes32)",
        "state(uint256)",
        "proposalVotes(uint256)",
        "nonces(address)",
        "hasVoted(uint256,address)",
    },
    "ContributionLedger": {
        "openRun(bytes32,bytes32,uint64,uint128)",
        "setValidators(address[],uint256)",
        "validators()",
        "quorum()",
        "isValidator(address)",
        "roundDigest((bytes32,uint64,bytes32,bytes32,bytes32,uint256))",
        "postRound((bytes32,uint64,bytes32,bytes32,bytes32,uint256),bytes[])",
        "head(bytes32)",
        "runs(bytes32)",
        "claim(bytes32,address,uint256,bytes32[])",
        "claimed(bytes32,address)",
        "setPayout(address)",
        "payoutOf(address)",
        "multiClaim(bytes32,(address,uint256,bytes32[])[])",
        "openStream(bytes32,uint8,bytes32,uint64,uint128,address)",
        "openFunded(bytes32,uint8,bytes32,uint64,uint128,address)",
        "fundedStream(address,bytes32)",
        "fund(bytes32,uint128)",
        "closeStream(bytes32,address)",
        "streams(bytes32)",
        "paying(bytes32)",
        "pending(bytes32)",
        "veto(bytes32,uint64)",
        "proveEquivocation((bytes32,uint64,bytes32,bytes32,bytes32,uint256),bytes,"
        "(bytes32,uint64,bytes32,bytes32,bytes32,uint256),bytes)",
        "terms()",
        "setTerms((uint32,uint32,uint128,address))",
        "bond(address,uint128)",
        "unbond(uint128)",
        "withdrawBond()",
        "bondOf(address)",
        "isSlashed(address)",
    },
    "ModelRegistry": {
        "register(bytes32,address,uint256,uint64,uint96,string)",
        "recordRound(uint256)",
        "models(uint256)",
        "rounds(uint256,uint64)",
        "lineage(uint256)",
        "royaltyInfo(uint256,uint256)",
    },
    "JobEscrow": {
        "open(bytes32,bytes32,address,uint128,uint40,uint32,uint16)",
        "deliver(bytes32)",
        "dispute(bytes32)",
        "release(bytes32)",
        "resolve(bytes32,uint128)",
        "refund(bytes32)",
        "jobs(bytes32)",
        "jobId(address,bytes32)",
        "streamOf(bytes32)",
        "rulingStreamOf(bytes32)",
    },
    "RevenueShare": {
        "deposit(uint128)",
        "stake(uint128)",
        "unstake(uint128)",
        "withdraw()",
        "claim(address)",
        "owed(address)",
        "stakeOf(address)",
    },
    "Membership": {
        "request(bytes32)",
        "approve(address)",
        "refuse(address)",
        "leave()",
        "setRules(address,bool)",
        "isMember(address)",
        "statusOf(address)",
    },
    "CreationNFT": {
        "mint(address,uint256,uint64,bytes32,bytes32,string)",
        "provenance(uint256)",
        "royaltyInfo(uint256,uint256)",
    },
    "RoyaltyVault": {"forward(address)", "streamOf(address)"},
    "ModelMarket": {
        "list(address,uint256,address,uint96)",
        "offerLicence(address,uint256,address,uint96,uint40,bytes32)",
        "buy(uint256,address)",
        "cancel(uint256)",
        "listings(uint256)",
        "licensedUntil(address,uint256,bytes32,address)",
    },
}

EVENTS = {
    "DaoGovernor": {"BallotSkipped(uint256,address)"},
    "ContributionLedger": {
        "RunOpened(bytes32,bytes32,uint64,uint128,bytes32)",
        "ValidatorsChanged(address[],uint256)",
        "RoundPosted(bytes32,uint64,bytes32,bytes32,bytes32,uint256)",
        "Claimed(bytes32,address,address,uint256)",
        "ClaimSkipped(bytes32,address)",
        "PayoutChanged(address,address)",
        "StreamOpened(bytes32,uint8,address,bool,address,bytes32)",
        "StreamFunded(bytes32,address,uint256,uint256)",
        "StreamClosed(bytes32,address,uint256)",
        "RoundInWindow(bytes32,uint64,uint64)",
        "RoundDropped(bytes32,uint64,address)",
        "Equivocated(address,bytes32,uint64,bytes32,bytes32)",
        "TermsChanged(uint32,uint32,uint128,address)",
        "Bonded(address,address,uint256,uint256)",
        "Unbonding(address,uint256,uint256,uint64)",
        "BondWithdrawn(address,uint256)",
        "ValidatorSlashed(address,uint256)",
    },
    "DaoFactory": {
        "DaoCreated(uint256,address,string,"
        "(address,address,address,address,address,address,address,address,address))"
    },
    "ModelRegistry": {
        "ModelRegistered(uint256,uint256,bytes32,bytes32,address)",
        "RoundRecorded(uint256,uint64,bytes32,bytes32,bytes32)",
    },
    "JobEscrow": {
        "JobOpened(bytes32,address,bytes32,address,uint256,bytes32,uint40)",
        "JobDelivered(bytes32,bytes32,uint256,uint40)",
        "JobDisputed(bytes32,uint40)",
        "JobClosed(bytes32,bytes32,uint256,uint256)",
        "JobRefunded(bytes32,address,uint256)",
    },
    "RevenueShare": {
        "Deposited(address,uint256,uint256)",
        "Staked(address,uint256,uint256)",
        "Unstaked(address,uint256,uint256,uint64)",
        "Withdrawn(address,uint256)",
        "Paid(address,uint256)",
    },
    "Membership": {
        "Requested(address,bytes32)",
        "Approved(address,address)",
        "Refused(address,address)",
        "Left(address)",
        "RulesChanged(address,bool)",
    },
    "CreationNFT": {"Created(uint256,address,uint256,uint64,bytes32,bytes32,bytes32)"},
    "RoyaltyVault": {"Forwarded(address,bytes32,uint256)"},
    "ModelMarket": {
        "Listed(uint256,address,uint256,address,address,uint256,bool,uint40,bytes32)",
        "Cancelled(uint256)",
        "Bought(uint256,address,uint256,address,uint256)",
        "Licensed(address,uint256,address,bytes32,uint64,uint256)",
    },
}


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The build script, which lies outside the package."""
    spec = importlib.util.spec_from_file_location("contracts_build", ROOT / "contracts/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


needs_npm = pytest.mark.skipif(find_npm() is None, reason="no npm: pip install 'eigen[devnet]'")


def signatures(name: str, kind: str) -> set[str]:
    return {
        f"{entry['name']}({','.join(_type(part) for part in entry['inputs'])})"
        for entry in load(name).abi
        if entry["type"] == kind
    }


def _type(part: Any) -> str:
    if not part["type"].startswith("tuple"):
        return str(part["type"])
    inner = ",".join(_type(component) for component in part["components"])
    return f"({inner}){part['type'].removeprefix('tuple')}"


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_were_built_from_these_sources(build: ModuleType, name: str) -> None:
    assert load(name).source_sha256 == build.source_sha256(), (
        "chain/contracts changed: run `python chain/contracts/build.py` and commit"
    )


@needs_npm
def test_a_fresh_build_gives_the_committed_artifacts(build: ModuleType) -> None:
    assert build.main(["--check", "--no-test"]) == 0


@needs_npm
def test_a_difference_is_found(
    build: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in NAMES:
        text = (ROOT / "artifacts" / f"{name}.json").read_text()
        changed = text.replace('"0x60', '"0x61', 1) if name == "DaoToken" else text
        (tmp_path / f"{name}.json").write_text(changed)
    (tmp_path / "DaoGovernor.json").unlink()
    monkeypatch.setattr(build, "ARTIFACTS", tmp_path)
    assert build.main(["--check", "--no-test"]) == 1
    found = re.findall(r"artifacts/(\w+)\.json is not", capsys.readouterr().err)
    assert found == ["DaoToken", "DaoGovernor"]


def test_without_npm_the_comparison_is_skipped(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "find_npm", lambda: None)
    assert build.main(["--check"]) == 0
    assert "comparison was skipped" in capsys.readouterr().out
    assert build.main([]) == 1, "nothing was built, which must not look like success"


@pytest.mark.parametrize("folder", ["contracts", "devnet"])
def test_locks_pin_digests_and_name_no_host(folder: str) -> None:
    text = (ROOT / folder / "package-lock.json").read_text()
    assert "resolved" not in text
    assert "http" not in text
    packages = json.loads(text)["packages"]
    wanted = packages.pop("")
    assert packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
    for kind in ("dependencies", "optionalDependencies"):
        for version in wanted.get(kind, {}).values():
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), "an exact version"


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_fit_on_a_chain(name: str) -> None:
    artifact = load(name)
    assert artifact.name == name
    assert artifact.bytecode
    assert 0 < len(artifact.deployed_bytecode) <= EIP_170_CODE_BYTES_MAX
    assert artifact.compiler["version"].startswith("0.8.34+")
    assert artifact.compiler["settings"]["evmVersion"] == "prague"


@pytest.mark.parametrize("name", WHOLE)
def test_creation_code_fits_into_a_store(name: str) -> None:
    assert len(load(name).bytecode) < EIP_170_CODE_BYTES_MAX, "a store has one byte more"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_contracts_have_the_functions_that_clients_call(name: str) -> None:
    assert FUNCTIONS[name] - signatures(name, "function") == set()


@pytest.mark.parametrize("name", EVENTS)
def test_contracts_have_the_events_that_clients_watch(name: str) -> None:
    assert EVENTS[name] - signatures(name, "event") == set()


@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_every_refusal_has_a_name(path: Path) -> None:
    source = path.read_text()
    named = {
        signature.partition("(")[0] for name in NAMES for signature in signatures(name, "error")
    }
    assert set(re.findall(r"revert (\w+)\(", source)) <= named
    assert "require(" not in source


def test_an_unknown_contract_is_refused_by_name() -> None:
    with pytest.raises(UnknownArtifact, match=r"'Oracle'.*DaoToken"):
        load("Oracle")
