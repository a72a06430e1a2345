"""The report: self-contained, and true to the numbers of the run."""

import html.parser
import json
import math
import re

import pytest

from rljax.training import figures, metrics, report
from rljax.training.files import write_json

LOADS = {"src", "href", "srcset", "action", "poster", "data"}


class Reader(html.parser.HTMLParser):
    """Collects tags, texts, charts and whatever would load something."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.charts, self.loads = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [name for name, _ in attrs if name in LOADS]
        self.charts += [json.loads(v or "") for k, v in attrs if k == "data-lines"]
        if tag not in ("meta", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("line", "polyline", "circle"), tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


EPISODE: report.Episode = {
    "goal": "Grow <red> cat",
    "success": True,
    "note": "test goal",
    "steps": [
        {
            "observation": "You see: red cat & water\nYou are on: nothing",
            "reward": 1.0,
            "commands": [
                {"text": f"Go to {i}", "prob": p, "q": q, "chosen": i == 7}
                for i, (p, q) in enumerate(
                    zip(
                        [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.06, 0.04],
                        range(8),
                        strict=True,
                    )
                )
            ],
        }
    ],
}


def make_run(folder, episodes):
    (folder / "eval").mkdir(parents=True)
    (folder / "rollouts").mkdir()
    write_json(
        folder / "config.json",
        {
            "config": {"seed": 1, "agent": {"learning_rate": 0.00025}},
            "versions": {"jax": "0.10.2"},
            "git": None,
            "devices": {"count": 1, "kind": "cpu"},
        },
    )
    scores = {"eval/test_greedy/grasp": 0.125, "eval/test_greedy/grow": 0.0625}
    write_json(folder / "eval" / "random.json", scores)
    write_json(folder / "eval" / "before.json", {"eval/test_greedy/grasp": 0.1875})
    for update, score in ((2, 0.5), (10, 0.875)):  # as names, 10 sorts before 2
        found = {**scores, "eval/test_greedy/grasp": score}
        write_json(
            folder / "eval" / f"{update}.json", {"updates": update, "metrics": found}
        )
    writer = metrics.Writer(folder, None, 640)
    for i in range(11):
        row = {"env_steps": 64.0 * i, "updates": i, "rollout/success": i / 10}
        row["critic/loss"] = math.nan if i == 3 else 2.0**-i
        writer.write(row | ({"eval/test_greedy/grasp": 0.875} if i == 10 else {}))
    writer.close()
    report.write_episodes(folder, episodes)


@pytest.fixture
def built(tmp_path):
    folder = tmp_path / "run"
    make_run(folder, [EPISODE])
    text = report.build(folder).read_text()
    reader = Reader()
    reader.feed(text)
    return text, reader


def test_nothing_is_loaded_from_elsewhere(built):
    text, reader = built
    assert reader.open == []  # every tag is closed
    assert reader.loads == []
    assert not re.search(r"https?:|url\(|@import|import\s|fetch\(|XMLHttp", text)


def test_the_table_holds_the_evaluations(built):
    _, reader = built
    texts = [t.strip() for t in reader.texts]
    at = texts.index("grasp")
    assert texts[at + 1 : at + 4] == ["0.125", "0.188", "0.875"]  # the newest, 10
    at = texts.index("grow")
    assert texts[at + 1 : at + 4] == ["0.062", "-", "0.062"]
    assert "test greedy" in texts


def test_the_charts_hold_the_metrics(built):
    _, reader = built
    lines = {line[0]: line[1:] for chart in reader.charts for line in chart["lines"]}
    steps = [64 * i for i in range(11)]
    assert lines["success"] == [steps, [round(i / 10, 4) for i in range(11)]]
    assert lines["grasp"] == [[640], [0.875]]
    x, y = lines["critic/loss"]  # without the NaN of row 3
    assert x == [s for s in steps if s != 192]
    assert y == [float(f"{2.0**-i:.4g}") for i in range(11) if i != 3]


def test_the_episode_is_told(built):
    text, reader = built
    texts = " ".join(reader.texts)
    assert "Grow <red> cat" in texts and "<red>" not in text  # escaped
    assert "You see: red cat & water\nYou are on: nothing" in texts
    assert "test goal" in texts and "2 more" not in texts and "1 more" in texts
    chosen = re.search(r'<tr class="chosen"><td>(.*?)</td>.*?width:(.*?)%', text)
    assert chosen is not None and chosen.groups() == ("Go to 7", "4.0")
    # Q runs from 0 to 7 in the episode: the bar of Q = 7 is full.
    assert '<span class="bar q"><i style="width:100.0%">' in text


def test_settings_are_shown(built):
    texts = [t.strip() for t in built[1].texts]
    assert texts[texts.index("agent.learning_rate") + 1] == "0.00025"


def test_an_agent_without_q_and_a_run_without_anything(tmp_path):
    step = EPISODE["steps"][0]
    commands: list[report.Command] = [
        {"text": c["text"], "prob": c["prob"], "q": None, "chosen": c["chosen"]}
        for c in step["commands"]
    ]
    make_run(tmp_path / "a", [{**EPISODE, "steps": [{**step, "commands": commands}]}])
    assert "bar q" not in report.build(tmp_path / "a").read_text()
    make_run(tmp_path / "b", [])
    for path in [
        *(tmp_path / "b" / "eval").iterdir(),
        tmp_path / "b" / "metrics.jsonl",
    ]:
        path.unlink()
    text = report.build(tmp_path / "b").read_text()
    assert "<figure>" not in text and "Evaluation" not in text


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]),
        (0.0, 200_000, [0, 50_000, 100_000, 150_000, 200_000]),
        (-0.3, 0.5, [-0.2, 0.0, 0.2, 0.4]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks(low, high, expected):
    assert figures.ticks(low, high) == expected


@pytest.mark.parametrize(
    "value, shown",
    [(0, "0"), (0.125, "0.125"), (12_500, "12.5k"), (2e6, "2M"), (1.2e-5, "1.2e-05")],
)
def test_short(value, shown):
    assert figures.short(value) == shown


def test_points_lie_where_they_should():
    line = figures.Series("a", [0, 10], [0.0, 1.0])
    chart = figures.line_chart("t", [line], "x", (0.0, 1.0))
    # 330 x 190 with margins 42, 10, 12, 34: from the lower left to the upper right.
    assert 'points="42.0,156.0 320.0,12.0"' in chart


def test_long_series_are_thinned_to_means():
    line = figures.Series("a", range(600), [float(i) for i in range(600)])
    chart = figures.line_chart("t", [line], "x")
    reader = Reader()
    reader.feed(chart)
    _, x, y = reader.charts[0]["lines"][0]
    assert len(x) == 300 and x[0] == 1 and y[0] == 0.5  # mean of points 0 and 1


def test_more_lines_than_colours_are_told_apart():
    lines = [figures.Series(str(i), [0, 1], [i, i]) for i in range(9)]
    assert '"line c0 dashed"' in figures.line_chart("t", lines, "x")


def test_nothing_to_draw():
    assert figures.line_chart("t", [figures.Series("a", [1], [None])], "x") == ""
