// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {DaoGovernor} from "../src/DaoGovernor.sol";
import {DaoToken} from "../src/DaoToken.sol";
import {Rounds} from "../src/Rounds.sol";
import {Validators} from "../src/Validators.sol";
import {ForgeTest} from "./Forge.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";

/// @notice A whole DAO as it is deployed: four contracts, every admin role with the timelock.
abstract contract Dao is ForgeTest {
    uint48 internal constant VOTING_DELAY_S = 1 hours;
    uint32 internal constant VOTING_PERIOD_S = 3 days;
    uint256 internal constant TIMELOCK_DELAY_S = 1 days;
    uint256 internal constant PROPOSAL_THRESHOLD = 1e18;
    uint256 internal constant QUORUM_PERCENT = 20;
    uint256 internal constant VALIDATORS = 5;
    uint256 internal constant QUORUM = 3;

    bytes32 internal constant RUN = keccak256("run");
    bytes32 internal constant SPEC = keccak256("spec");
    uint64 internal constant ROUNDS = 100;
    uint128 internal constant REWARD = 1000e18;

    DaoToken internal token;
    TimelockController internal timelock;
    DaoGovernor internal governor;
    ContributionLedger internal ledger;

    /// @dev Keys of the first validators, by ascending address.
    uint256[] internal keys;

    function deployDao() internal {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        token = new DaoToken("Example DAO", "EXD", address(this));
        timelock = new TimelockController(TIMELOCK_DELAY_S, new address[](0), new address[](1), address(this));
        governor = new DaoGovernor(
            IVotes(address(token)), timelock, VOTING_DELAY_S, VOTING_PERIOD_S, PROPOSAL_THRESHOLD, QUORUM_PERCENT
        );
        keys = keysByAddress(100, VALIDATORS);
        ledger = new ContributionLedger(token, address(timelock), addressesOf(keys), QUORUM, instant());

        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));
        token.grantRole(token.MINTER_ROLE(), address(ledger));
        token.grantRole(token.MINTER_ROLE(), address(this)); // the tests hand out votes as they need them
        token.grantRole(token.DEFAULT_ADMIN_ROLE(), address(timelock));
        token.renounceRole(token.DEFAULT_ADMIN_ROLE(), address(this));
    }

    /// @dev Roots pay at once, validators need no bond.
    function instant() internal pure returns (Validators.Terms memory) {
        return Validators.Terms(0, 0, 0, address(0));
    }

    function openRun() internal {
        vm.prank(address(timelock));
        ledger.openRun(RUN, SPEC, ROUNDS, REWARD);
    }

    function setValidators(address[] memory validators, uint256 quorum) internal {
        vm.prank(address(timelock));
        ledger.setValidators(validators, quorum);
    }

    function roundRoot(uint64 round, bytes32 payoutRoot, uint256 payoutTotal)
        internal
        pure
        returns (Rounds.RoundRoot memory)
    {
        return Rounds.RoundRoot(
            RUN,
            round,
            keccak256(abi.encode("checkpoint", round)),
            keccak256(abi.encode("record", round)),
            payoutRoot,
            payoutTotal
        );
    }

    /// @dev Signatures of the first `count` of `signers`, in their order.
    function signatures(Rounds.RoundRoot memory root, uint256[] memory signers, uint256 count)
        internal
        view
        returns (bytes[] memory signed)
    {
        bytes32 digest = ledger.roundDigest(root);
        signed = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            signed[i] = signature(signers[i], digest);
        }
    }

    function post(uint64 round, bytes32 payoutRoot, uint256 payoutTotal) internal {
        Rounds.RoundRoot memory root = roundRoot(round, payoutRoot, payoutTotal);
        ledger.postRound(root, signatures(root, keys, QUORUM));
    }

    /// @dev The EIP-712 digest of an OpenZeppelin ballot.
    function ballotDigest(uint256 proposalId, address voter, uint8 support, uint256 nonce)
        internal
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("DaoGovernor"),
                keccak256("1"),
                block.chainid,
                address(governor)
            )
        );
        bytes32 statement = keccak256(abi.encode(governor.BALLOT_TYPEHASH(), proposalId, support, voter, nonce));
        return keccak256(abi.encodePacked("\x19\x01", domain, statement));
    }

    /// @dev `count` keys from `first` on, sorted by address.
    function keysByAddress(uint256 first, uint256 count) internal pure returns (uint256[] memory sorted) {
        sorted = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 key = first + i;
            uint256 j = i;
            for (; j > 0 && vm.addr(sorted[j - 1]) > vm.addr(key); --j) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = key;
        }
    }

    function addressesOf(uint256[] memory of_) internal pure returns (address[] memory accounts) {
        accounts = new address[](of_.length);
        for (uint256 i = 0; i < of_.length; ++i) {
            accounts[i] = vm.addr(of_[i]);
        }
    }
}
