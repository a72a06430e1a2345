"""Continues a prompt with a model, or says what it makes of some commands.

    python -m experiments.generate --model=PATH --prompt="Once upon a time" \
        --temperature=0 --max_tokens=120

PATH is a Hugging Face folder, a GGUF or llama2.c file, or `smollm2`. `--scores` adds
each token's log-probability, `--commands=a,b,c` prints the distribution over these
continuations in place of one, `--chat` puts the prompt into the tokenizer's chat
template, whose special tokens it cannot say. An encoder-decoder reads the prompt, and
its end token after it, and decodes a text of its own.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import border
from experiments.border import AT_LEAST_ONE, SEED, Limit
from rljax.models import loading
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import decode, networks
from rljax.policy.truncate import Truncation
from rljax.text import chat, trie
from rljax.text import template as template_lib
from rljax.text import tokenizer as tokenizers
from rljax.types import Commands, Params, Tokens

_LIMITS = {
    "samples": AT_LEAST_ONE,
    "max_tokens": AT_LEAST_ONE,
    "temperature": Limit(0),
    "seed": SEED,
}


class Prompt(NamedTuple):
    """What the model reads, and what may follow it."""

    ids: np.ndarray  # int32 [P]
    after: str  # text that a command follows, the prompt's end at least
    lead: str  # what stands between the two
    end_id: int  # token that ends a command
    stop_ids: tuple[int, ...]  # tokens that end a text


def main(words: Sequence[str]) -> int:
    """Prints; 2 where something can be mended, told in words."""
    given = _parser().parse_args(words)
    try:
        _run(given)
    except (ArithmeticError, ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
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
    """Whatever can be refused is so before the weights are read."""
    keep = _check_flags(given)
    model = loading.open_model(given.model)
    if given.dtype is not None:
        kinds = {"dtype": given.dtype, "param_dtype": given.dtype}
        model = model._replace(config=dataclasses.replace(model.config, **kinds))
    tokens = model.tokenizer()
    prompt = _prompt(model, tokens, given.prompt, given.chat)
    if given.commands is not None:
        texts = [text.strip() for text in given.commands.split(",")]
        commands = trie.from_texts(
            tokens, texts, given.prompt, prompt.after, prompt.lead
        )
        longest = int(np.max(np.asarray(commands.length)))
        _check_context(model, prompt, longest, "the longest of --commands has")
        params = loading.load_params(model)
        _score(model, params, prompt, texts, commands)
    else:
        _check_context(model, prompt, given.max_tokens, "--max_tokens is")
        _generate(given, model, tokens, loading.load_params(model), prompt, keep)


def _check_flags(given: argparse.Namespace) -> Truncation:
    """What no model can do."""
    for flag, limit in _LIMITS.items():
        value = getattr(given, flag)
        if not limit.holds(value):
            raise ValueError(f"--{flag} is {value}; it must be {limit}")
    if given.temperature == float("inf"):
        raise ValueError("--temperature is inf; it must be finite")
    for text in given.stop:
        if not text or "\ufffd" in text:
            raise ValueError(f"--stop is {text!r}; it must be some text")
    return Truncation(top_k=given.top_k, top_p=given.top_p, min_p=given.min_p)


def _check_context(model: Any, prompt: Prompt, more: int, what: str) -> None:
    """Whether prompt and continuation fit; an encoder-decoder has no limit."""
    context = getattr(model.config, "max_positions", None)
    if context is not None and len(prompt.ids) + more > context:
        raise ValueError(
            f"--prompt has {len(prompt.ids)} tokens and {what} {more}: together "
            f"{len(prompt.ids) + more}, but the model's context is {context}"
        )


def _prompt(model: Any, tokens: Any, text: str, in_chat: bool) -> Prompt:
    """The prompt as token ids, with what the tokenizer or template puts around it."""
    end_id = tokens.eos_token_id
    stop_ids = model.eos_ids or (end_id,)
    if in_chat:
        template = chat.from_tokenizer(tokens)
        said = [template_lib.Message("user", text)]
        parts = template_lib.segment(template, (), said)
        ids = template_lib.encode(template, parts, "")
        stop_ids = tuple(dict.fromkeys((*stop_ids, template.end_id)))
        # The template's own end, since a prompt may spell special tokens.
        return Prompt(ids, parts[-1].text, template.lead, template.end_id, stop_ids)
    first = [] if tokens.bos_token_id is None else [tokens.bos_token_id]
    if not text and not first:
        raise ValueError(
            "--prompt is empty, and the tokenizer has no token to begin with"
        )
    (found,) = tokenizers.encode(tokens, [text])
    starts = tokens("", add_special_tokens=True)["input_ids"][: len(first)]
    ids = np.asarray([*(first if starts or not text else []), *found], np.int32)
    # At the beginning of a text there is no space to say.
    return Prompt(ids, text, " " if text else "", end_id, stop_ids)


def _generate(
    given, model, tokens, params: Params, prompt: Prompt, keep: Truncation
) -> None:
    """Prints what follows the prompt, or what is decoded from it."""
    ids = prompt.ids.tolist()
    if isinstance(model.config, EncDecConfig):
        ids.append(prompt.end_id)  # which T5 was trained to read there
    settings = decode.Settings(
        slots=given.samples, prompts=(len(ids),),
        longest=given.max_tokens, prefill=1, free=1,
    )  # fmt: skip
    # Stop strings are looked for with special tokens in the text, to find those too.
    found = decode.make(model.config, settings, prompt.stop_ids, keep).generate(
        params, [ids], jax.random.key(given.seed)[None],
        samples=given.samples, limits=[given.max_tokens],
        temperature=given.temperature, stop_strings=given.stop, text=tokens.decode,
    )  # fmt: skip
    for row in range(given.samples):
        said = found.sampled[row]
        ids = found.ids[row][said]
        if given.scores:
            for token, value in zip(ids, found.log_probs[row][said], strict=True):
                text = tokens.convert_ids_to_tokens(int(token))
                print(f"{value:9.4f}  {int(token):6d}  {text!r}")
        print(tokens.decode(ids, skip_special_tokens=True))


def _score(
    model, params: Params, prompt: Prompt, texts: Sequence[str], commands: Commands
) -> None:
    """Prints the distribution over commands."""
    nodes = int(np.sum(np.asarray(commands.length)))
    tries = trie.build(commands, max(1, nodes))
    one = jax.tree.map(lambda x: x[None], tries)
    ids = Tokens(jnp.asarray(prompt.ids)[None], jnp.array([len(prompt.ids)]))
    if isinstance(model.config, EncDecConfig):
        policy = networks.make_encdec(model.config, prompt.end_id, (1,))
    else:
        policy = networks.make(model.config, prompt.end_id, (1,))
    hidden = policy.encode(params, ids, one)
    log_pi = np.asarray(policy.log_policy(params, hidden, one))[0]
    slots = np.flatnonzero(np.asarray(commands.mask))
    if np.isnan(log_pi[slots]).any():
        raise FloatingPointError(
            "the log-probabilities of commands are NaN; the model's weights or "
            "activations are not finite"
        )
    for i in slots[np.argsort(-log_pi[slots], kind="stable")]:
        print(f"{np.exp(log_pi[i]):8.4f}  {log_pi[i]:9.4f}  {texts[i]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
