"""Where adapters go in each family: PEFT's names, and columns of our matrices.

A target is what PEFT calls a matrix of a layer; one name may stand for several of them
("c_proj", or T5's "q"). A site is one of these, with a pair A, B of its own. Its part,
or its parts side by side, are what the blocks know: columns of one of our matrices.
Where a site has several, as GPT-2's fused "c_attn" has, they share A and cut up B.

Shape letters: I inputs and O outputs of a part.
"""

from collections.abc import Collection
from typing import NamedTuple

from rljax.models.config import ModelConfig
from rljax.models.encdec_config import EncDecConfig

Config = ModelConfig | EncDecConfig

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LLAMA = ATTENTION + MLP  # and all decoders but GPT-2
GPT2 = ("c_attn", "c_proj", "c_fc")
T5 = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")
KNOWN = LLAMA + GPT2 + T5


class Site(NamedTuple):
    """What an adapter has one pair for."""

    target: str
    parts: tuple[str, ...]


_OF_T5 = dict(zip(T5[:4], ATTENTION, strict=True)) | {
    "wi": "up_proj", "wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj",
}  # fmt: skip


def _t5_sites() -> dict[str, Site]:
    found = {}
    for target, part in _OF_T5.items():
        for stack in ("encoder", "decoder"):
            found[f"{stack}_{target}"] = Site(target, (f"{stack}_{part}",))
        if part in ATTENTION:
            found[f"cross_{target}"] = Site(target, (f"decoder_cross_{part}",))
    return found


SITES: dict[str, Site] = {
    **{target: Site(target, (target,)) for target in LLAMA},
    "c_attn": Site("c_attn", ATTENTION[:3]),
    "attn_c_proj": Site("c_proj", ("o_proj",)),
    "mlp_c_proj": Site("c_proj", ("down_proj",)),
    "c_fc": Site("c_fc", ("up_proj",)),
    **_t5_sites(),
}


def sites_of(targets: tuple[str, ...]) -> list[str]:
    """The sites of some targets, in the order of targets."""
    return [
        name for target in targets for name in SITES if SITES[name].target == target
    ]


class Span(NamedTuple):
    """Where a part lies in a model's parameters."""

    name: str  # parameter
    first: int  # column of it
    inputs: int  # I
    outputs: int  # O


def spans(config: Config) -> dict[str, Span]:
    """Where each part lies.

    Args:
      config: of the model.

    Returns:
      Part -> span.

    Raises:
      ValueError: for a decoder that is of no family.
    """
    c = config
    if isinstance(c, EncDecConfig):
        return _spans_of_t5(c)
    if c.gated_mlp == c.learned_positions or (
        c.learned_positions and c.num_kv_heads != c.num_heads
    ):
        raise ValueError(
            "adapters are for the families that are read from files; a decoder with "
            f"gated_mlp {c.gated_mlp}, learned_positions {c.learned_positions} and "
            f"{c.num_kv_heads} key heads to {c.num_heads} is none of them"
        )
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    found = {
        "q_proj": Span("qkv", 0, c.width, q),
        "k_proj": Span("qkv", q, c.width, kv),
        "v_proj": Span("qkv", q + kv, c.width, kv),
        "o_proj": Span("out", 0, q, c.width),
    }
    if c.gated_mlp:
        found["gate_proj"] = Span("gate_up", 0, c.width, c.mlp_width)
        found["up_proj"] = Span("gate_up", c.mlp_width, c.width, c.mlp_width)
    else:
        found["up_proj"] = Span("up", 0, c.width, c.mlp_width)
    return found | {"down_proj": Span("down", 0, c.mlp_width, c.width)}


def _spans_of_t5(c: EncDecConfig) -> dict[str, Span]:
    inner, f, width = c.num_heads * c.head_dim, c.mlp_width, c.width
    found = {}
    for stack in ("encoder", "decoder"):
        for i, part in enumerate(ATTENTION[:3]):
            found[f"{stack}_{part}"] = Span(f"{stack}_qkv", i * inner, width, inner)
        found[f"{stack}_o_proj"] = Span(f"{stack}_out", 0, inner, width)
        if c.gated:
            found[f"{stack}_gate_proj"] = Span(f"{stack}_gate_up", 0, width, f)
            found[f"{stack}_up_proj"] = Span(f"{stack}_gate_up", f, width, f)
        else:
            found[f"{stack}_up_proj"] = Span(f"{stack}_up", 0, width, f)
        found[f"{stack}_down_proj"] = Span(f"{stack}_down", 0, f, width)
    cross = "decoder_cross"
    return found | {
        f"{cross}_q_proj": Span(f"{cross}_q", 0, width, inner),
        f"{cross}_k_proj": Span(f"{cross}_kv", 0, width, inner),
        f"{cross}_v_proj": Span(f"{cross}_kv", inner, width, inner),
        f"{cross}_o_proj": Span(f"{cross}_out", 0, inner, width),
    }


def modules(config: Config) -> dict[str, tuple[str, int]]:
    """What PEFT calls the sites that a model has.

    Args:
      config: of the model.

    Returns:
      Site -> path of the module with {} for the layer, and the number of layers.

    Raises:
      ValueError: as `spans`.
    """
    there = spans(config)
    if isinstance(config, EncDecConfig):
        return _modules_of_t5(config)
    count = config.num_layers
    if config.learned_positions:
        stem = "transformer.h.{}."
        names = {
            "c_attn": "attn.c_attn", "attn_c_proj": "attn.c_proj",
            "c_fc": "mlp.c_fc", "mlp_c_proj": "mlp.c_proj",
        }  # fmt: skip
        return {site: (stem + name, count) for site, name in names.items()}
    stem = "model.layers.{}."
    return {
        site: (f"{stem}{'self_attn' if site in ATTENTION else 'mlp'}.{site}", count)
        for site in LLAMA
        if site in there
    }


def _modules_of_t5(c: EncDecConfig) -> dict[str, tuple[str, int]]:
    mlp = ("wi_0", "wi_1", "wo") if c.gated else ("wi", "wo")
    found = {}
    for stack, count, last in (
        ("encoder", c.num_layers, 1),
        ("decoder", c.num_decoder_layers, 2),
    ):
        layer = f"{stack}.block.{{}}.layer."
        for letter in T5[:4]:
            path = f"{layer}0.SelfAttention.{letter}"
            found[f"{stack}_{letter}"] = (path, count)
            if stack == "decoder":
                path = f"{layer}1.EncDecAttention.{letter}"
                found[f"cross_{letter}"] = (path, count)
        for name in mlp:
            path = f"{layer}{last}.DenseReluDense.{name}"
            found[f"{stack}_{name}"] = (path, count)
    return found


def targets(config: Config) -> tuple[str, ...]:
    """All targets that a model has, in the order of `KNOWN`.

    Raises:
      ValueError: as `spans`.
    """
    there = {SITES[site].target for site in modules(config)}
    return tuple(name for name in KNOWN if name in there)


def targets_of(names: Collection[str]) -> tuple[str, ...]:
    """All targets of the model that has these parameters, in the order of `KNOWN`.

    Families differ in the names of their parameters, so no settings are needed.

    Args:
      names: of the parameters.

    Raises:
      ValueError: for parameters of no family.
    """
    if "encoder_qkv" in names:
        other = ("wi",) if "encoder_gate_up" in names else ("wi_0", "wi_1")
        return tuple(name for name in T5 if name not in other)
    if "qkv" in names and "gate_up" in names:
        return LLAMA
    if "qkv" in names and "up" in names:
        return GPT2
    raise ValueError(
        f"adapters are for models of the families; {', '.join(names)} are the "
        "parameters of none of them"
    )
