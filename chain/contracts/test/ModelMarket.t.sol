// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ModelMarket} from "../src/ModelMarket.sol";
import {Models} from "./Models.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IERC721Receiver} from "@openzeppelin/contracts/token/ERC721/IERC721Receiver.sol";
import {ERC2981} from "@openzeppelin/contracts/token/common/ERC2981.sol";

/// @notice An NFT whose royalties a test chooses, or which knows none.
contract Art is ERC721, ERC2981 {
    address public receiver;
    uint256 public royalty;
    bool private immutable _pays;

    constructor(bool pays) ERC721("Art", "ART") {
        _pays = pays;
    }

    function give(address to, uint256 id) external {
        _mint(to, id);
    }

    function ask(address receiver_, uint256 royalty_) external {
        (receiver, royalty) = (receiver_, royalty_);
    }

    function royaltyInfo(uint256, uint256) public view override returns (address, uint256) {
        return (receiver, royalty);
    }

    function supportsInterface(bytes4 id) public view override(ERC721, ERC2981) returns (bool) {
        return _pays ? super.supportsInterface(id) : ERC721.supportsInterface(id);
    }
}

/// @notice A buyer that buys again while it receives.
contract Greedy is IERC721Receiver {
    ModelMarket private immutable _market;
    uint256 private immutable _next;

    constructor(ModelMarket market, uint256 next, IERC20 asset) {
        (_market, _next) = (market, next);
        asset.approve(address(market), type(uint256).max);
    }

    function buy(uint256 id) external {
        _market.buy(id, address(this));
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        _market.buy(_next, address(this));
        return this.onERC721Received.selector;
    }
}

/// @notice Who pays whom for what.
contract ModelMarketTest is Models {
    bytes32 private constant TERMS = keccak256("use it well");
    uint96 private constant PRICE = 1000;

    ModelMarket private market;
    address private buyer = vm.addr(820);

    function setUp() public {
        foundModel();
        market = new ModelMarket();
        vm.prank(holder);
        registry.approve(address(market), MODEL);
        money.give(buyer, 10 * PRICE);
        vm.prank(buyer);
        money.approve(address(market), type(uint256).max);
    }

    // ------------------------------------------------------------------ sales

    function test_a_model_is_sold_and_its_contributors_get_their_part() public {
        vm.expectEmit(address(market));
        emit ModelMarket.Listed(1, address(registry), MODEL, holder, address(money), PRICE, false, 0, bytes32(0));
        uint256 id = list(money);
        address vault = registry.models(MODEL).vault;
        vm.expectEmit(address(market));
        emit ModelMarket.Bought(id, buyer, PRICE, vault, 50);
        buy(id);
        vm.assertEq(registry.ownerOf(MODEL), buyer, "owner");
        vm.assertEq(money.balanceOf(vault), 50, "royalty");
        vm.assertEq(money.balanceOf(holder), 950, "seller");
        vm.assertEq(money.balanceOf(address(market)), 0, "the market holds nothing");
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.UnknownListing.selector, id));
        buy(id);
    }

    function test_a_model_is_sold_for_dao_tokens() public {
        vm.prank(vm.addr(600));
        vm.assertTrue(token.transfer(buyer, PRICE), "sent");
        vm.prank(buyer);
        token.approve(address(market), PRICE);
        buy(list(token));
        vm.assertEq(token.balanceOf(holder), 950, "seller");
    }

    function test_a_model_may_be_given_away() public {
        vm.prank(holder);
        uint256 id = market.list(registry, MODEL, money, 0);
        buy(id);
        vm.assertEq(registry.ownerOf(MODEL), buyer, "owner");
    }

    function test_an_offer_is_withdrawn_by_its_seller() public {
        uint256 id = list(money);
        vm.assertEq(market.listings(id).price, PRICE, "price");
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.NotSeller.selector, id, address(this), holder));
        market.cancel(id);
        vm.expectEmit(address(market));
        emit ModelMarket.Cancelled(id);
        vm.prank(holder);
        market.cancel(id);
        bytes memory gone = abi.encodeWithSelector(ModelMarket.UnknownListing.selector, id);
        vm.expectRevert(gone);
        buy(id);
        vm.expectRevert(gone);
        market.cancel(id);
    }

    function test_only_an_owner_offers_and_only_while_it_is_one() public {
        bytes memory other = abi.encodeWithSelector(ModelMarket.SellerNotOwner.selector, address(this), holder);
        vm.expectRevert(other);
        market.list(registry, MODEL, money, PRICE);
        uint256 id = list(money);
        vm.prank(holder);
        registry.transferFrom(holder, vm.addr(9), MODEL);
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.SellerNotOwner.selector, holder, vm.addr(9)));
        buy(id);
    }

    function test_nobody_and_nothing_are_refused() public {
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.ZeroAddress.selector, "asset"));
        list(IERC20(address(0)));
        uint256 id = list(money);
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.ZeroAddress.selector, "to"));
        vm.prank(buyer);
        market.buy(id, address(0));
    }

    function test_who_cannot_pay_gets_nothing() public {
        uint256 id = list(money);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientAllowance(address,uint256,uint256)")));
        vm.prank(vm.addr(9));
        market.buy(id, vm.addr(9));
        vm.assertEq(registry.ownerOf(MODEL), holder, "owner");
    }

    // ------------------------------------------------------------------ licences

    function test_a_licence_runs_and_is_prolonged() public {
        uint256 id = offer(30 days);
        uint64 until = uint64(block.timestamp + 30 days);
        vm.expectEmit(address(market));
        emit ModelMarket.Licensed(address(registry), MODEL, buyer, TERMS, until, id);
        buy(id);
        vm.assertEq(registry.ownerOf(MODEL), holder, "the model stays");
        buy(id);
        requireLicence(until + 30 days);
        vm.warp(block.timestamp + 100 days);
        buy(id);
        requireLicence(uint64(block.timestamp + 30 days));
        vm.assertEq(money.balanceOf(holder), 3 * 950, "seller");
    }

    function test_a_licence_may_be_for_ever() public {
        uint256 id = offer(0);
        buy(id);
        requireLicence(type(uint64).max);
        buy(id);
        uint256 short = offer(1 days);
        buy(short);
        requireLicence(type(uint64).max);
    }

    function test_a_former_owner_sells_no_licences() public {
        uint256 id = offer(30 days);
        vm.prank(holder);
        registry.transferFrom(holder, vm.addr(9), MODEL);
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.SellerNotOwner.selector, holder, vm.addr(9)));
        buy(id);
    }

    // ------------------------------------------------------------------ other contracts' tokens

    function test_royalties_are_bounded_by_the_price() public {
        (Art art, uint256 id) = listArt(true);
        art.ask(vm.addr(9), PRICE + 1);
        vm.expectRevert(abi.encodeWithSelector(ModelMarket.RoyaltyTooLarge.selector, PRICE + 1, PRICE));
        buy(id);
        art.ask(vm.addr(9), PRICE);
        buy(id);
        vm.assertEq(money.balanceOf(vm.addr(9)), PRICE, "all of it");
    }

    function test_a_token_may_have_no_royalties() public {
        (, uint256 id) = listArt(false);
        buy(id);
        vm.assertEq(money.balanceOf(holder), PRICE, "seller");
        (Art art, uint256 second) = listArt(true);
        art.ask(address(0), 10);
        buy(second);
        vm.assertEq(money.balanceOf(holder), 2 * PRICE, "nobody to pay royalties to");
    }

    function test_a_buyer_cannot_buy_within_a_purchase() public {
        (Art art, uint256 id) = listArt(false);
        art.give(holder, 2);
        vm.prank(holder);
        uint256 next = market.list(art, 2, money, 1);
        Greedy greedy = new Greedy(market, next, money);
        money.give(address(greedy), 2 * PRICE);
        vm.expectPartialRevert(bytes4(keccak256("ReentrancyGuardReentrantCall()")));
        greedy.buy(id);
    }

    /// @dev Whatever price and royalty: the buyer pays the price, and the market keeps nothing.
    function testFuzz_the_price_is_conserved(uint96 price, uint256 royalty) public {
        Art art = new Art(true);
        art.give(holder, 1);
        vm.prank(holder);
        art.approve(address(market), 1);
        vm.prank(holder);
        uint256 id = market.list(art, 1, money, price);
        art.ask(vm.addr(9), bound(royalty, 0, price));
        money.give(buyer, price);
        uint256 before = money.balanceOf(buyer);
        buy(id);
        vm.assertEq(before - money.balanceOf(buyer), price, "paid");
        vm.assertEq(money.balanceOf(holder) + money.balanceOf(vm.addr(9)), price, "received");
        vm.assertEq(money.balanceOf(address(market)), 0, "kept");
    }

    // ------------------------------------------------------------------ building blocks

    function list(IERC20 asset) private returns (uint256) {
        vm.prank(holder);
        return market.list(registry, MODEL, asset, PRICE);
    }

    function offer(uint40 durationS) private returns (uint256) {
        vm.prank(holder);
        return market.offerLicence(registry, MODEL, money, PRICE, durationS, TERMS);
    }

    function listArt(bool pays) private returns (Art art, uint256 id) {
        art = new Art(pays);
        art.give(holder, 1);
        vm.prank(holder);
        art.setApprovalForAll(address(market), true);
        vm.prank(holder);
        id = market.list(art, 1, money, PRICE);
    }

    function buy(uint256 id) private {
        vm.prank(buyer);
        market.buy(id, buyer);
    }

    function requireLicence(uint64 until) private view {
        vm.assertEq(market.licensedUntil(IERC721(registry), MODEL, TERMS, buyer), until, "licensed until");
    }
}
