"""The codecs that a run spec may name. Knows no torch until one of them is used."""

from eigen.training.codecs.codec import Codec
from eigen.training.codecs.floats import Fp16, Fp32
from eigen.training.codecs.integers import Integers
from eigen.training.codecs.levels import Levels
from eigen.training.codecs.top_k import TopK

CODECS: dict[str, Codec] = {
    "fp32": Fp32(),
    "fp16": Fp16(),
    "int8": Integers(bits=8),
    "int4": Integers(bits=4),
    "2bit": Levels(2),
    "1bit": Levels(1),
    "top256-2bit": TopK(256, levels=2, answer="2bit"),
    "top256-1bit": TopK(256, levels=1, answer="2bit"),
    "top64-2bit": TopK(64, levels=2, answer="top256-2bit"),
    "top64-1bit": TopK(64, levels=1, answer="top256-2bit"),
}
"""From the most bytes a value to the fewest. A sparse update's answer keeps four times as many
values, or all: an average of sparse parts has more to say than each of them."""
DEFAULT_CODEC = "2bit"
"""What a run file means that names none."""
GROUP_CODEC = "int8"
"""How what a group comes to travels: eight bits, whose error is small enough without feedback."""
