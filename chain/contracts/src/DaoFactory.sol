// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "./ContributionLedger.sol";
import {CreationNFT} from "./CreationNFT.sol";
import {DaoToken} from "./DaoToken.sol";
import {JobEscrow} from "./JobEscrow.sol";
import {Membership} from "./Membership.sol";
import {ModelRegistry} from "./ModelRegistry.sol";
import {RevenueShare} from "./RevenueShare.sol";
import {Validators} from "./Validators.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title DaoFactory
/// @notice Founds a DAO in one call: token, timelock (which is the treasury), governor, ledger, model registry, job
/// escrow, revenue share, membership, creations. When the call ends, the timelock has every power and the factory none.
/// @dev Token, timelock, governor and ledger are whole contracts with immutables, deployed from `CodeStore`s: they are
/// called most, and a proxy would make each call dearer. The others are clones (EIP-1167) of one implementation each,
/// which keeps founding under the gas that one transaction may use (EIP-7825). Owned by nobody, cannot be changed.
contract DaoFactory {
    /// @notice What DAOs are made of: four `CodeStore`s and six implementations.
    struct Parts {
        address tokenCode;
        address timelockCode;
        address governorCode;
        address ledgerCode;
        address registry;
        address escrow;
        address revenue;
        address membership;
        address creations;
        address vault;
    }

    /// @notice Who holds how much at the start, in base units.
    struct Founder {
        address account;
        uint256 amount;
    }

    /// @notice What founders decide.
    /// @param name Of the token.
    /// @param symbol Of the token.
    /// @param founders Who holds how much at the start.
    /// @param validators The first validators.
    /// @param quorum How many of them must sign a round.
    /// @param terms See `Validators.Terms`.
    /// @param votingDelayS Seconds between a proposal and its vote.
    /// @param votingPeriodS Seconds that a vote is open.
    /// @param timelockDelayS Seconds between a vote and its execution.
    /// @param proposalThreshold Votes that a proposer needs, in base units.
    /// @param quorumPercent Share of the counted supply that must vote for or abstain.
    /// @param owner Who besides the DAO admits members; zero: nobody.
    /// @param openMembership Whether asking is enough to be a member.
    /// @param revenueAsset What revenue is shared in; zero: the DAO token.
    /// @param unstakeDelayS Seconds from unstaking until withdrawal.
    struct Plan {
        string name;
        string symbol;
        Founder[] founders;
        address[] validators;
        uint256 quorum;
        Validators.Terms terms;
        uint48 votingDelayS;
        uint32 votingPeriodS;
        uint256 timelockDelayS;
        uint256 proposalThreshold;
        uint256 quorumPercent;
        address owner;
        bool openMembership;
        address revenueAsset;
        uint32 unstakeDelayS;
    }

    /// @notice Where a DAO's contracts are. The timelock is its treasury.
    struct Dao {
        address token;
        address timelock;
        address governor;
        address ledger;
        address registry;
        address escrow;
        address revenue;
        address membership;
        address creations;
    }

    /// @notice What DAOs are made of.
    Parts public parts;
    /// @notice How many DAOs were founded here.
    uint256 public count;

    /// @notice A DAO was founded.
    event DaoCreated(uint256 indexed id, address indexed founder, string name, Dao dao);

    /// @notice A part has no code.
    error PartWithoutCode(address part);
    /// @notice A constructor refused without a reason.
    error CreationFailed(address code);

    /// @notice Makes a factory of parts that are on the chain already.
    /// @param parts_ See {Parts}.
    constructor(Parts memory parts_) {
        address[10] memory all = [
            parts_.tokenCode,
            parts_.timelockCode,
            parts_.governorCode,
            parts_.ledgerCode,
            parts_.registry,
            parts_.escrow,
            parts_.revenue,
            parts_.membership,
            parts_.creations,
            parts_.vault
        ];
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i].code.length == 0) revert PartWithoutCode(all[i]);
        }
        parts = parts_;
    }

    /// @notice Founds a DAO. Anyone may.
    /// @param plan What founders decide.
    /// @return dao Where its contracts are.
    function createDao(Plan calldata plan) external returns (Dao memory dao) {
        dao = _govern(plan);
        dao.ledger =
            _deploy(parts.ledgerCode, abi.encode(dao.token, dao.timelock, plan.validators, plan.quorum, plan.terms));
        dao.registry = Clones.clone(parts.registry);
        dao.escrow = Clones.clone(parts.escrow);
        dao.revenue = Clones.clone(parts.revenue);
        dao.membership = Clones.clone(parts.membership);
        dao.creations = Clones.clone(parts.creations);
        emit DaoCreated(++count, msg.sender, plan.name, dao);

        ModelRegistry(dao.registry).initialize(ContributionLedger(dao.ledger), parts.vault);
        JobEscrow(dao.escrow).initialize(ContributionLedger(dao.ledger));
        address asset = plan.revenueAsset == address(0) ? dao.token : plan.revenueAsset;
        RevenueShare(dao.revenue).initialize(DaoToken(dao.token), IERC20(asset), plan.unstakeDelayS);
        Membership(dao.membership).initialize(dao.timelock, plan.owner, plan.openMembership);
        CreationNFT(dao.creations).initialize(ModelRegistry(dao.registry));
        _handOver(plan, dao);
    }

    /// @dev Token, timelock and governor. The factory is their admin until {_handOver}.
    function _govern(Plan calldata plan) private returns (Dao memory dao) {
        dao.token = _deploy(parts.tokenCode, abi.encode(plan.name, plan.symbol, address(this)));
        address[] memory everyone = new address[](1);
        dao.timelock =
            _deploy(parts.timelockCode, abi.encode(plan.timelockDelayS, new address[](0), everyone, address(this)));
        dao.governor = _deploy(
            parts.governorCode,
            abi.encode(
                dao.token,
                dao.timelock,
                plan.votingDelayS,
                plan.votingPeriodS,
                plan.proposalThreshold,
                plan.quorumPercent
            )
        );
    }

    /// @dev Mints to the founders, grants what the contracts need, renounces what the factory had.
    function _handOver(Plan calldata plan, Dao memory dao) private {
        TimelockController timelock = TimelockController(payable(dao.timelock));
        timelock.grantRole(timelock.PROPOSER_ROLE(), dao.governor);
        timelock.grantRole(timelock.CANCELLER_ROLE(), dao.governor);
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));

        DaoToken token = DaoToken(dao.token);
        bytes32 minter = token.MINTER_ROLE();
        token.grantRole(minter, address(this));
        for (uint256 i = 0; i < plan.founders.length; ++i) {
            token.mint(plan.founders[i].account, plan.founders[i].amount);
        }
        token.renounceRole(minter, address(this));
        token.grantRole(minter, dao.ledger);
        token.grantRole(token.DEFAULT_ADMIN_ROLE(), dao.timelock);
        token.renounceRole(token.DEFAULT_ADMIN_ROLE(), address(this));
    }

    /// @dev Runs stored creation code with constructor arguments; passes on the reason of a refusal.
    function _deploy(address store, bytes memory args) private returns (address made) {
        bytes memory stored = store.code;
        bytes memory creation = bytes.concat(stored, args);
        assembly ("memory-safe") {
            // the first byte is the store's STOP
            made := create(0, add(creation, 33), sub(mload(creation), 1))
            if and(iszero(made), gt(returndatasize(), 0)) {
                returndatacopy(mload(0x40), 0, returndatasize())
                revert(mload(0x40), returndatasize())
            }
        }
        if (made == address(0)) revert CreationFailed(store);
    }
}
