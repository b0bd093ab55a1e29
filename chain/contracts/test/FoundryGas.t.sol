// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {DaoFactory} from "../src/DaoFactory.sol";
import {ModelMarket} from "../src/ModelMarket.sol";
import {Rounds} from "../src/Rounds.sol";
import {Models} from "./Models.sol";
import {Payouts} from "./Payouts.sol";

/// @notice What founding and the rarer calls cost as whole transactions, in gas.
/// forge-config: default.isolate = true
contract FoundryGasTest is Models {
    uint256 private constant GAS_MAX = 1 << 24; // of a transaction (EIP-7825)

    function setUp() public {
        foundModel();
    }

    function test_founding() public {
        factory.createDao(plan(address(money)));
        vm.snapshotGasLastCall("createDao, 3 founders, 5 validators");
        DaoFactory.Plan memory p = plan(address(money));
        p.founders = new DaoFactory.Founder[](24);
        for (uint256 i = 0; i < p.founders.length; ++i) {
            p.founders[i] = DaoFactory.Founder(vm.addr(2000 + i), 1e18);
        }
        p.validators = addressesOf(keysByAddress(3000, 16));
        p.quorum = 9;
        factory.createDao(p);
        vm.assertLe(vm.snapshotGasLastCall("createDao, 24 founders, 16 validators"), GAS_MAX, "fits a transaction");
    }

    function test_revenue() public {
        address staker = vm.addr(600);
        vm.prank(staker);
        token.approve(address(revenue), type(uint256).max);
        vm.prank(staker);
        revenue.stake(1e18);
        vm.snapshotGasLastCall("stake, first of an account");
        vm.prank(staker);
        revenue.stake(1e18);
        vm.snapshotGasLastCall("stake, later");
        money.give(address(this), 3000);
        money.approve(address(revenue), 3000);
        revenue.deposit(1000);
        revenue.deposit(1000);
        vm.snapshotGasLastCall("deposit, later, any number of stakers");
        revenue.claim(staker);
        revenue.deposit(1000);
        revenue.claim(staker);
        vm.snapshotGasLastCall("revenue claim, later");
        vm.prank(staker);
        revenue.unstake(1e18);
        vm.snapshotGasLastCall("unstake");
    }

    function test_jobs() public {
        address client = vm.addr(800);
        money.give(client, 1000);
        vm.prank(client);
        money.approve(address(escrow), 1000);
        vm.prank(client);
        bytes32 job = escrow.open(RUN, SPEC, money, 1000, uint40(block.timestamp + 1 days), 1 hours, 1);
        vm.snapshotGasLastCall("open a job");
        Rounds.RoundRoot memory root = roundRoot(1, Payouts.leaf(holder, 900), 900);
        root.run = escrow.streamOf(job);
        ledger.postRound(root, signatures(root, keys, QUORUM));
        escrow.deliver(job);
        vm.snapshotGasLastCall("deliver a job");
        vm.warp(block.timestamp + 1 hours);
        escrow.release(job);
        vm.snapshotGasLastCall("release a job");
    }

    function test_models() public {
        recordRound(RUN, 1);
        vm.snapshotGasLastCall("recordRound");
        bytes32 next = keccak256("next");
        openNext(next);
        register(next, MODEL, 1);
        vm.snapshotGasLastCall("register a model");
        creations.mint(
            holder, MODEL, 1, SPEC, SPEC, "ipfs://bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        );
        vm.snapshotGasLastCall("mint a creation");
        ModelMarket market = new ModelMarket();
        vm.prank(holder);
        registry.approve(address(market), MODEL);
        vm.prank(holder);
        uint256 id = market.list(registry, MODEL, money, 1000);
        vm.snapshotGasLastCall("list a model");
        money.give(address(this), 1000);
        money.approve(address(market), 1000);
        market.buy(id, vm.addr(9));
        vm.snapshotGasLastCall("buy a model");
    }
}
