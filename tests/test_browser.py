"""The pages in a real browser, from disk and without a network: what a reader sees, clicks, types and takes away."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import browser
from tests.make_run import make_run, save_run, with_evidence
from tests.test_report_page import HOSTILE, hostile_run
from uniformer_bench import ArchSpec
from uniformer_bench.report.answer import answer
from uniformer_bench.report.comparison import compare_runs
from uniformer_bench.report.info import Axes, front_of, read_trials
from uniformer_bench.report.page import render, write_comparison, write_report
from uniformer_bench.runs import table, write_csv
from uniformer_bench.yaml_text import parse_yaml

AXES = Axes("accuracy", "latency")
RUN, OTHER = with_evidence(make_run(60)), make_run(40, seed=5)
TRIALS = read_trials(RUN.trials)
SERIOUS = ("serious", "critical")


class Pages(NamedTuple):
    one: Path
    two: Path


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [save_run(RUN, folder / "alpha"), save_run(OTHER, folder / "beta")]
    return Pages(write_report(runs[0], folder), write_comparison(runs, folder))


@pytest.fixture(scope="module")
def first_tab(chromium, pages):
    with browser.tab(chromium, pages.one) as tab:
        yield tab


@pytest.fixture(scope="module")
def second_tab(chromium, pages):
    with browser.tab(chromium, pages.two) as tab:
        yield tab


@pytest.fixture
def page(first_tab):
    yield fresh(first_tab.page)
    assert first_tab.said == []


@pytest.fixture
def two(second_tab):
    yield fresh(second_tab.page)
    assert second_tab.said == []


def fresh(page):
    """The page as it was when it opened: opening it anew for every test would take minutes."""
    page.evaluate(
        "byId('viewer').close(); all('form').forEach(form => form.reset()); sorting.key = 'number'; "
        "sorting.down = false; all('details').forEach(d => { d.open = false; }); clearSelections(); drawFront()"
    )
    page.evaluate("new Promise(done => setTimeout(done, 250))")  # the plots follow when the hand rests
    return page


def until(page, truth):
    """Waits for an expression; playwright's own way would need the eval that the page forbids."""
    for _ in range(100):
        if page.evaluate(truth):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"waited in vain for {truth}")


def listed(page):
    """Labels of the trials in the table, in its order."""
    return page.locator("#trial-table tbody tr td:first-child").all_inner_texts()


def column(page, key):
    """The table's cells under a heading."""
    keys = page.locator("#trial-table thead button").evaluate_all("all => all.map(b => b.dataset.key)")
    return page.locator(f"#trial-table tbody td:nth-child({keys.index(key) + 1})").all_inner_texts()


def traces(page, name="plot-front"):
    """What plotly has drawn, by role."""
    found = page.evaluate(
        f"byId('{name}').data.map(t => ({{meta: t.meta, mode: t.mode, x: t.x, y: t.y, numbers: t.customdata, "
        "chosen: t.selectedpoints, group: t.legendgroup}))"
    )
    return {trace["meta"]: trace for trace in found}


# it opens


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1600, "light")])
def test_a_page_opens_without_a_word_or_a_load_and_fits(chromium, pages, which, width, scheme):
    path = getattr(pages, which)
    with browser.tab(chromium, path, width=width, scheme=scheme) as (page, said, asked):
        assert said == []
        assert asked == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        plots = page.locator(".plot").all()
        assert len(plots) >= 3
        assert all(plot.locator(".main-svg").count() for plot in plots)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        ink = page.locator("#plot-front .xtick text").first.evaluate("e => getComputedStyle(e).fill")
        assert ink == page.evaluate("getComputedStyle(document.body).color")


def test_the_network_is_refused_by_the_page_itself(first_tab):
    page = first_tab.page
    refused = page.evaluate(
        "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        "fetch('https://example.org/').catch(() => 0); setTimeout(() => done('nothing was refused'), 2000); })"
    )
    assert refused == "connect-src"
    page.evaluate("const s = document.createElement('script'); s.textContent = 'hacked = 1'; document.body.append(s)")
    assert page.evaluate("typeof hacked") == "undefined"
    assert len(first_tab.said) >= 2, "the browser did not say that it refused"
    first_tab.said.clear()


def test_an_empty_page_opens_and_a_page_reads_without_scripts(chromium, pages, tmp_path):
    with browser.tab(chromium, write_report(save_run(make_run(0), tmp_path / "empty"), tmp_path)) as (page, said, _):
        assert said == []
        assert "Nothing to choose from yet" in page.locator("#answer").inner_text()
    with browser.tab(chromium, pages.one, java_script_enabled=False) as (page, _, _):
        assert "need JavaScript" in page.locator("noscript").inner_text()
        assert "faster than" in page.locator("#lede").inner_text() or "in latency" in page.locator("#lede").inner_text()


def test_hostile_names_stay_text(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(render(hostile_run()), encoding="utf-8")
    with browser.tab(chromium, path) as (page, said, asked):
        page.fill("#trial-search", "script")
        page.locator("#trial-table button.link").first.click()
        assert HOSTILE in page.locator("#viewer").inner_text()
        page.keyboard.press("Escape")
        page.hover("#plot-front .points path >> nth=0", force=True)
        assert page.locator("img").count() == 0
        assert said == []
        assert len(asked) == 1


# the answer


def test_a_budget_changes_the_pick(page):
    steps = answer(TRIALS, AXES).ladders["latency"]
    assert len({step.choice.pick for step in steps}) > 2
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        page.fill("#budget-limit", str(step.limit))
        assert page.locator(".card.pick").get_attribute("data-trial") == str(step.choice.pick)
        assert (
            page.locator("#lede [data-slot=name]").inner_text().endswith(f"{step.choice.pick}")
            or TRIALS[step.choice.pick].baseline
        )
    page.fill("#budget-limit", "0.001")
    assert "nothing fits" in page.locator("#budget-says").inner_text()
    assert page.locator(".card.pick").is_hidden()
    page.click("#budget [type=reset]")
    until(page, "byId('budget-says').textContent === ''")
    assert page.locator(".card.pick").get_attribute("data-trial") == str(answer(TRIALS, AXES).choice.pick)


def test_the_slider_and_the_metric_change_the_pick_by_keyboard(page):
    page.focus("#budget-range")
    page.keyboard.press("Home")
    typed = float(page.input_value("#budget-limit"))
    within = [step for step in answer(TRIALS, AXES).ladders["latency"] if step.limit <= typed]
    assert page.locator(".card.pick").get_attribute("data-trial") == str(within[-1].choice.pick)
    page.select_option("#budget-metric", "memory")
    page.fill("#budget-limit", "4")
    within = [step for step in answer(TRIALS, AXES).ladders["memory"] if step.limit <= 4e6]
    assert page.locator(".card.pick").get_attribute("data-trial") == str(within[-1].choice.pick)


# the front


def test_another_axis_redraws_the_front(page):
    page.select_option("#front-x", "params")
    page.check("#front-x-log")
    until(page, "byId('plot-front')._fullLayout.xaxis.type === 'log'")
    assert page.locator("#plot-front .xtitle").text_content() == "parameters (M)"
    drawn = traces(page)
    dominated = [TRIALS[n].values["params"] / 1e6 for n in drawn["dominated"]["numbers"]]
    assert drawn["dominated"]["x"] == pytest.approx(dominated)
    line = front_of(TRIALS, Axes("accuracy", "params"))
    assert drawn["line"]["x"] == pytest.approx([t.values["params"] / 1e6 for t in line])
    assert drawn["line"]["y"] == pytest.approx([t.values["accuracy"] * 100 for t in line])


def test_a_point_opens_its_architecture_and_escape_closes_it(page):
    page.locator("#plot-front").scroll_into_view_if_needed()
    place = page.evaluate(
        "(() => { const p = byId('plot-front'), t = p.data.findIndex(t => t.meta === 'baseline'), l = p._fullLayout, "
        "b = p.querySelector('.nsewdrag').getBoundingClientRect(); "
        "return [b.left + l.xaxis.d2p(p.data[t].x[0]), b.top + l.yaxis.d2p(p.data[t].y[0])] })()"
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(place[0], place[1])
    page.wait_for_selector("#plot-front .hoverlayer text")
    assert "paper pattern" in page.locator("#plot-front .hoverlayer").text_content()
    page.mouse.click(place[0], place[1])
    assert page.locator("#viewer-title").inner_text().startswith("paper pattern (trial 0)")
    assert page.locator("#viewer svg.drawing").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()


def test_what_is_selected_in_the_plot_is_what_the_table_lists(page):
    page.locator("#plot-front").scroll_into_view_if_needed()
    box = page.locator("#plot-front .nsewdrag").first.bounding_box()
    left, top, right, bottom = box["x"] + 5, box["y"] + 5, box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(right, bottom, steps=5)
    page.mouse.up()
    page.wait_for_selector("#trial-clear:not([hidden])")
    x, y = page.evaluate(
        f"(l => [[5, {right - box['x']}].map(l.xaxis.p2d), [{bottom - box['y']}, 5].map(l.yaxis.p2d)])"
        "(byId('plot-front')._fullLayout)"
    )
    inside = [t for t in TRIALS if t.has(*AXES) and x[0] < t.values["latency"] < x[1]
              and y[0] < 100 * t.values["accuracy"] < y[1]]  # fmt: skip
    assert 3 < len(inside) < 50
    assert listed(page) == [str(t.number) for t in inside]
    complete = sum(t.state == "complete" for t in inside)
    until(page, f"byId('parallel-count').textContent.startsWith('{complete} of ')")
    page.click("#trial-clear")
    assert len(listed(page)) == 60


# what matters


def test_parallel_coordinates_filter_the_table_and_the_front(page):
    limit = sorted(t.values["latency"] for t in TRIALS if t.has("latency"))[20]
    page.get_by_label("latency (ms) at most").fill(str(limit))
    within = [t for t in TRIALS if t.has("latency") and t.values["latency"] <= limit]
    assert listed(page) == [str(t.number) for t in within]
    until(page, "byId('plot-front').data.find(t => t.meta === 'dominated').selectedpoints")
    dominated = traces(page)["dominated"]
    chosen = {dominated["numbers"][i] for i in dominated["chosen"]}
    assert chosen == {t.number for t in within} & set(dominated["numbers"])
    page.get_by_label("stage4.mixer").select_option("global")
    both = [t for t in within if t.params["stage4.mixer"] == "global"]
    assert 0 < len(both) < len(within)
    assert listed(page) == [str(t.number) for t in both]
    page.click("#trial-clear")
    assert page.get_by_label("latency (ms) at most").input_value() == ""
    assert len(listed(page)) == 60


def test_dragging_along_an_axis_sets_its_fields(page):
    canvas = page.locator("#plot-parallel")
    canvas.scroll_into_view_if_needed()
    box, axes = canvas.bounding_box(), page.evaluate("DATA.parallel.length")
    x = box["x"] + 0.5 * box["width"] / axes
    page.mouse.move(x, box["y"] + 16)
    page.mouse.down()
    page.mouse.move(x, box["y"] + 16 + (300 - 32) / 2)
    page.mouse.up()
    low, high = (float(page.get_by_label(f"accuracy (%) at {end}").input_value()) for end in ("least", "most"))
    known = [100 * t.values["accuracy"] for t in TRIALS if t.state == "complete"]
    assert high == pytest.approx(max(known), rel=1e-3)
    assert low == pytest.approx((min(known) + max(known)) / 2, rel=0.01)
    assert len(listed(page)) == sum(low <= 100 * t.values.get("accuracy", 0) <= high for t in TRIALS)
    page.mouse.click(x, box["y"] + 100)
    assert len(listed(page)) == 60


def test_a_cell_of_the_heat_map_leaves_its_pattern(page):
    page.locator("#plot-pattern-accuracy").scroll_into_view_if_needed()
    place = page.evaluate(
        "(() => { const p = byId('plot-pattern-accuracy'), l = p._fullLayout, h = p.data[0], "
        "b = p.querySelector('.nsewdrag').getBoundingClientRect(), y = h.z.findIndex(r => r.some(v => v !== null)), "
        "x = h.z[y].findIndex(v => v !== null); "
        "return [b.left + l.xaxis.d2p(h.x[x]), b.top + l.yaxis.d2p(h.y[y]), h.y[y] + h.x[x]] })()"
    )
    page.mouse.move(place[0] - 4, place[1])
    page.mouse.move(place[0], place[1])
    page.wait_for_selector("#plot-pattern-accuracy .hoverlayer text")
    page.mouse.click(place[0], place[1])
    assert page.input_value("#trial-search") == place[2]
    assert listed(page) == [str(t.number) for t in TRIALS if t.pattern == place[2]]


# the table


def numbers(cells):
    return [None if cell == "–" else float(cell.replace(",", "")) for cell in cells]


def test_sorting_is_numeric_with_what_is_missing_last_and_says_so(page):
    for turn, down in (("ascending", False), ("descending", True)):
        page.click("#trial-table [data-key=accuracy]")
        got = numbers(column(page, "accuracy"))
        known = [value for value in got if value is not None]
        assert 0 < len(known) < len(got)
        assert known == sorted(known, reverse=down)
        assert got[len(known) :] == [None] * (len(got) - len(known))
        sorts = page.locator("#trial-table th").evaluate_all("all => all.map(t => t.getAttribute('aria-sort'))")
        assert sorts.count(turn) == 1
        assert sorts.count("none") == len(sorts) - 1
    page.click("#trial-table [data-key=number]")
    assert listed(page) == [str(n) for n in range(60)]


def test_filters_narrow_the_table(page):
    page.fill("#trial-search", "LLGG pruned")
    assert listed(page) == [str(t.number) for t in TRIALS if t.pattern == "LLGG" and t.state == "pruned"]
    page.fill("#trial-search", "")
    page.select_option("#trial-state", "front")
    assert listed(page) == [str(t.number) for t in TRIALS if t.front]
    assert page.locator("#trial-table tr.front").count() == len(listed(page))
    page.select_option("#trial-state", "oom")
    assert listed(page) == [str(t.number) for t in TRIALS if t.state == "oom"]
    page.check("#trial-params")
    assert page.locator("#trial-table [data-key='param_stage1.mixer']").is_visible()


def test_csv_and_json_are_those_of_the_run(page):
    with page.expect_download() as got:
        page.click("#save-csv")
    assert Path(got.value.path()).read_text(encoding="utf-8") == write_csv(RUN.trials)
    assert got.value.suggested_filename == f"{RUN.info['name']}-trials.csv"
    with page.expect_download() as got:
        page.click("#save-json")
    assert json.loads(Path(got.value.path()).read_text(encoding="utf-8")) == table(RUN.trials)


# architectures


def test_a_spec_is_copied_as_it_stands(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pane = page.locator("#pane-a")
    pane.get_by_text("YAML", exact=True).click()
    pane.locator("[data-copy] >> nth=0").click()
    until(page, "document.querySelector('#pane-a [data-copy]').textContent === 'Copied'")
    text = page.evaluate("navigator.clipboard.readText()")
    number = int(pane.locator("select").input_value())
    assert ArchSpec.from_dict(parse_yaml(text, "page")).to_dict() == RUN.trials[number]["spec"]


def test_two_architectures_side_by_side_mark_what_differs(page):
    left, right = RUN.trials[0], RUN.trials[1]  # the paper's pattern and all local
    for side, record in (("a", left), ("b", right)):
        page.locator(f"#pane-{side} select").select_option(str(record["number"]))
    marked = page.locator("#pane-a .differs").evaluate_all("all => all.map(e => e.dataset.k)")
    stages = list(zip(left["spec"]["stages"], right["spec"]["stages"], strict=True))
    kinds = [i for i, (a, b) in enumerate(stages) if (a["mixer"], a.get("kernel")) != (b["mixer"], b.get("kernel"))]
    depths = [i for i, (a, b) in enumerate(stages) if a["depth"] != b["depth"]]
    widths = [i for i, (a, b) in enumerate(stages) if a["width"] != b["width"]]
    wanted = [f"{i}m" for i in kinds] + [f"{i}d" for i in depths] + [f"{i}width" for i in widths]
    assert sorted(marked) == sorted(wanted)
    assert {"2m", "3m"} <= set(marked)
    page.locator("#pane-b select").select_option("0")
    assert page.locator(".pane .differs").count() == 0
    assert page.locator("#pane-a .drawing").text_content().count("latency ") == 4  # recorded, a share a stage


def test_the_gallery_fills_the_left_pane(page):
    small = page.locator(".gallery [data-pane]").first
    small.focus()
    page.keyboard.press("Enter")
    assert page.locator("#pane-a select").input_value() == small.get_attribute("data-pane")
    assert small.get_attribute("aria-pressed") == "true"


# how it went


def test_what_a_fuller_search_records_is_shown(page):
    went = page.locator("#went").inner_text()
    assert "What each rung stopped" in went
    assert "How far the short run can be trusted" in went
    assert "holds 0" in went
    assert "Finalists" in page.locator("#front").inner_text()
    assert set(traces(page, "plot-rungs")) == {"pruned", "front"}
    assert len(traces(page, "plot-fidelity")["front"]["x"]) == 12
    assert page.locator("#plot-history .main-svg").count()
    assert page.locator("#plot-history-trials .main-svg").count()


# for everyone


def test_everything_is_reached_by_keyboard_and_shows_its_focus(page):
    page.select_option("#trial-state", "oom")  # few rows to walk through
    wanted = page.evaluate(
        "all('a[href], button, select, input, summary, [tabindex=\"0\"]').filter(e => e.checkVisibility() && "
        "!e.closest('.modebar')).map((e, i) => { e.dataset.walk = i; return i; })"
    )
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen, hidden = set(), []
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        at, outlined = page.evaluate(
            "[document.activeElement.dataset.walk, getComputedStyle(document.activeElement).outlineStyle]"
        )
        seen.add(at)
        hidden += [at] if at is not None and outlined == "none" else []
    assert seen >= {str(i) for i in wanted}
    assert hidden == []


def test_the_table_is_sorted_and_a_trial_opened_by_keyboard(page):
    page.focus("#trial-table [data-key=latency]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.key") == "latency", "sorting lost the focus"
    got = [value for value in numbers(column(page, "latency")) if value is not None]
    assert got == sorted(got)
    page.focus("#trial-table tbody tr:first-child button")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()


def test_every_plot_has_a_text_alternative(page):
    for plot in page.locator(".plot, canvas").all():
        assert plot.get_attribute("role") in ("img", "group")
        assert plot.get_attribute("aria-label")
    figures = page.locator("figure:has(.plot)").all()
    alone = [f.locator(".plot").get_attribute("id") for f in figures if not f.locator(".as-table").count()]
    # these two share a table or have one above them
    assert alone == ["plot-history-trials", "plot-history", "plot-rungs"]
    table = page.locator("#went .as-table").first
    table.locator("summary").click()
    assert table.locator("tbody tr").count() > 2


@pytest.mark.parametrize(
    ("which", "width", "scheme"), [("one", 1280, "light"), ("one", 360, "dark"), ("two", 1280, "light")]
)
def test_an_automatic_checker_finds_nothing_serious(chromium, pages, which, width, scheme):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        browser.missing("axe")
    with browser.tab(chromium, getattr(pages, which), width=width, scheme=scheme) as (page, _, _):
        page.fill("#trial-search", "oom")
        found = Axe().run(page).response
    assert len(found["passes"]) > 15, "the checker looked at nothing"
    assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found["violations"] if v["impact"] in SERIOUS] == []


def test_a_page_prints_light_and_whole(chromium, pages):
    with browser.tab(chromium, pages.one, width=794, scheme="dark") as (page, said, _):
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("nav").is_hidden()
        assert page.locator("#budget").is_hidden()
        assert page.locator(".tall").evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert page.evaluate("document.documentElement.scrollWidth") <= 794
        assert page.pdf().startswith(b"%PDF")
        assert said == []


# several runs


def test_several_runs_answer_to_one_budget(two):
    budgets = compare_runs([RUN, OTHER]).budgets["latency"]
    for step in (budgets[0], budgets[-1]):
        two.fill("#budget-limit", str(step.limit))
        shown = [two.locator(f".card[data-role={letter}]").get_attribute("data-trial") for letter in "AB"]
        assert shown == ["" if n is None else str(n) for n in step.picks]
    assert None in budgets[0].picks, "no run was without an answer"


def test_several_runs_share_the_plots_and_the_table(two):
    drawn = two.evaluate("byId('plot-front').data.map(t => [t.legendgroup, t.mode, t.x])")
    assert {group for group, _, _ in drawn} == {"A", "B"}
    two.select_option("#front-x", "params")
    until(two, "byId('plot-front')._fullLayout.xaxis.title.text === 'parameters (M)'")
    lines = two.evaluate("byId('plot-front').data.filter(t => t.mode === 'lines').map(t => t.x)")
    for line, run in zip(lines, (RUN, OTHER), strict=True):
        front = front_of(read_trials(run.trials), Axes("accuracy", "params"))
        assert line == pytest.approx([t.values["params"] / 1e6 for t in front])
    two.select_option("#trial-state", "oom")
    wanted = [
        f"{letter}{r['number']}"
        for letter, run in (("A", RUN), ("B", OTHER))
        for r in run.trials
        if r["state"] == "oom"
    ]
    assert listed(two) == wanted
    with two.expect_download() as got:
        two.click("#save-json")
    rows = json.loads(Path(got.value.path()).read_text(encoding="utf-8"))
    assert [(row["run"], row["number"]) for row in rows[58:62]] == [("A", 58), ("A", 59), ("B", 0), ("B", 1)]


def test_names_of_baselines_do_not_cover_each_other(two):
    """Two marks in one place go by names in other places; one at the right end has its name on the left."""
    named = {"mode": "markers+text", "text": ["one name", "another"], "x": [1, 1], "y": [50, 50]}
    other = {"mode": "markers+text", "text": ["at the end"], "x": [100], "y": [99]}
    plain = {"mode": "markers", "x": [0, 100], "y": [0, 100]}
    layout = {"height": 520, "xaxis": {"type": "linear"}, "yaxis": {"type": "linear"}}
    found = two.evaluate("([d, l]) => placeNames('plot-front', d, l)", [[named, other, plain], layout])
    first, second = found[0]["textposition"]
    assert first == "bottom right"
    assert second == "top right"
    assert found[1]["textposition"][0] == "bottom left"
    assert found[2] == plain
