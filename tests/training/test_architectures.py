"""Model specs are judged by name and range, and say what follows from them."""

import pytest
import torch

from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec
from eigen.training.architectures import ARCHITECTURES, declare
from eigen.training.errors import SpecError
from eigen.training.models import build, flatten, initial_vector, unflatten
from eigen.training.spec import check, part_bytes, part_count, part_sizes, result_bytes

MLP = {"inputs": 64, "hidden": 32, "depth": 2, "classes": 10}
CNN = {"side": 8, "planes": 1, "channels": 4, "hidden": 16, "classes": 10}
GPT = {"width": 16, "depth": 2, "heads": 4, "context": 12, "vocabulary": 40}
GOOD = {"mlp": MLP, "cnn": CNN, "gpt": GPT}


def model(architecture: str, options: dict[str, int]) -> ModelSpec:
    return ModelSpec(architecture, tuple(sorted(options.items())))


@pytest.mark.parametrize(
    ("name", "options"), [("mlp", MLP), ("cnn", CNN), ("mlp", MLP | {"depth": 0})]
)
def test_a_declared_model_computes_logits_for_its_inputs(
    name: str, options: dict[str, int]
) -> None:
    declared = declare(model(name, options))
    theta_P = initial_vector(declared.layout, 3, declared.scales)
    logits = build(declared).logits
    batch = torch.rand(5, declared.inputs)
    assert logits(unflatten(declared.layout, theta_P), batch).shape == (5, 10)


def test_a_language_model_foretells_each_token_from_those_before_it() -> None:
    declared = declare(model("gpt", GPT))
    assert (declared.inputs, declared.classes, declared.sequences) == (12, 40, True)
    parameters = unflatten(declared.layout, initial_vector(declared.layout, 3, declared.scales))
    logits = build(declared).logits
    one_BT = torch.arange(24, dtype=torch.uint8).view(2, 12)
    other_BT = one_BT.clone()
    other_BT[1, 7] = 39
    one_BTC, other_BTC = logits(parameters, one_BT), logits(parameters, other_BT)
    assert one_BTC.shape == (2, 12, 40)
    assert torch.equal(one_BTC[0], other_BTC[0])
    assert torch.allclose(one_BTC[1, :7], other_BTC[1, :7], atol=1e-6)
    changed_T = (one_BTC[1] - other_BTC[1]).abs().amax(-1)
    assert (changed_T[7:] > 1e-3).all(), "what follows sees the other token"
    assert torch.allclose(logits(parameters, one_BT[:, :5]), one_BTC[:, :5], atol=1e-6), (
        "a shorter text is read like the beginning of a longer one"
    )


def test_a_model_may_scale_where_its_weights_begin() -> None:
    declared = declare(model("gpt", GPT))
    plain = unflatten(declared.layout, initial_vector(declared.layout, 1, {}))
    scaled = unflatten(declared.layout, initial_vector(declared.layout, 1, declared.scales))
    assert torch.allclose(scaled["tokens.weight"], plain["tokens.weight"] / 4)
    assert torch.allclose(
        scaled["block01.mlp.down.weight"], plain["block01.mlp.down.weight"] / 2
    ), "two blocks add four times to the residual stream"


def test_parameters_lie_in_the_vector_in_sorted_name_order() -> None:
    layout = declare(model("mlp", MLP)).layout
    assert list(layout.names) == sorted(layout.names)
    assert layout.values == 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10
    theta_P = torch.arange(layout.values, dtype=torch.float32)
    parameters = unflatten(layout, theta_P)
    assert parameters["layer00.bias"].tolist() == list(range(32))
    assert parameters["layer00.weight"][0, 0] == 32
    assert torch.equal(flatten(layout, parameters), theta_P)


def test_initial_parameters_follow_the_seed() -> None:
    layout = declare(model("cnn", CNN)).layout
    first, again, other = (initial_vector(layout, seed, {}) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    weights = unflatten(layout, first)["conv1.weight"]
    bound = (6 / (4 * 9)) ** 0.5
    assert weights.abs().max() <= bound
    assert weights.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert unflatten(layout, first)["conv1.bias"].count_nonzero() == 0


def test_an_unknown_architecture_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        SpecError, match=r"model\.architecture: 'rnn' is unknown; known: cnn, gpt, mlp"
    ):
        declare(model("rnn", MLP))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_option_must_be_there_and_within_its_range(name: str) -> None:
    good = GOOD[name]
    for option in ARCHITECTURES[name].options:
        for value in (option.least - 1, option.most + 1):
            with pytest.raises(SpecError) as refused:
                declare(model(name, good | {option.name: value}))
            assert refused.value.field == f"model.options.{option.name}"
            assert f"{value} is not within {option.least} to {option.most}" in str(refused.value)
        rest = {key: value for key, value in good.items() if key != option.name}
        with pytest.raises(SpecError, match=rf"model\.options\.{option.name}: is missing"):
            declare(model(name, rest))


def test_an_unknown_a_repeated_and_an_odd_option_are_refused() -> None:
    with pytest.raises(SpecError, match=r"model\.options\.dropout: mlp has no such option"):
        declare(model("mlp", MLP | {"dropout": 1}))
    with pytest.raises(SpecError, match="sorted by name, each once"):
        declare(ModelSpec("mlp", (("classes", 10), ("classes", 10))))
    with pytest.raises(SpecError, match=r"model\.options\.side: 9 is odd"):
        declare(model("cnn", CNN | {"side": 9}))
    with pytest.raises(SpecError, match=r"model\.options\.heads: 3 do not divide width 16"):
        declare(model("gpt", GPT | {"heads": 3}))


def test_parts_cover_the_vector_and_know_their_size(make_spec) -> None:
    spec = make_spec(part_values=1000)
    assert check(spec).layout.values == 2410
    assert part_count(spec) == 3
    assert part_sizes(spec) == [804, 803, 803]
    assert part_bytes(spec) == [804 + 2 * 4, 803 + 2 * 4, 803 + 2 * 4]
    apart = make_spec(part_values=1000, codec="top64-2bit", result_codec="fp16")
    assert result_bytes(apart) == [2 * 804 + 2 * 4, 2 * 803 + 2 * 4, 2 * 803 + 2 * 4]
    assert part_bytes(apart)[0] < 30
    assert part_sizes(make_spec(part_values=1205)) == [1205, 1205]
    assert part_sizes(make_spec(part_values=2409)) == [1205, 1205], "no part of one value"
    assert part_sizes(make_spec(part_values=2410)) == [2410]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("outer.rule", {"outer": OuterSpec("adam", 0.7, 0.5)}),
        ("outer.lr", {"outer": OuterSpec("sgd", 0.0, 0.0)}),
        ("outer.momentum", {"outer": OuterSpec("sgd", 1.0, 0.9)}),
        ("outer.momentum", {"outer": OuterSpec("nesterov", 1.0, 1.0)}),
        ("outer.momentum", {"codec": "top64-2bit", "outer": OuterSpec("nesterov", 0.7, 0.9)}),
        (
            "outer.momentum",
            {"result_codec": "top64-1bit", "outer": OuterSpec("nesterov", 0.7, 0.6)},
        ),
        ("codec", {"codec": "zip"}),
        ("result_codec", {"result_codec": "zip"}),
        ("aggregation.rule", {"aggregation": AggregationSpec("vote")}),
        ("aggregation.tolerated_bps", {"aggregation": AggregationSpec("mean", 1)}),
        ("aggregation.tolerated_bps", {"aggregation": AggregationSpec("median", 0)}),
        ("aggregation.tolerated_bps", {"aggregation": AggregationSpec("median", 5_000)}),
        ("inner.micro_batches", {"inner": InnerSpec(1, 4, 0.1, 0.0, micro_batches=3)}),
        ("inner.moments", {"inner": InnerSpec(1, 4, 0.1, 0.0, moments="held")}),
        ("inner.precision", {"inner": InnerSpec(1, 4, 0.1, 0.0, precision="fp8")}),
        ("inner.schedule", {"inner": InnerSpec(1, 4, 0.1, 0.0, schedule="steps")}),
        ("inner.warmup", {"inner": InnerSpec(2, 4, 0.1, 0.0, warmup=12)}),
        ("part_values", {"mlp": {"hidden": 8192, "depth": 3}, "part_values": 256}),
    ],
)
def test_a_spec_that_cannot_be_trained_is_refused_by_field(make_spec, field, change) -> None:
    with pytest.raises(SpecError) as refused:
        check(make_spec(**change))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1025),
        ("batch", 0),
        ("batch", 65_537),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", 11.0),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("weight_decay", 1000.0),
    ],
)
def test_inner_hyperparameters_have_ranges(make_spec, field: str, value: float) -> None:
    from dataclasses import replace

    spec = make_spec()
    with pytest.raises(SpecError) as refused:
        check(replace(spec, inner=replace(spec.inner, **{field: value})))
    assert refused.value.field == f"inner.{field}"
