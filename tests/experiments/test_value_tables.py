"""Means over seeds of searches and rankings, by hand."""

import json

import pytest

from experiments import value_tables


def written(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def searched(greedy, beam, **config):
    """What a search leaves; the second of two ways is not in all of them."""
    methods = {
        "greedy": {"accuracy": greedy, "generated": 20.0, "flops": 1e6},
        "beam 3": {"accuracy": beam, "generated": 200.0 + 100 * beam, "flops": 5e8},
    }
    return {"config": {"beams": [3], **config}, "methods": methods}


def ranked(explicit, **more):
    def area(value):
        return {"value": value, "low": 0.0, "high": 1.0}

    group = {"name": "all lines", "right": 1200, "wrong": 34, "value": area(0.9)}
    group |= {"explicit": area(explicit), "implicit": area(0.5)}
    none = {"name": "final lines", "right": 5, "wrong": 0}
    none |= dict.fromkeys(("value", "explicit", "implicit", "difference"))
    group["difference"] = area(explicit - 0.5)
    return {"data": "log", "problems": 7, "separation": [group, none], **more}


def told(monkeypatch, capsys, *files):
    monkeypatch.setattr("sys.argv", ["value_tables", *files])
    code = value_tables.main()
    return code, capsys.readouterr()


def test_a_search_is_compared_with_greedy_seed_by_seed(tmp_path, monkeypatch, capsys):
    runs = [(0.5, 0.6), (0.6, 0.6), (0.7, 0.6)]
    files = [
        written(tmp_path, f"{n}.json", searched(*run)) for n, run in enumerate(runs)
    ]
    odd = searched(0.6, 0.6)
    (tmp_path / "config.json").write_text(json.dumps({"config": odd.pop("config")}))
    odd["methods"]["beam 9"] = {"accuracy": 1.0, "generated": 1.0, "flops": 1.0}
    code, said = told(monkeypatch, capsys, written(tmp_path, "odd.json", odd), *files)
    assert code == 0
    _, _, greedy, beam = said.out.splitlines()  # and no beam of 9
    # Four seeds: 0.6, s = 0.1 sqrt(2 / 3), and 3.182 s / 2 on either side.
    assert greedy == "| greedy | 0.600 [0.470, 0.730] |  | 20 | 1 |"
    expected = "| beam 3 | 0.600 [0.600, 0.600] | +0.000 [-0.130, 0.130] | 260 | 500 |"
    assert beam == expected


def test_areas_are_means_over_runs(tmp_path, monkeypatch, capsys):
    files = [
        written(tmp_path, f"{n}.json", ranked(x)) for n, x in enumerate((0.6, 0.8))
    ]
    code, said = told(monkeypatch, capsys, *files)
    assert code == 0
    _, _, row = said.out.splitlines()  # final lines have no area
    # Two seeds: 0.7, s = 0.1 sqrt(2), and 12.706 s / sqrt(2) on either side.
    assert row == (
        "| all lines | 1,200, 34 | 0.900 [0.900, 0.900] | 0.700 [-0.571, 1.971] | "
        "0.500 [0.500, 0.500] | +0.200 [-1.071, 1.471] |"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (searched(0.5, 0.6), searched(0.5, 0.6, reading="one_early"), "reading"),
        (ranked(0.5), ranked(0.5, data="another"), "data: another, log"),
        (ranked(0.5), searched(0.5, 0.6), "some files are of searches"),
        (ranked(0.5), {"accuracy": 1.0}, "second.json is of no search"),
    ],
)
def test_what_makes_no_table_ends_with_2(
    first, second, message, tmp_path, monkeypatch, capsys
):
    files = [written(tmp_path, "first.json", first)]
    files.append(written(tmp_path, "second.json", second))
    code, said = told(monkeypatch, capsys, *files)
    assert code == 2 and message in said.err and not said.out
