"""Continues a prompt with a model, or says what it makes of some commands.

    python -m experiments.generate --model=PATH --prompt="Once upon a time" \
        --temperature=0 --max_tokens=120

PATH is a Hugging Face folder, a GGUF or llama2.c file, or `smollm2`. `--scores` adds
each token's log-probability, `--commands=a,b,c` prints the distribution over these
continuations in place of one, `--chat` puts the prompt into the tokenizer's chat
template.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import loading
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import decode, networks
from rljax.policy.truncate import Truncation
from rljax.text import batch, chat, trie
from rljax.text import tokenizer as tokenizers
from rljax.types import Params, Tokens

_BUCKET = 64  # smallest size a prompt is padded to


def main(words: Sequence[str]) -> int:
    """Prints; 2 where something can be mended, told in words."""
    given = _parser().parse_args(words)
    try:
        _run(given)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="PATH")
    add("--prompt", required=True, help="may be empty: then the text begins by itself")
    add("--temperature", type=float, default=1.0, help="0 takes the likeliest token")
    add("--max_tokens", type=int, default=120)
    add("--top_k", type=int)
    add("--top_p", type=float)
    add("--min_p", type=float)
    add("--stop", action="append", default=[], help="a string that ends the text")
    add("--samples", type=int, default=1)
    add("--seed", type=int, default=0)
    add("--scores", action="store_true", help="each token's log-probability")
    add("--commands", help="a,b,c: the distribution over these continuations")
    add("--chat", action="store_true", help="the tokenizer's chat template")
    add("--dtype", choices=("float32", "bfloat16"), help="of weights and activations")
    return parser


def _run(given: argparse.Namespace) -> None:
    model = loading.open_model(given.model)
    tokens = model.tokenizer()
    if isinstance(model.config, EncDecConfig):
        if given.commands is None:
            raise ValueError(
                f"{given.model} is an encoder-decoder, which scores commands here "
                "(--commands=a,b,c) and does not generate"
            )
    prompt = _prompt(tokens, given.prompt, given.chat)
    params = loading.load_params(model, dtype=given.dtype)
    if given.commands is not None:
        _score(given, model, tokens, params, prompt)
    else:
        _generate(given, model, tokens, params, prompt)


def _prompt(tokens: Any, text: str, in_chat: bool) -> np.ndarray:
    """Token ids of the prompt, with what the tokenizer puts before a text."""
    if in_chat:
        frame = chat.frame(chat.from_tokenizer(tokens), prefill="", drops="")
        text = frame.before + text + frame.after
        return np.asarray(tokens(text, add_special_tokens=False)["input_ids"], np.int32)
    first = [] if tokens.bos_token_id is None else [tokens.bos_token_id]
    if not text and not first:
        raise ValueError(
            "--prompt is empty, and the tokenizer has no token to begin with"
        )
    (ids,) = tokenizers.encode(tokens, [text])
    starts = tokens("", add_special_tokens=True)["input_ids"][: len(first)]
    return np.asarray([*(first if starts or not text else []), *ids], np.int32)


def _generate(given, model, tokens, params: Params, prompt: np.ndarray) -> None:
    """Prints what follows the prompt."""
    (size,) = batch.bucket_sizes(len(prompt), smallest=_BUCKET)[-1:]
    context = model.config.max_positions
    if context is not None:
        size = min(size, context)
    settings = decode.Settings(
        slots=given.samples, prompts=(max(size, len(prompt)),),
        longest=given.max_tokens, prefill=1, free=1,
    )  # fmt: skip
    stop_ids = model.eos_ids or (tokens.eos_token_id,)
    keep = Truncation(top_k=given.top_k, top_p=given.top_p, min_p=given.min_p)
    found = decode.make(model.config, settings, stop_ids, keep).generate(
        params, [prompt], jax.random.key(given.seed)[None],
        samples=given.samples, limits=[given.max_tokens],
        temperature=given.temperature, stop_strings=given.stop,
        text=lambda ids: tokens.decode(ids, skip_special_tokens=True),
    )  # fmt: skip
    for row in range(given.samples):
        said = found.sampled[row]
        ids = found.ids[row][said]
        if given.scores:
            for token, value in zip(ids, found.log_probs[row][said], strict=True):
                text = tokens.convert_ids_to_tokens(int(token))
                print(f"{value:9.4f}  {int(token):6d}  {text!r}")
        print(tokens.decode(ids, skip_special_tokens=True))


def _score(given, model, tokens, params: Params, prompt: np.ndarray) -> None:
    """Prints the distribution over commands."""
    texts = [text.strip() for text in given.commands.split(",")]
    commands = trie.from_texts(tokens, texts, given.prompt)
    nodes = int(np.sum(np.asarray(commands.length)))
    tries = trie.build(commands, max(1, nodes))
    one = jax.tree.map(lambda x: x[None], tries)
    ids = Tokens(jnp.asarray(prompt)[None], jnp.array([len(prompt)]))
    end = tokens.eos_token_id
    if isinstance(model.config, EncDecConfig):
        policy = networks.make_encdec(model.config, end, (1,))
    else:
        policy = networks.make(model.config, end, (1,))
    hidden = policy.encode(params, ids, one)
    log_pi = np.asarray(policy.log_policy(params, hidden, one))[0]
    for i in np.argsort(-log_pi, kind="stable"):
        if np.isfinite(log_pi[i]):
            print(f"{np.exp(log_pi[i]):8.4f}  {log_pi[i]:9.4f}  {texts[i]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
