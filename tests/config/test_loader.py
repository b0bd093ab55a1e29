"""Settings come from flags, environment, file and defaults, in that order; mistakes are named."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.config.addresses import parse_address
from eigen.config.errors import BadValue, ConfigError, ConfigSyntaxError, NotAccepted, UnknownKey
from eigen.config.loader import CONFIG_FILE_BYTES_MAX, Loaded, load
from eigen.config.paths import Paths
from eigen.config.reference import config_template
from eigen.config.schema import OPTIONS, NodeConfig, Option

PEER = "/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2HAm1PoqMkJRM96Pmc1omy2YacdRHhu7YwstaN6wJr5QTPRb"
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def loaded(
    paths: Paths, text: str = "", flags: dict[str, str] | None = None, **environ: str
) -> Loaded:
    paths.config_file.write_text(text)
    return load(paths, flags=flags, environ=environ)


def test_without_anything_the_defaults_hold(paths: Paths) -> None:
    result = load(paths, environ={})
    assert result.config == NodeConfig()
    assert set(result.origins) == set(OPTIONS)
    assert set(result.origins.values()) == {"default"}


def test_flags_win_over_environment_over_file_over_default(paths: Paths) -> None:
    text = "[training]\nthreads = 2\nmemory_mb = 512\n[p2p]\nmdns = false\n"
    environ = {"EIGEN_TRAINING_THREADS": "3", "EIGEN_P2P_MDNS": "yes"}
    result = loaded(paths, text, flags={"training.threads": "4"}, **environ)

    assert result.config.training.threads == 4
    assert result.origins["training.threads"] == "--set training.threads"
    assert result.config.p2p.mdns is True
    assert result.origins["p2p.mdns"] == "environment EIGEN_P2P_MDNS"
    assert result.config.training.memory_mb == 512
    assert result.origins["training.memory_mb"] == f"{paths.config_file}:3"
    assert result.origins["training.enabled"] == "default"


def test_each_kind_of_value_can_be_given_as_text(paths: Paths) -> None:
    result = loaded(
        paths,
        EIGEN_P2P_BOOTSTRAP=f" {PEER} ",
        EIGEN_P2P_LISTEN="/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/0",
        EIGEN_P2P_DENY="",
        EIGEN_PAYOUT_ADDRESS=ADDRESS,
        EIGEN_CHAIN_RPC_URLS="http://127.0.0.1:8545,https://example.org/key",
        EIGEN_CHAIN_CONFIRMATIONS="3",
        EIGEN_CHAIN_POLL_S="0.5",
        EIGEN_VALIDATOR_ENABLED="on",
        EIGEN_LOG_FORMAT="json",
    ).config
    assert result.p2p.bootstrap == (PEER,)
    assert result.p2p.listen == ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")
    assert result.p2p.deny == ()
    assert result.payout.address == parse_address(ADDRESS)
    assert result.chain.rpc_urls == ("http://127.0.0.1:8545", "https://example.org/key")
    assert (result.chain.confirmations, result.chain.poll_s) == (3, 0.5)
    assert result.validator.enabled is True
    assert result.log.format == "json"


def test_paths_are_relative_to_the_file_that_names_them(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    in_file = loaded(paths, '[keys]\npassphrase_file = "secret"\n').config
    assert in_file.keys.passphrase_file == tmp_path / "secret"
    in_variable = loaded(paths, EIGEN_KEYS_PASSPHRASE_FILE="secret").config
    assert in_variable.keys.passphrase_file == elsewhere / "secret"
    at_home = loaded(paths, '[keys]\npassphrase_file = "~/secret"\n').config
    assert at_home.keys.passphrase_file == Path("~/secret").expanduser()


def test_the_template_is_all_comments_and_its_values_hold(paths: Paths) -> None:
    assert loaded(paths, config_template()).config == NodeConfig()
    result = loaded(paths, config_template({"keys.encrypted": True, "p2p.bootstrap": [PEER]}))
    assert result.config.keys.encrypted is True
    assert result.config.p2p.bootstrap == (PEER,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[p2p]\nlisten = 5", "p2p.listen ({file}:2): 5 is no list; it must be a list"),
        ("[p2p]\nlisten = [5]", "p2p.listen ({file}:2): 5 is no string"),
        ('[p2p]\nlisten = ["here"]', "p2p.listen ({file}:2): 'here' is no multiaddr"),
        (f'[p2p]\nlisten = ["{PEER}"]', "names a peer"),
        ('[p2p]\nbootstrap = ["/ip4/127.0.0.1/tcp/1"]', "does not end in /p2p/ and a peer id"),
        (f'[p2p]\nbootstrap = ["{PEER}", "{PEER}"]', "an item appears twice"),
        ('[p2p]\nmdns = "yes"', "p2p.mdns ({file}:2): 'yes' is no boolean; it must be true or"),
        ("[p2p]\nmdns = 1", "1 is no boolean"),
        ("[training]\nthreads = true", "true is no whole number; it must be a whole number from"),
        ("[training]\nthreads = 0", "0 is out of range; it must be a whole number from 1 to 256"),
        ("[training]\nthreads = 1.5", "1.5 is no whole number"),
        ("[chain]\npoll_s = nan", "nan is out of range"),
        ('[chain]\npoll_s = "1"', "'1' is no number"),
        ('[chain]\nrpc_urls = ["ftp://a"]', "'ftp://a' is no http or https URL"),
        ('[chain]\nrpc_urls = ["http://a:b"]', "'http://a:b'"),
        ('[chain]\nrpc_urls = ["http://"]', "is no http or https URL"),
        ('[payout]\naddress = "0x12"', "payout.address ({file}:2): '0x12': an address is 0x and"),
        (f'[payout]\naddress = "{ADDRESS.swapcase()}"', "40 hexadecimal digits"),
        ('[log]\nlevel = "loud"', 'it must be one of "debug", "info", "warning", "error"'),
        ('[log]\nlevel = ["info"]', "is none of them"),
        ('[keys]\npassphrase_file = ""', "'' is no path"),
        ("p2p = 3", "p2p ({file}:1) is a section: write [p2p]"),
    ],
)
def test_a_bad_value_names_key_place_and_what_is_accepted(
    paths: Paths, text: str, message: str
) -> None:
    with pytest.raises(BadValue) as caught:
        loaded(paths, text)
    assert message.format(file=paths.config_file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[p2p]\nlisen = []", "p2p.lisen", "did you mean p2p.listen?"),
        ("[p2p]\nthreads = 2", "p2p.threads", "did you mean training.threads?"),
        ("threads = 2", "threads", "did you mean training.threads?"),
        ("[p2pp]\nlisten = []", "p2pp.listen", "did you mean p2p.listen?"),
        ("[trainig]", "trainig", "did you mean [training]?"),
        ("[wallet]", "wallet", "sections are network, p2p"),
        ("[log]\nzzzzzz = 1", "log.zzzzzz", "[log] has level, format"),
        ("[wallet]\nzzzzzz = 1", "wallet.zzzzzz", "sections are network, p2p"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(
    paths: Paths, text: str, key: str, hint: str
) -> None:
    with pytest.raises(UnknownKey) as caught:
        loaded(paths, text)
    assert caught.value.key == key
    assert hint in str(caught.value)
    assert f"{paths.config_file}:{2 if '[' in text and '=' in text else 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EIGEN_P2P_LISEN", "did you mean EIGEN_P2P_LISTEN?"),
        ("EIGEN_P2PP_LISTEN", "did you mean EIGEN_P2P_LISTEN?"),
        ("EIGEN_LOG_ZZZZZZZZZZZZZZZZZZZZ", "is no setting"),
    ],
)
def test_a_mistyped_variable_is_named(paths: Paths, name: str, hint: str) -> None:
    with pytest.raises(UnknownKey, match=name) as caught:
        loaded(paths, **{name: "1"})
    assert hint in str(caught.value)


def test_variables_of_others_are_left_alone(paths: Paths) -> None:
    others = {"EIGEN_HOME": "/x", "EIGEN_PASSPHRASE": "y", "EIGEN_CACHE": "z", "PATH": "/bin"}
    assert loaded(paths, **others).config == NodeConfig()


def test_a_bad_variable_and_a_bad_flag_are_named(paths: Paths) -> None:
    with pytest.raises(BadValue, match=r"\(environment EIGEN_TRAINING_THREADS\): 'many' is no"):
        loaded(paths, EIGEN_TRAINING_THREADS="many")
    with pytest.raises(BadValue, match=r"\(--set chain.poll_s\): 'soon' is no number"):
        loaded(paths, flags={"chain.poll_s": "soon"})
    with pytest.raises(UnknownKey, match=r"--set p2p.lisen: .* did you mean p2p.listen"):
        loaded(paths, flags={"p2p.lisen": ""})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[p2p\n", "not valid TOML: "),
        (b"[p2p]\nmdns = true\nmdns = true\n", "line 3"),
        (b"# fine\nx = '\xff'\n", ":2: not UTF-8"),
        (b"x = " + b"[" * 5000, "not valid TOML"),
        (b"#" * (CONFIG_FILE_BYTES_MAX + 1), "not a configuration"),
    ],
)
def test_files_that_are_not_toml(paths: Paths, data: bytes, message: str) -> None:
    paths.config_file.write_bytes(data)
    with pytest.raises(ConfigSyntaxError, match=message) as caught:
        load(paths, environ={})
    assert str(paths.config_file) in str(caught.value)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=30),
        st.sampled_from([PEER, ADDRESS, "/ip4/127.0.0.1/tcp/0", "http://a", "info", "json"]),
        st.datetimes(),
        st.times(),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(list(OPTIONS.values())), values)
def test_any_value_is_accepted_and_shown_the_same_or_refused_with_a_reason(
    option: Option, value: object
) -> None:
    try:
        parsed = option.kind.parse(value, Path("/base"))
    except NotAccepted:
        return
    plain = option.kind.plain(parsed)
    assert option.kind.parse(plain, Path("/base")) == parsed


@given(st.sampled_from(list(OPTIONS.values())), st.text(max_size=40))
def test_any_text_is_accepted_or_refused_with_a_reason(option: Option, text: str) -> None:
    with contextlib.suppress(NotAccepted):
        option.kind.parse(option.kind.from_text(text), Path("/base"))


def test_a_folder_in_place_of_the_file(paths: Paths) -> None:
    paths.config_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(paths, environ={})
