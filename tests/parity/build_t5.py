"""Tiny random T5 models with their logits, made by transformers and PyTorch.

    python -m tests.parity.build_t5 tests/golden

writes `t5_gated` (Flan-T5's shape: gated GELU, a matrix of its own for the logits) and
`t5_relu` (the first T5's: ReLU, logits of the embedding, scaled). Texts are longer
than the largest distance that attention tells apart; prompts are padded on the right,
on the left, and not at all. Needs PyTorch, which nothing else here does.
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
PROMPT, TEXT = 22, 19  # tokens


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
        generator = torch.Generator().manual_seed(1)
        prompt = torch.randint(0, 80, (3, PROMPT), generator=generator)
        text = torch.randint(0, 80, (3, TEXT), generator=generator)
        text[:, 0] = config.decoder_start_token_id
        mask = torch.ones_like(prompt)
        mask[1, 15:] = 0
        mask[2, :6] = 0
        said = model(input_ids=prompt, attention_mask=mask, decoder_input_ids=text)
    model.save_pretrained(folder / kind)
    (folder / kind / "generation_config.json").unlink(missing_ok=True)
    (folder / kind / "model.safetensors").chmod(0o644)
    np.savez(
        folder / kind / "golden.npz",
        ids=prompt.numpy(),
        mask=mask.numpy().astype(bool),
        decoder_ids=text.numpy(),
        logits=said.logits.numpy(),
    )
    size = sum(file.stat().st_size for file in (folder / kind).iterdir())
    spread = float(said.logits.std())
    print(json.dumps({"kind": kind, "bytes": size, "std of logits": spread}))


def main() -> None:
    """Writes both below the folder that is given."""
    # By name: PyTorch is not among the tools that check this file.
    modules = [__import__(name) for name in ("torch", "transformers")]
    for kind in KINDS:
        build(pathlib.Path(sys.argv[1]), kind, *modules)


if __name__ == "__main__":
    main()
