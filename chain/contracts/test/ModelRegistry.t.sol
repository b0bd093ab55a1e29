// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {Rounds} from "../src/Rounds.sol";
import {RoyaltyVault} from "../src/RoyaltyVault.sol";
import {Models} from "./Models.sol";
import {Payouts} from "./Payouts.sol";
import {IERC2981} from "@openzeppelin/contracts/interfaces/IERC2981.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

/// @notice What is known of a model, and where its royalties go.
contract ModelRegistryTest is Models {
    function setUp() public {
        foundModel();
    }

    function test_the_dao_registers_a_run_as_a_model() public {
        bytes32 next = keccak256("next");
        openNext(next);
        vm.recordLogs();
        register(next, 0, 0);
        ModelRegistry.Model memory m = registry.models(uint256(next));
        vm.assertEq(m.spec, keccak256(abi.encode(next, "spec")), "spec");
        vm.assertEq(m.parent, 0, "parent");
        vm.assertEq(registry.ownerOf(uint256(next)), holder, "owner");
        vm.assertEq(keccak256(bytes(registry.tokenURI(uint256(next)))), keccak256("ipfs://model"), "uri");
        (address receiver, uint256 royalty) = registry.royaltyInfo(uint256(next), 1000);
        vm.assertEq(receiver, m.vault, "royalties go to the vault");
        vm.assertEq(royalty, 50, "five percent");
        vm.assertEq(RoyaltyVault(m.vault).run(), next, "the vault knows its run");
        vm.assertEq(vm.getRecordedLogs().length, 3, "registered, transferred, vault set up");
    }

    function test_it_says_what_it_is() public view {
        vm.assertEq(keccak256(bytes(registry.name())), keccak256("Eigen Model"), "name");
        vm.assertEq(keccak256(bytes(registry.symbol())), keccak256("EGNM"), "symbol");
        vm.assertTrue(registry.supportsInterface(type(IERC721).interfaceId), "ERC-721");
        vm.assertTrue(registry.supportsInterface(type(IERC2981).interfaceId), "ERC-2981");
        vm.assertTrue(!registry.supportsInterface(0xffffffff), "nothing else");
    }

    function test_only_the_dao_registers_and_only_what_the_ledger_knows() public {
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.OnlyDao.selector, address(this), address(timelock)));
        registry.register(RUN, holder, 0, 0, 0, "");
        bytes32 unknown = keccak256("unknown");
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.UnknownRun.selector, unknown));
        register(unknown, 0, 0);
        vm.expectPartialRevert(bytes4(keccak256("ERC721InvalidSender(address)")));
        register(RUN, 0, 0); // twice
    }

    function test_attested_rounds_are_put_on_record() public {
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.NothingToRecord.selector, MODEL, 0));
        registry.recordRound(MODEL);
        post(3, keccak256("payouts"), 5);
        vm.expectEmit(address(registry));
        emit ModelRegistry.RoundRecorded(
            MODEL, 3, checkpoint(3), keccak256(abi.encode("record", uint64(3))), keccak256("payouts")
        );
        registry.recordRound(MODEL);
        ModelRegistry.Round memory r = registry.rounds(MODEL, 3);
        vm.assertEq(r.checkpoint, checkpoint(3), "checkpoint");
        vm.assertEq(r.record, keccak256(abi.encode("record", uint64(3))), "record");
        vm.assertEq(r.payoutRoot, keccak256("payouts"), "who contributed");
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.NothingToRecord.selector, MODEL, 3));
        registry.recordRound(MODEL);
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.UnknownRound.selector, MODEL, 2));
        registry.rounds(MODEL, 2);
        vm.expectPartialRevert(bytes4(keccak256("ERC721NonexistentToken(uint256)")));
        registry.recordRound(MODEL + 1);
    }

    function test_a_model_is_followed_back_to_its_ancestors() public {
        recordRound(RUN, 1);
        (bytes32 child, bytes32 grandchild) = (keccak256("child"), keccak256("grandchild"));
        openNext(child);
        register(child, MODEL, 1);
        recordRound(child, 4);
        openNext(grandchild);
        register(grandchild, uint256(child), 4);
        uint256[] memory line = registry.lineage(uint256(grandchild));
        vm.assertEq(line.length, 2, "ancestors");
        vm.assertEq(line[0], uint256(child), "parent");
        vm.assertEq(line[1], MODEL, "its parent");
        vm.assertEq(registry.models(uint256(grandchild)).parentCheckpoint, checkpoint(4), "from which checkpoint");
        vm.assertEq(registry.lineage(MODEL).length, 0, "the first");
    }

    function test_a_parent_and_its_checkpoint_must_be_on_record() public {
        bytes32 child = keccak256("child");
        openNext(child);
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.UnknownRound.selector, MODEL, 1));
        register(child, MODEL, 1);
    }

    function test_a_lineage_can_be_read_in_one_call() public {
        uint256 max = registry.ANCESTORS_MAX();
        bytes32 parent = RUN;
        for (uint256 i = 0; i <= max; ++i) {
            recordRound(parent, 1);
            bytes32 child = keccak256(abi.encode("child", i));
            openNext(child);
            if (i == max) {
                vm.expectRevert(abi.encodeWithSelector(ModelRegistry.LineageTooLong.selector, uint256(parent), max));
            }
            register(child, uint256(parent), 1);
            parent = i == max ? parent : child;
        }
        vm.assertEq(registry.lineage(uint256(parent)).length, max, "the whole line");
    }

    function test_royalties_go_to_contributors() public {
        RoyaltyVault vault = RoyaltyVault(registry.models(MODEL).vault);
        vm.expectRevert(abi.encodeWithSelector(RoyaltyVault.NothingToForward.selector, address(money)));
        vault.forward(money);
        money.give(address(vault), 100);
        bytes32 stream = vault.streamOf(money);
        vm.expectEmit(address(vault));
        emit RoyaltyVault.Forwarded(address(money), stream, 100);
        vault.forward(money);
        money.give(address(vault), 11);
        vault.forward(money);

        (address[] memory who, uint256[] memory cumulative) = (new address[](2), new uint256[](2));
        (who[0], who[1], cumulative[0], cumulative[1]) = (vm.addr(1), vm.addr(2), 100, 11);
        bytes32[] memory leaves = Payouts.leaves(who, cumulative);
        Rounds.RoundRoot memory root = roundRoot(1, Payouts.root(leaves), 111);
        root.run = stream;
        ledger.postRound(root, signatures(root, keys, QUORUM));
        ledger.claim(stream, who[0], 100, Payouts.proof(leaves, 0));
        ledger.claim(stream, who[1], 11, Payouts.proof(leaves, 1));
        vm.assertEq(money.balanceOf(who[0]), 100, "a contributor");
        vm.assertEq(money.balanceOf(address(ledger)), 0, "all of it is paid");
    }

    function test_a_clone_needs_its_parts() public {
        (,,,, address code,,,,,) = factory.parts();
        ModelRegistry clone = ModelRegistry(Clones.clone(code));
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.ZeroAddress.selector, "ledger"));
        clone.initialize(ContributionLedger(address(0)), address(1));
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.ZeroAddress.selector, "vaultCode"));
        clone.initialize(ledger, address(0));
    }
}
