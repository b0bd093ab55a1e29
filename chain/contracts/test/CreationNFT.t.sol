// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {CreationNFT} from "../src/CreationNFT.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {Models} from "./Models.sol";
import {IERC2981} from "@openzeppelin/contracts/interfaces/IERC2981.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

/// @notice Works with their provenance.
contract CreationNFTTest is Models {
    bytes32 private constant PROMPT = keccak256("a cat in the style of cats");
    bytes32 private constant CONTENT = keccak256("pixels");

    function setUp() public {
        foundModel();
        recordRound(RUN, 2);
    }

    function test_a_work_carries_its_provenance() public {
        uint256 id = creations.creationId(address(this), MODEL, checkpoint(2), PROMPT, CONTENT);
        vm.expectEmit(address(creations));
        emit CreationNFT.Created(id, address(this), MODEL, 2, checkpoint(2), PROMPT, CONTENT);
        vm.assertEq(mint(2), id, "id");
        CreationNFT.Provenance memory p = creations.provenance(id);
        vm.assertEq(p.model, MODEL, "model");
        vm.assertEq(p.round, 2, "round");
        vm.assertEq(p.checkpoint, checkpoint(2), "checkpoint");
        vm.assertEq(p.prompt, PROMPT, "prompt");
        vm.assertEq(p.content, CONTENT, "content");
        vm.assertEq(p.creator, address(this), "creator");
        vm.assertEq(creations.ownerOf(id), holder, "owner");
        vm.assertEq(keccak256(bytes(creations.tokenURI(id))), keccak256("ipfs://work"), "uri");
    }

    function test_a_work_is_minted_once_and_nobody_takes_anothers_id() public {
        uint256 id = mint(2);
        vm.expectPartialRevert(bytes4(keccak256("ERC721InvalidSender(address)")));
        mint(2);
        vm.prank(vm.addr(5));
        vm.assertTrue(creations.mint(holder, MODEL, 2, PROMPT, CONTENT, "") != id, "another's id");
    }

    function test_a_checkpoint_must_be_on_record() public {
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.UnknownRound.selector, MODEL, 3));
        mint(3);
    }

    function test_royalties_go_to_the_models_contributors() public {
        (address receiver, uint256 royalty) = creations.royaltyInfo(mint(2), 1000);
        vm.assertEq(receiver, registry.models(MODEL).vault, "receiver");
        vm.assertEq(royalty, 50, "five percent");
    }

    function test_what_does_not_exist_has_no_provenance() public {
        bytes4 none = bytes4(keccak256("ERC721NonexistentToken(uint256)"));
        vm.expectPartialRevert(none);
        creations.provenance(1);
        vm.expectPartialRevert(none);
        creations.royaltyInfo(1, 1);
        vm.expectPartialRevert(none);
        creations.tokenURI(1);
    }

    function test_it_says_what_it_is() public view {
        vm.assertEq(keccak256(bytes(creations.name())), keccak256("Eigen Creation"), "name");
        vm.assertEq(keccak256(bytes(creations.symbol())), keccak256("EGNC"), "symbol");
        vm.assertTrue(creations.supportsInterface(type(IERC721).interfaceId), "ERC-721");
        vm.assertTrue(creations.supportsInterface(type(IERC2981).interfaceId), "ERC-2981");
    }

    function test_a_clone_needs_a_registry() public {
        (,,,,,,,, address code,) = factory.parts();
        CreationNFT clone = CreationNFT(Clones.clone(code));
        vm.expectRevert(abi.encodeWithSelector(CreationNFT.ZeroAddress.selector, "registry"));
        clone.initialize(ModelRegistry(address(0)));
    }

    function mint(uint64 round) private returns (uint256) {
        return creations.mint(holder, MODEL, round, PROMPT, CONTENT, "ipfs://work");
    }
}
