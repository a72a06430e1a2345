"""What a run thinks of lines whose errors are known, at the command line."""

import json

import numpy as np
import pytest

from experiments import credit, oreo, ranking, sft
from experiments.configs import oreo as oreo_config
from experiments.configs import sft as sft_config
from rljax.agents.offline import Reading
from rljax.data import episodes, logs
from rljax.data.record import Record
from rljax.envs.reasoning import arithmetic
from rljax.text import tokenizer as tokenizers
from rljax.training import credit as credit_lib
from rljax.training.ranking import FIRST_WRONG, LATER, RIGHT

TOKENS = tokenizers.character_level(arithmetic.alphabet())
END = TOKENS.eos_token_id
ROWS = [  # expression, response, reward, cut short, first wrong line (None: left out)
    ("1+2*3", "2*3=6\n1+6=7\n#### 7", 1, False, -1),
    ("1+2*3", "2*3=5\n1+5=6\n#### 6", 0, False, 0),
    ("1+2*3", "2*3=6\n1+6=8\n#### 8", 0, False, 1),
    ("9+4-3", "4-3=1\n9+1=10\n#### 10", 1, False, -1),  # another way
    ("9+4-3", "9+4=12\n12-3=9\n#### 10", 1, False, None),  # right in spite of it
    ("9+4-3", "9+4=13\n13-3", 0, True, None),  # no wrong line is whole
    ("9+4-3", "9+4=12\n12-3=", 0, True, 0),
    ("9+4-3", "", 0, False, None),
    ("9+4-3", "9+4=13\n13-3=10\n#### 11", 0, False, 2),
]


def written(path):
    """The log of these answers."""
    logs.write(
        path,
        [
            Record(
                line=n, prompt=f"{e}=?\n", response=said, reward=float(reward),
                task=f"arithmetic/{e}", truncated=cut,
            )
            for n, (e, said, reward, cut, _) in enumerate(ROWS, 1)
        ],
    )  # fmt: skip
    return episodes.load(path, TOKENS).episodes


def test_first_wrong_lines_of_a_log(tmp_path):
    marked, left = ranking.mark(written(tmp_path / "log.jsonl"), TOKENS, (END,))
    expected = {n: row[4] for n, row in enumerate(ROWS, 1) if row[4] is not None}
    assert {one.episode.line: one.error for one in marked} == expected
    assert list(left.values()) == [1, 2]
    assert marked[0].lines == ["2*3=6", "1+6=7", "#### 7"]
    (cut,) = [one for one in marked if one.episode.line == 7]
    assert cut.lines == ["9+4=12"]


def told_by(values, ratios):
    """A reading with these numbers before each action."""
    zero = np.zeros_like(values)
    return Reading(ratios, zero, zero, zero, values)


def test_numbers_of_lines_by_characters(tmp_path):
    """V counts characters, so a line's change is its length, and so on."""
    marked, _ = ranking.mark(written(tmp_path / "log.jsonl"), TOKENS, (END,))
    readings = [
        told_by(np.arange(40.0), np.where(np.arange(40) < 3, 1.0, 0.0)) for _ in marked
    ]
    steps = ranking.steps_of(marked, readings)
    at = 0
    for place, one in enumerate(marked):
        begin = 0
        for i, line in enumerate(one.lines):
            final = line.startswith("####")
            size = len(line) + (not final)  # the line break is the line's
            assert steps.after[at] - steps.before[at] == size, line
            assert steps.before[at] == begin
            assert steps.log_ratio[at] == (3 if not i else 0)
            assert steps.answer[at] == place and steps.final[at] == final
            kind = RIGHT if one.error < 0 or i < one.error else LATER
            assert steps.kind[at] == (FIRST_WRONG if i == one.error else kind)
            at, begin = at + 1, begin + size
    assert at == len(steps.kind)
    same = steps.problem[steps.answer == 0][0]
    assert set(steps.answer[steps.problem == same]) == {0, 1, 2}


def test_the_reward_is_no_part_of_a_line(tmp_path):
    log = written(tmp_path / "log.jsonl")
    marked, _ = ranking.mark(log, TOKENS, (END,))
    readings = [told_by(np.arange(40.0), np.zeros(40)) for _ in marked]
    told = ranking.steps_of(marked, readings)
    turned = [
        one._replace(episode=one.episode._replace(reward=1 - one.episode.reward))
        for one in marked
    ]
    again = ranking.steps_of(turned, readings)
    for mine, other in zip(told, again, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_cannot_be_marked_is_told(tmp_path):
    (one, *_) = written(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="answers 'gsm8k/1'"):
        ranking.mark([one._replace(task="gsm8k/1")], TOKENS, (END,))
    number = np.where(one.action, np.arange(len(one.ids)) // 3, -1)
    short = one._replace(step=number.astype(np.int32))
    with pytest.raises(ValueError, match="or of less: .*data.delimiters"):
        ranking.mark([short], TOKENS, (END,))
    whole = one._replace(step=np.where(one.action, 0, -1).astype(np.int32))
    with pytest.raises(ValueError, match="more than a line"):
        ranking.mark([whole], TOKENS, (END,))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A log, and runs of sft and oreo."""
    place = tmp_path_factory.mktemp("ranking")
    written(place / "log.jsonl")
    for configs, module, name in (
        (sft_config, sft, "sft"),
        (oreo_config, oreo, "oreo"),
    ):
        config = configs.get_config("smoke")
        config.task.update(operations=(1, 2), largest=5, train_size=16, dev_size=2)
        config.task.test_size = 2
        config.data.row_tokens = 64
        config.eval.max_tokens = 8
        if name == "oreo":
            config.model.path = str(place / "sft" / "hf")
            config.data.path = str(place / "log.jsonl")
            config.data.batch_size = 3
            config.data.epochs = 4
        module.main(config, str(place / name))
    return place


def test_a_run_is_ranked(runs, capsys):
    words = [f"--workdir={runs / 'oreo'}", f"--data={runs / 'log.jsonl'}"]
    assert ranking.main([*words, "--resamples=20"]) == 0
    said = capsys.readouterr().out
    assert "2 right and 4 wrong answers to 2 problems" in said
    assert "2 wrong without a wrong line" in said
    found = json.loads((runs / "oreo" / "ranking.json").read_text())
    assert found["beta"] == 0.03 and found["resamples"] == 20
    rows = {row["name"]: row for row in found["separation"]}
    # 3 + 3 of right answers, and 0 + 1 + 0 + 2 before the first wrong line of wrong.
    assert (rows["all lines"]["right"], rows["all lines"]["wrong"]) == (9, 4)
    assert rows["of wrong answers"]["right"] == 3
    assert rows["but final lines"]["wrong"] == 3 and rows["final lines"]["wrong"] == 1
    assert found["location"]["answers"] == 4
    assert found["location"]["chance"] == pytest.approx((1 / 3 * 3 + 1) / 4)

    # The numbers are those that the page of credit shows.
    run = credit.open_run(str(runs / "oreo"))
    log = episodes.load(
        runs / "log.jsonl", run.start.tokenizer, end_id=run.start.eos_ids[0]
    ).episodes
    (reading,) = credit.read(run, log[1:2])
    shown = credit_lib.answer(log[1], reading, run.start.tokenizer, True)
    marked = ranking.Marked(log[1], ["a", "b", "####"], 0)
    one = ranking.steps_of([marked], [reading])
    np.testing.assert_allclose(
        one.after - one.before, [step.change for step in shown.steps], atol=1e-6
    )


def test_what_cannot_be_ranked_is_told(runs, tmp_path, capsys):
    def said(*words):
        assert ranking.main(list(words)) == 2
        return capsys.readouterr().err

    data = f"--data={runs / 'log.jsonl'}"
    oreo_run = f"--workdir={runs / 'oreo'}"
    assert "has no V" in said(f"--workdir={runs / 'sft'}", data)
    assert "not the workdir" in said(f"--workdir={tmp_path}", data)
    assert "--resamples=0" in said(oreo_run, data, "--resamples=0")
    assert "--problems=-1" in said(oreo_run, data, "--problems=-1")
    out = f"--json={tmp_path / 'new' / 'x.json'}"
    assert ranking.main([oreo_run, data, out, "--problems=1", "--resamples=5"]) == 0
    assert json.loads((tmp_path / "new" / "x.json").read_text())["problems"] == 1
    path = tmp_path / "right.jsonl"
    path.write_text((runs / "log.jsonl").read_text().splitlines()[0] + "\n")
    assert "0 first wrong" in said(oreo_run, f"--data={path}")
