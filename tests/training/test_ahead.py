"""Local steps that begin after a trainer's own update, before the average is known."""

from collections.abc import Callable

import pytest

from eigen.protocol.run import InnerSpec, OuterSpec, RunSpec
from eigen.training.engine import Engine
from eigen.training.errors import BadInput

ORDER, NEXT = b"o" * 32, b"p" * 32
MakeSpec = Callable[..., RunSpec]


@pytest.mark.parametrize("moments", ["fresh", "shared"])
@pytest.mark.parametrize("outer", [OuterSpec("sgd", 0.7, 0.0), OuterSpec("nesterov", 0.7, 0.5)])
def test_steps_ahead_begin_where_the_own_update_leads(
    engine: Engine, make_spec: MakeSpec, shards: list[bytes], moments: str, outer: OuterSpec
) -> None:
    spec = make_spec(outer=outer, inner=InnerSpec(4, 16, 0.01, 0.01, moments=moments))
    base = engine.initial_checkpoint(spec)
    own = engine.train(spec, base, shards[:1], ORDER, b"").parts
    ahead = engine.local_steps(spec, base, shards[:1], NEXT, own=own)
    there = engine.local_steps(spec, engine.outer_step(spec, base, own), shards[:1], NEXT)
    assert ahead.delta == there.delta
    assert ahead.moments == there.moments
    assert ahead.loss_trace == there.loss_trace
    assert ahead.sketch != there.sketch, "signs follow from the base that others know"
    assert ahead.delta != engine.local_steps(spec, base, shards[:1], NEXT).delta


def test_an_own_update_is_read_in_the_codec_in_which_it_was_sent(
    engine: Engine, make_spec: MakeSpec, shards: list[bytes]
) -> None:
    spec, sent_back = make_spec(codec="2bit"), make_spec(codec="2bit", result_codec="2bit")
    base = engine.initial_checkpoint(spec)
    own = engine.train(spec, base, shards[:1], ORDER, b"").parts
    ahead = engine.local_steps(spec, base, shards[:1], NEXT, own=own)
    after = engine.outer_step(sent_back, base, own)
    assert ahead.delta == engine.local_steps(spec, after, shards[:1], NEXT).delta


def test_an_own_update_that_is_none_of_this_run_is_refused(
    engine: Engine, make_spec: MakeSpec, shards: list[bytes]
) -> None:
    spec = make_spec()
    base = engine.initial_checkpoint(spec)
    own = engine.train(spec, base, shards[:1], ORDER, b"").parts
    with pytest.raises(ValueError, match="2 results, the run has 3 parts"):
        engine.local_steps(spec, base, shards[:1], NEXT, own=own[:2])
    with pytest.raises(BadInput, match="input 1"):
        engine.local_steps(spec, base, shards[:1], NEXT, own=[own[0], b"?", own[2]])
