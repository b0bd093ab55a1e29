// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {CodeStore} from "../src/CodeStore.sol";
import {ContributionLedger} from "../src/ContributionLedger.sol";
import {CreationNFT} from "../src/CreationNFT.sol";
import {DaoFactory} from "../src/DaoFactory.sol";
import {DaoGovernor} from "../src/DaoGovernor.sol";
import {DaoToken} from "../src/DaoToken.sol";
import {JobEscrow} from "../src/JobEscrow.sol";
import {Membership} from "../src/Membership.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {RevenueShare} from "../src/RevenueShare.sol";
import {RoyaltyVault} from "../src/RoyaltyVault.sol";
import {Dao} from "./Dao.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @notice A DAO that the factory founded, with all its contracts.
abstract contract Foundry is Dao {
    uint32 internal constant UNSTAKE_DELAY_S = 7 days;

    DaoFactory internal factory;
    ModelRegistry internal registry;
    JobEscrow internal escrow;
    RevenueShare internal revenue;
    Membership internal membership;
    CreationNFT internal creations;
    address internal owner = vm.addr(700);

    function deployFactory() internal {
        factory = new DaoFactory(
            DaoFactory.Parts(
                store(type(DaoToken).creationCode),
                store(type(TimelockController).creationCode),
                store(type(DaoGovernor).creationCode),
                store(type(ContributionLedger).creationCode),
                address(new ModelRegistry()),
                address(new JobEscrow()),
                address(new RevenueShare()),
                address(new Membership()),
                address(new CreationNFT()),
                address(new RoyaltyVault())
            )
        );
    }

    /// @dev Founds a DAO whose revenue is in `asset`, and keeps its contracts.
    function foundDao(address asset) internal {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        deployFactory();
        keys = keysByAddress(100, VALIDATORS);
        use(factory.createDao(plan(asset)));
    }

    function use(DaoFactory.Dao memory dao) internal {
        token = DaoToken(dao.token);
        timelock = TimelockController(payable(dao.timelock));
        governor = DaoGovernor(payable(dao.governor));
        ledger = ContributionLedger(dao.ledger);
        registry = ModelRegistry(dao.registry);
        escrow = JobEscrow(dao.escrow);
        revenue = RevenueShare(dao.revenue);
        membership = Membership(dao.membership);
        creations = CreationNFT(dao.creations);
    }

    function plan(address asset) internal view returns (DaoFactory.Plan memory p) {
        p.name = "Example DAO";
        p.symbol = "EXD";
        p.founders = new DaoFactory.Founder[](3);
        for (uint256 i = 0; i < 3; ++i) {
            p.founders[i] = DaoFactory.Founder(vm.addr(600 + i), 100e18 * (1 + i));
        }
        (p.validators, p.quorum, p.terms) = (addressesOf(keys), QUORUM, instant());
        (p.votingDelayS, p.votingPeriodS, p.timelockDelayS) = (VOTING_DELAY_S, VOTING_PERIOD_S, TIMELOCK_DELAY_S);
        (p.proposalThreshold, p.quorumPercent) = (PROPOSAL_THRESHOLD, QUORUM_PERCENT);
        (p.owner, p.revenueAsset, p.unstakeDelayS) = (owner, asset, UNSTAKE_DELAY_S);
    }

    function store(bytes memory code) private returns (address) {
        return address(new CodeStore(code));
    }
}
