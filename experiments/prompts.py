"""How a problem is put to a policy, and how what it says is read."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.border import ConfigError
from rljax.data import episodes
from rljax.envs import latex, verifiers
from rljax.envs.reasoning import countdown, problems
from rljax.envs.reasoning.problems import Problem
from rljax.text import chat
from rljax.text import template as template_lib
from rljax.text.template import Message
from rljax.text.tokenizer import Tokenizer


class Judge(NamedTuple):
    """How answers are read.

    Attributes:
      verify: (true answer, response) -> right.
      said: response -> what it answers, None where it answers nothing.
      same: whether two of these are one answer.
      answered: whether the beginning of a response states an answer already.
    """

    verify: verifiers.Verify
    said: Callable[[str], Any]
    same: Callable[[Any, Any], bool]
    answered: verifiers.Answered


FORM = "form"  # the `task.reading` of answers in the form that is asked for
NUMBER = Judge(
    verifiers.final_number, verifiers.number_of, operator.eq, verifiers.marked
)
BOX = Judge(verifiers.boxed, latex.last_boxed, latex.equal, verifiers.closed_box)
EXPRESSION = Judge(countdown.verify, countdown.given_in, operator.eq, verifiers.marked)
# As DeepSeekMath's evaluation finds answers, in the paper whatever the prompt is (Wang
# et al., 2024, arXiv:2412.16145). Its own prompt asks for a box in all tasks, and so is
# always read thus.
STATED = Judge(
    verifiers.stated, verifiers.stated_in, latex.equal, verifiers.boxed_or_told
)


class Prompt(NamedTuple):
    """A form in which questions are put.

    Attributes:
      write: question -> prompt.
      lead: what an answer begins with, before what it says.
      judge: of answers, where the prompt asks for another form than the task's.
    """

    write: Callable[[str], str]
    lead: str = ""
    judge: Judge | None = None


def put(prompt: Prompt, problem: Problem) -> Problem:
    """A problem whose prompt is its question, in the form that a policy is asked in.

    Raises:
      ConfigError: if it cannot be put so.
    """
    try:
        text = prompt.write(problem.prompt)
    except ValueError as error:
        raise ConfigError(f"config.task.prompt: {problem.task}: {error}") from error
    solution = problem.solution and prompt.lead + problem.solution
    return problem._replace(prompt=text, solution=solution)


def _line(tokens: Tokenizer, system: str) -> Prompt:
    return Prompt(problems.question_line)


def _question(tokens: Tokenizer, system: str) -> Prompt:
    return Prompt(problems.question_only)


def _deepseek_math(tokens: Tokenizer, system: str) -> Prompt:
    return Prompt(problems.deepseek_math, " ", STATED)


def _chat(tokens: Tokenizer, system: str) -> Prompt:
    """The tokenizer's own template: a system message, and the question as the user's.

    Prompts are text wherever they go, so each is checked to have the tokens of the
    template's segments, in which no question can spell a special token.
    """
    if not tokens.chat_template:
        raise ConfigError(
            "config.task.prompt is 'chat': the tokenizer of the model has no chat "
            "template; take line, question or deepseek_math"
        )
    try:
        template = chat.from_tokenizer(tokens)
    except ValueError as error:
        raise ConfigError(f"config.task.prompt is 'chat': {error}") from error

    def write(question: str) -> str:
        said = [Message("system", system), Message("user", question)]
        parts = template_lib.segment(template, (), said)
        text = "".join(part.text for part in parts)
        meant = template_lib.encode(template, parts, "")
        read = episodes.prompt_ids(tokens, text)
        if not np.array_equal(read, meant):
            raise ValueError(
                "the chat template's text has other tokens than its parts: the "
                "question spells a special token, or the tokenizer begins every text "
                f"with one that the template does not write: {text!r}"
            )
        return text

    return Prompt(write, template.lead)


# From the tokenizer and the task's system message.
PROMPTS: dict[str, Callable[[Tokenizer, str], Prompt]] = {
    "line": _line,
    "question": _question,
    "deepseek_math": _deepseek_math,
    "chat": _chat,
}
