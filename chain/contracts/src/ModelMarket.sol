// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC2981} from "@openzeppelin/contracts/interfaces/IERC2981.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ERC165Checker} from "@openzeppelin/contracts/utils/introspection/ERC165Checker.sol";

/// @title ModelMarket
/// @notice Sells models (and any other ERC-721) and licences to use them, for any ERC-20. Royalties (ERC-2981) go
/// straight to their receiver, for Eigen's models the vault of the contributors.
/// @dev One for all DAOs of a chain; owned by nobody, holds nothing: each payment moves from buyer to receiver. A
/// listing never changes, so what a buyer agrees to by its id is what it gets: to change a price, cancel and list again.
contract ModelMarket is ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice An offer.
    /// @param seller Who offers; must own the token when it is bought.
    /// @param price Base units of `asset`; 0 is allowed.
    /// @param nft The token's contract.
    /// @param licence Whether a licence is sold, any number of times, or the token itself, once.
    /// @param durationS How long a licence runs; 0: for ever.
    /// @param asset What is paid with.
    /// @param tokenId Which token.
    /// @param terms SHA-256 of the licence's text.
    struct Listing {
        address seller;
        uint96 price;
        IERC721 nft;
        bool licence;
        uint40 durationS;
        IERC20 asset;
        uint256 tokenId;
        bytes32 terms;
    }

    /// @notice How many offers were ever made; their ids run from 1.
    uint256 public count;
    /// @notice Until when an account may use a token under some terms, unix seconds.
    mapping(IERC721 nft => mapping(uint256 tokenId => mapping(bytes32 terms => mapping(address holder => uint64))))
        public licensedUntil;

    mapping(uint256 id => Listing) private _listings;

    /// @notice An offer was made.
    event Listed(
        uint256 indexed id,
        address indexed nft,
        uint256 indexed tokenId,
        address seller,
        address asset,
        uint256 price,
        bool licence,
        uint40 durationS,
        bytes32 terms
    );
    /// @notice An offer was withdrawn.
    event Cancelled(uint256 indexed id);
    /// @notice An offer was taken. `royalty` of the price went to `royaltyReceiver`.
    event Bought(uint256 indexed id, address indexed buyer, uint256 price, address royaltyReceiver, uint256 royalty);
    /// @notice An account may use a token under these terms.
    event Licensed(
        address indexed nft, uint256 indexed tokenId, address indexed holder, bytes32 terms, uint64 until, uint256 id
    );

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice There is no such offer, or it was taken or withdrawn.
    error UnknownListing(uint256 id);
    /// @notice Only the seller may withdraw an offer.
    error NotSeller(uint256 id, address caller, address seller);
    /// @notice The seller does not own the token.
    error SellerNotOwner(address seller, address owner);
    /// @notice The token's contract asks for more royalty than the price.
    error RoyaltyTooLarge(uint256 royalty, uint256 price);

    /// @notice Offers a token that the caller owns. It must approve the market for it.
    /// @param nft The token's contract.
    /// @param tokenId Which token.
    /// @param asset What is paid with.
    /// @param price Base units of it.
    /// @return id The offer.
    function list(IERC721 nft, uint256 tokenId, IERC20 asset, uint96 price) external returns (uint256 id) {
        return _list(Listing(msg.sender, price, nft, false, 0, asset, tokenId, 0));
    }

    /// @notice Offers licences to use a token that the caller owns, as long as it owns it.
    /// @param nft The token's contract.
    /// @param tokenId Which token.
    /// @param asset What is paid with.
    /// @param price Base units of it, for one licence.
    /// @param durationS How long it runs; buying again adds to it; 0: for ever.
    /// @param terms SHA-256 of the licence's text.
    /// @return id The offer.
    function offerLicence(IERC721 nft, uint256 tokenId, IERC20 asset, uint96 price, uint40 durationS, bytes32 terms)
        external
        returns (uint256 id)
    {
        return _list(Listing(msg.sender, price, nft, true, durationS, asset, tokenId, terms));
    }

    /// @notice Withdraws an offer. Only its seller.
    /// @param id The offer.
    function cancel(uint256 id) external {
        address seller = _listings[id].seller;
        if (seller == address(0)) revert UnknownListing(id);
        if (msg.sender != seller) revert NotSeller(id, msg.sender, seller);
        delete _listings[id];
        emit Cancelled(id);
    }

    /// @notice Takes an offer. The caller must have approved the price.
    /// @param id The offer.
    /// @param to Who gets the token, or the licence.
    function buy(uint256 id, address to) external nonReentrant {
        if (to == address(0)) revert ZeroAddress("to");
        Listing memory l = _listings[id];
        if (l.seller == address(0)) revert UnknownListing(id);
        _requireOwner(l);
        (address receiver, uint256 royalty) = _royalty(l);
        emit Bought(id, msg.sender, l.price, receiver, royalty);
        if (l.licence) _license(id, l, to);
        else delete _listings[id];

        if (royalty != 0) l.asset.safeTransferFrom(msg.sender, receiver, royalty);
        if (l.price > royalty) l.asset.safeTransferFrom(msg.sender, l.seller, l.price - royalty);
        if (!l.licence) l.nft.safeTransferFrom(l.seller, to, l.tokenId);
    }

    /// @notice An offer. All zero for one that was taken or withdrawn.
    /// @param id The offer.
    /// @return See {Listing}.
    function listings(uint256 id) external view returns (Listing memory) {
        return _listings[id];
    }

    function _list(Listing memory l) private returns (uint256 id) {
        if (address(l.asset) == address(0)) revert ZeroAddress("asset");
        _requireOwner(l);
        id = ++count;
        _listings[id] = l;
        emit Listed(id, address(l.nft), l.tokenId, l.seller, address(l.asset), l.price, l.licence, l.durationS, l.terms);
    }

    function _license(uint256 id, Listing memory l, address to) private {
        uint64 until = licensedUntil[l.nft][l.tokenId][l.terms][to];
        if (until < block.timestamp) until = uint64(block.timestamp);
        if (l.durationS == 0 || until > type(uint64).max - l.durationS) until = type(uint64).max;
        else until += l.durationS;
        licensedUntil[l.nft][l.tokenId][l.terms][to] = until;
        emit Licensed(address(l.nft), l.tokenId, to, l.terms, until, id);
    }

    function _requireOwner(Listing memory l) private view {
        address owner = l.nft.ownerOf(l.tokenId);
        if (owner != l.seller) revert SellerNotOwner(l.seller, owner);
    }

    function _royalty(Listing memory l) private view returns (address receiver, uint256 royalty) {
        if (!ERC165Checker.supportsInterface(address(l.nft), type(IERC2981).interfaceId)) return (address(0), 0);
        (receiver, royalty) = IERC2981(address(l.nft)).royaltyInfo(l.tokenId, l.price);
        if (royalty > l.price) revert RoyaltyTooLarge(royalty, l.price);
        if (receiver == address(0)) royalty = 0;
    }
}
