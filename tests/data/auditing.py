"""A log without fault, for faults to be planted in."""

import copy
import functools
import json

from tokenizers import normalizers

from rljax.data import audit, audit_leaks, episodes
from rljax.data.audit_lengths import Room
from rljax.text import chat
from tests.text import speaking

TASKS, ATTEMPTS = 10, 4


def clean():
    """Lines as objects: every task half right, and nothing goes with success."""
    return [
        {
            "prompt": f"question {'abcdefghij'[task]}?",
            "response": f" answer {'abcd'[attempt]}",
            "reward": (task + attempt) % 2,
            "source": f"s{attempt // 2}",
        }
        for task in range(TASKS)
        for attempt in range(ATTEMPTS)
    ]


def save(path, rows):
    """Writes lines, given as objects or as text."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(text + "\n" for text in texts))
    return path


@functools.cache
def tokenizer():
    """Its end token is "<eos>", and "<|im_end|>" that of its template."""
    return speaking.byte_level(as_gpt2=True)


@functools.cache
def folding():
    """The same, but for it every quotation mark is a straight one."""
    tokens = copy.deepcopy(tokenizer())
    tokens.backend_tokenizer.normalizer = normalizers.Replace("\u201c", '"')
    return tokens


def look(path, test=None, room=None, jinja=None, tokens=None):
    """The audit of a log with tokens."""
    tokens = tokens or tokenizer()
    template = chat.from_tokenizer(tokens, chat_template=jinja)
    make = functools.partial(episodes.tokenise, tokenizer=tokens, template=template)
    held = None if test is None else audit_leaks.held_out(test, tokens)
    ends = [tokens.eos_token_id]
    return audit.audit(
        path,
        make,
        tokens,
        template,
        end_ids=ends,
        held=held,
        room=room or Room(),
    )
