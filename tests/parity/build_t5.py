"""Tiny random T5 models with their logits, made by transformers and PyTorch.

    python -m tests.parity.build_t5 tests/golden

writes a folder each for `t5_gated` (Flan-T5's shape: gated GELU, a matrix of its own
for the logits) and `t5_relu` (the first T5's: ReLU, logits of the embedding, scaled).
Texts are longer than the largest distance that attention tells apart; prompts are
padded on the right, on the left, and not at all. golden.npz holds

    ids, mask      int64 and bool [B, P]: prompts
    decoder_ids    int64 [B, T]: random texts, the start token first
    logits         float32 [B, T, V]: of them
    greedy         int32 [B, N]: what `generate` makes of the prompts, greedily, no
                   token ending it

Needs PyTorch, which only `make parity` brings.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np

KINDS = {
    "t5_gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "t5_relu": {"feed_forward_proj": "relu"},
}
SIZES = {
    "vocab_size": 80, "d_model": 32, "d_kv": 12, "d_ff": 40, "num_layers": 2,
    "num_decoder_layers": 3, "num_heads": 4, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12, "decoder_start_token_id": 3,
}  # fmt: skip
PROMPT, TEXT, NEW = 22, 19, 20  # tokens


def build(folder: pathlib.Path, kind: str, torch: Any, transformers: Any) -> None:
    """Writes one model and what it says.

    Args:
      folder: where to.
      kind: of `KINDS`.
      torch: the module.
      transformers: the module.
    """
    torch.manual_seed(0)
    config = transformers.T5Config(**SIZES, **KINDS[kind], initializer_factor=1.5)
    config._attn_implementation = "eager"
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        if kind == "t5_gated":
            own = torch.randn(SIZES["vocab_size"], SIZES["d_model"]) * 0.5
            model.lm_head.weight = torch.nn.Parameter(own)
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
            if "relative_attention_bias" in name:
                weight.copy_(torch.randn_like(weight))
        if kind == "t5_relu":
            # Either sign, or logits of the embedding say what was read once more.
            scale = model.decoder.final_layer_norm.weight
            scale.copy_(2 * torch.randn_like(scale))
        generator = torch.Generator().manual_seed(1)
        prompt = torch.randint(0, 80, (3, PROMPT), generator=generator)
        text = torch.randint(0, 80, (3, TEXT), generator=generator)
        text[:, 0] = config.decoder_start_token_id
        mask = torch.ones_like(prompt)
        mask[1, 15:] = 0
        mask[2, :6] = 0
        said = model(input_ids=prompt, attention_mask=mask, decoder_input_ids=text)
        out = model.generate(
            prompt, attention_mask=mask, max_new_tokens=NEW, do_sample=False,
            eos_token_id=None,
            use_cache=False,  # it holds as many layers as the encoder has
        )  # fmt: skip
        after = model(input_ids=prompt, attention_mask=mask, decoder_input_ids=out)
        require_clear_choices(out, after.logits)
    model.save_pretrained(folder / kind)
    (folder / kind / "generation_config.json").unlink(missing_ok=True)
    (folder / kind / "model.safetensors").chmod(0o644)
    np.savez(
        folder / kind / "golden.npz",
        ids=prompt.numpy(),
        mask=mask.numpy().astype(bool),
        decoder_ids=text.numpy(),
        logits=said.logits.numpy(),
        greedy=out[:, 1:].numpy().astype(np.int32),
    )
    size = sum(file.stat().st_size for file in (folder / kind).iterdir())
    assert size < 500_000, f"{folder / kind} takes {size:,} bytes"
    spread = float(said.logits.std())
    print(json.dumps({"kind": kind, "bytes": size, "std of logits": spread}))


def require_clear_choices(texts: Any, logits: Any) -> None:
    """No two best tokens so near that rounding decides, and texts that say something.

    Args:
      texts: int64 [B, 1 + N], the start token, then what was chosen.
      logits: float32 [B, 1 + N, V], of these texts.

    Raises:
      AssertionError: if the fixture would prove little.
    """
    assert (
        texts.shape[1] == NEW + 1
        and (texts[:, 0] == SIZES["decoder_start_token_id"]).all()
    )
    best = logits[:, :-1].topk(2)
    assert (best.indices[..., 0] == texts[:, 1:]).all(), "generate is not greedy"
    gap = float((best.values[..., 0] - best.values[..., 1]).min())
    assert gap > 1e-3, f"two tokens are as good to {gap:.1e}: take another seed"
    kinds = [len(set(row)) for row in texts[:, 1:].tolist()]
    assert min(kinds) > 1, f"texts of {kinds} different tokens"


def main() -> None:
    """Writes both below the folder that is given."""
    # By name: PyTorch is not among the tools that check this file.
    modules = [__import__(name) for name in ("torch", "transformers")]
    for kind in KINDS:
        build(pathlib.Path(sys.argv[1]), kind, *modules)


if __name__ == "__main__":
    main()
