"""Chat templates: that of a tokenizer, and plain ones for models that know no chat.

`dialogue` puts conversations together with them, and `frame` sets a prompt of the
GLAM kind in one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rljax.text import template as template_lib
from rljax.text.rendering import Frame
from rljax.text.template import POLICY, Message, Template
from rljax.text.tokenizer import Tokenizer


def from_tokenizer(
    tokenizer: Tokenizer,
    *,
    chat_template: str | None = None,
    variables: Mapping[str, Any] | None = None,
    said: str = "yes",
) -> Template:
    """The chat template that a tokenizer comes with.

    Args:
      tokenizer: a Hugging Face tokenizer.
      chat_template: Jinja text to use in place of the tokenizer's own.
      variables: what else the template reads, such as `enable_thinking`.
      said: an answer of the form that the policy's will have. A template that
        completes answers without thinking by an empty one needs
        "<think>\\nso\\n</think>\\n\\nyes" here where the policy thinks.

    Returns:
      The template. `dialogue.check_template` says whether it holds for several
      turns.

    Raises:
      ValueError: if there is no template, it cannot be rendered, it writes an answer
        in another way than its own opening of the policy's turn begins, or it does
        not close a turn with a special token.
    """
    source = chat_template or tokenizer.chat_template
    if not isinstance(source, str):
        raise ValueError(
            f"the tokenizer has {_kind(source)} as chat template, expected Jinja text: "
            "give chat_template, or use chat.plain"
        )

    def render(messages: Sequence[Message], opened: bool) -> str:
        dicts = [{"role": role, "content": text} for role, text in messages]
        try:
            return tokenizer.apply_chat_template(
                dicts,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=opened,
                **(variables or {}),
            )
        except Exception as error:  # whatever the template raises by itself
            roles = ", ".join(message.role for message in messages)
            raise ValueError(
                f"the chat template cannot render the roles [{roles}]: {error}"
            ) from error

    return template_lib.make(tokenizer, render, said, source)


def plain(
    tokenizer: Tokenizer,
    formats: Mapping[str, str] | None = None,
    *,
    policy: str = "Answer:",
    opening: str = "",
    end: str | None = None,
    after: str = "\n",
    said: str = " yes",
) -> Template:
    """A template of plain text, for models that know no chat.

        Question: 1 + 1?
        Answer: 2<eos>
        Question: ...

    Args:
      tokenizer: a Hugging Face tokenizer.
      formats: for each role its text, with one "{}" where the message goes;
        `{"user": "Question: {}\\n"}` unless given.
      policy: what opens the policy's turn. The space after it is the policy's.
      opening: what a conversation begins with, `tokenizer.bos_token` for one.
      end: text of the token that ends the policy's turn; `eos_token` unless given.
      after: what follows it.
      said: an answer of the form that the policy's will have.

    Raises:
      ValueError: if a format has no "{}", or `end` is not one special token.
    """
    formats = {"user": "Question: {}\n"} if formats is None else dict(formats)
    end = tokenizer.eos_token if end is None else end
    if not end:
        raise ValueError("the tokenizer has no eos_token: give `end`")
    for role, text in formats.items():
        if text.count("{}") != 1:
            raise ValueError(
                f"the format of {role!r} is {text!r}; it must hold one '{{}}'"
            )
    formats.setdefault(POLICY, f"{policy}{{}}{end}{after}")

    def render(messages: Sequence[Message], opened: bool) -> str:
        for message in messages:
            if message.role not in formats:
                known = ", ".join(formats)
                raise ValueError(f"no format for role {message.role!r}, only {known}")
        texts = [formats[role].replace("{}", text) for role, text in messages]
        return opening + "".join(texts) + (policy if opened else "")

    return template_lib.make(tokenizer, render, said, opening + policy + end)


def frame(
    template: Template,
    *,
    role: str = "user",
    earlier: Sequence[Message] = (),
    prefill: str = "Action:",
    drops: str = "\nAction:",
) -> Frame:
    """The template around a prompt of the GLAM kind, which ends with "Action:".

    The prompt without that line is the message, and the policy's turn begins with
    it: "...<|im_start|>assistant\\nAction:", whence the command " Grasp" follows with
    its space, as it does without a template.

    Args:
      template: what to put around.
      role: who says the prompt.
      earlier: what is said before it, such as a system prompt.
      prefill: what the policy's turn begins with; "" for nothing.
      drops: the end of a prompt that is left out of the message.

    Returns:
      The frame, for `rendering.framed`.

    Raises:
      ValueError: if the template changes the message or leaves it out.
    """
    said = [*earlier, Message(role, "Goal: Grow red beet")]
    *parts, after = template_lib.segment(template, (), said)
    before = "".join(part.text for part in parts[:-1])
    return Frame(before, after.text + prefill, drops)


def _kind(source: Any) -> str:
    return "nothing" if source is None else f"a {type(source).__name__}"
