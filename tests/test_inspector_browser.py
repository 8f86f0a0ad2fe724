"""The inspector's pages in a real browser, over real runs of the tiny recipes and over made ones."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from desk_world import CHROMIUM, chromium
from handrail.feedback.store import Database, labels, people
from handrail.inspector.server import served
from handrail.inspector.server.rows import name_of
from handrail.recipes import dpo, ppo
from handrail.track.lock import process_start
from inspector_world import add_step, made_run, numbers
from recipe_runs import make_world, metrics
from store_world import STORE, runs_with_labels
from test_inspector_loss import follow

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

AXE = Path(__file__).parent / "assets" / "axe.min.js"
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202eevil\u200b [a](javascript:alert(1))'
SIZES = {1440: 900, 390: 844}
EVERYTHING = {"entropy_coef": 0.01, "value_coef": 0.5, "value_clip": 0.05, "rescale_rewards": True, "gamma": 0.99}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two real runs that differ in their seed, one that is hostile and has findings, and a longer one."""
    world = make_world(tmp_path_factory.mktemp("world"))
    runs = tmp_path_factory.mktemp("looked") / "runs"
    for seed in (0, 1):
        short = {"seed": seed, "steps": 3, "batch_size": 4, "sampling": {"max_new_tokens": 6}, "run": {"trace_rows": 8}}
        ppo.run(world.ppo(runs / f"pair/ppo-{seed}", short | EVERYTHING))
    dpo.run(world.dpo(runs / "dpo", {"epochs": 1, "run": {"trace_rows": 64}}))
    shutil.copytree(world.folder / "reward", runs / "reward")
    hostile = made_run(runs / "hostile", steps=2)
    add_step(hostile, 2, 2, text=HOSTILE.replace("{", ""), prompt=[HOSTILE] * 2)
    found = {
        "name": "reward hacking",
        "severity": "warning",
        "step": 1,
        "evidence": HOSTILE,
        "cause": "A pattern.",
        "remedy": "kl.beta=0.2",
    }
    worse = found | {"severity": "sick", "step": 2, "first": 1}
    (hostile / "findings.jsonl").write_text(json.dumps(found) + "\n" + json.dumps(worse) + "\n")
    made_run(runs / "long", steps=60, rows=50)
    return runs


@pytest.fixture(scope="module")
def told(root) -> dict[str, str]:
    """Runs with the labels that they learnt from; ids of items."""
    return runs_with_labels(root)


@pytest.fixture(scope="module")
def where(root, told) -> Iterator[str]:
    with served(root) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=CHROMIUM)
        yield launched
        launched.close()


class Seat:
    """Somebody at a screen: a page, and what went wrong on it."""

    def __init__(self, browser: Any, where: str, width: int = 1440, scheme: str = "light"):
        self.where, self.wrong = where, list[str]()
        self.context = browser.new_context(viewport={"width": width, "height": SIZES[width]}, color_scheme=scheme)
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.context.on("request", lambda asked: None if asked.url.startswith((where, "data:")) else self.wrong.append(asked.url))

    def look(self, path: str, ready: str) -> Any:
        """Open a page and wait until what it is for is there."""
        self.page.goto(self.where + path)
        self.page.wait_for_selector(ready)
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


@pytest.fixture
def seat(browser, where) -> Iterator[Seat]:
    made = Seat(browser, where)
    yield made
    made.close()


SUPPORT = urlencode({"store": STORE, "project": "support"})
PAGES = {
    "/": "#runs tbody tr",
    "/run/pair/ppo-0": "#curves .curve",
    "/run/hostile": "#findings li",
    "/compare?run=pair%2Fppo-0&run=pair%2Fppo-1&run=long": "#curves .curve",
    "/responses/pair/ppo-0": ".line .response:not(:empty)",
    f"/prompt/pair/ppo-0?row={name_of(2, 1)}": "#pair .answer",
    f"/microscope/pair/ppo-0?row={name_of(2, 1)}&pass=1": "#arithmetic .line",
    "/microscope/hostile": "#arithmetic .line",
    f"/microscope/dpo?row={name_of(1, 1)}": "#beside .card",
    "/microscope/reward?row=1": "#beside .card",
    "/frontier/long": ".frontier svg",
    "/reward/reward": ".mistake",
    "/labels/demo/round-1/ppo": ".card .button",
    f"/labels?{SUPPORT}": "#parts .figure",
    f"/items?{SUPPORT}": ".line .prompt:not(:empty)",
    "/run/nowhere": "h1",
}


def item(id: str) -> str:
    """The address of an item."""
    return f"/item?{urlencode({'store': STORE, 'id': id})}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_every_page_is_whole_accessible_and_asks_nobody_else(browser, where, told, width, scheme, tmp_path):
    seat = Seat(browser, where, width, scheme)
    axe = AXE.read_text(encoding="utf-8")
    shots = Path(os.environ.get("HANDRAIL_SCREENSHOTS", tmp_path))
    of_items = {item(told[name]): "#learnt[aria-busy=false]" for name in ("odd", "film")}
    for number, (path, ready) in enumerate((of_items | PAGES).items()):
        page = seat.look(path, ready)
        page.wait_for_timeout(300)
        page.screenshot(path=shots / f"{number}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        bad = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], path
    seat.wrong = [text for text in seat.wrong if "404" not in text]  # of the page that is not there
    seat.close()


def lines(page: Any) -> dict[str, tuple[list[float], float]]:
    """The numbers on the screen: of each result those that it is made of, and itself."""
    script = (
        "[...document.querySelectorAll('#arithmetic .line')]"
        ".map((line) => [line.dataset.name, line.querySelector('.numbers').textContent, line.querySelector('output').textContent])"
    )
    return {name: (numbers(made_of), numbers(value)[0]) for name, made_of, value in page.evaluate(script)}


def test_a_token_is_followed_by_hand_from_what_is_on_the_screen_to_the_loss_that_was_logged(seat, root):
    page = seat.look(f"/microscope/pair/ppo-0?row={name_of(1, 0)}", "#arithmetic .line")
    tokens = page.locator(".tok").count()
    page.click(f"#token-{tokens - 1}")  # the last, which has the score
    page.wait_for_selector('#arithmetic .line[data-name="part"]')
    settled(page, tokens)
    follow(lines(page), True, {"low": 0.8, "high": 1.2})
    assert "✓" in page.inner_text("#check")

    whole: dict[str, dict[int, float]] = {"policy": {}, "value": {}}
    for row in range(name_of(1, 0), name_of(1, 4)):  # the step's responses, every token of every pass
        page.goto(f"{seat.where}/microscope/pair/ppo-0?row={row}")
        page.wait_for_selector("#arithmetic .line")
        for number in range(2):
            for token in range(page.locator(".tok").count()):
                page.click(f"#token-{token}")
                settled(page, token + 1)
                shown = lines(page)
                update, count = int(re.findall(r"of update (\d+)", page.inner_text("#arithmetic"))[0]), shown["part"][0][1]
                for name, sums in whole.items():
                    sums[update] = sums.get(update, 0.0) + shown[name][1] / count
            if number == 0:
                page.keyboard.press("]")
                settled(page, page.locator(".tok").count())
    logged = metrics(root / "pair/ppo-0")[1]
    for name, sums in whole.items():
        assert len(sums) == logged["updates"] == 4
        assert sum(sums.values()) / 4 == pytest.approx(logged[f"{name}_loss"], rel=1e-3, abs=1e-5)


def settled(page: Any, token: int) -> None:
    """The arithmetic on the screen is that of this token."""
    for _ in range(200):
        now = page.evaluate("[document.querySelector('#token').textContent, document.querySelector('#arithmetic').dataset.of]")
        if now[0].startswith(f"Token {token} ") and now[1] == page.evaluate("location.search"):
            return
        page.wait_for_timeout(15)
    raise AssertionError(f"the arithmetic of token {token} never came")


def test_the_microscope_is_walked_by_keys(seat):
    page = seat.look(f"/microscope/pair/ppo-0?row={name_of(1, 0)}", "#arithmetic .line")
    page.focus("#tokens")
    for key, expected in (("ArrowRight", "token=1"), ("End", "token=5"), ("ArrowLeft", "token=4"), ("]", "pass=1"), ("[", "pass=0")):
        page.keyboard.press(key)
        until(page, f"location.search.includes('{expected}')")
    page.keyboard.press(".")
    until(page, f"location.search.includes('row={name_of(1, 1)}')")
    page.keyboard.press(",")
    until(page, f"location.search.includes('row={name_of(1, 0)}')")
    page.check("input[value=entropy]", force=True)
    assert "undecided" in page.inner_text("#scale") and page.locator(".tok.flat").count() > 0


@pytest.mark.parametrize("run", ["dpo", "reward"])
def test_responses_that_are_compared_stand_side_by_side_and_lead_to_each_other(seat, root, run):
    page = seat.look(f"/microscope/{run}?row=0", "#beside .card")
    until(page, "!document.querySelector('#check').hidden")
    assert "✓" in page.inner_text("#check")
    mine, told = page.inner_text("#beside .mine .text"), page.inner_text("#beside .mine dl")
    assert page.locator("#quantities").is_visible() == (run == "dpo"), "a score is of the whole response: there is nothing to colour by"
    page.click("#beside .card:not(.mine) button")
    until(page, "!location.search.includes('row=0&')")
    page.wait_for_selector("#beside .card")
    until(page, f"document.querySelector('#beside .mine .text').textContent !== {json.dumps(mine)}")
    assert [told] == [one for one in page.locator("#beside .card:not(.mine) dl").all_inner_texts() if one == told]


def until(page: Any, expression: str) -> None:
    """Wait for it; the pages' policy forbids the browser to poll with text that it makes into code."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def test_what_a_token_adds_to_a_score_is_told_under_the_pointer_and_by_keys(seat):
    page = seat.look("/reward/reward", "#attributed [role=listbox]")
    cells, said = page.locator("#attributed .tokens").first, page.locator("#attributed .added").first
    first, second = (cells.locator(".tok").nth(i) for i in (0, 1))
    second.hover()
    assert second.get_attribute("title") in said.inner_text()
    cells.focus()
    for key, cell in (("ArrowRight", first), ("ArrowRight", second), ("Home", first), ("End", cells.locator(".tok").last)):
        page.keyboard.press(key)
        assert cell.get_attribute("aria-selected") == "true" and cell.get_attribute("title") in said.inner_text()
        assert cells.get_attribute("aria-activedescendant") == cell.get_attribute("id")
    assert "frames the response" in said.inner_text(), "the end token stays as it is"
    until(page, "document.querySelector('#said').textContent.includes('frames the response')")


def test_the_table_scrolls_sorts_filters_and_leads_to_the_microscope(seat):
    page = seat.look("/responses/long", ".line .response:not(:empty)")
    assert page.locator(".line").count() < 60 and "3 000 responses" in page.inner_text("#count")
    page.focus("#table")
    page.keyboard.press("End")
    page.wait_for_selector("#row-2999 .response:not(:empty)")
    assert page.inner_text("#row-2999 .step") == "0"
    page.click("text=Reward")
    page.wait_for_selector("#row-0 .response:not(:empty)")
    until(page, "document.querySelector('#row-0 .score')?.textContent === '59.00'")
    page.fill("#words", '"step 7," "number 4."')
    until(page, "document.querySelector('#count').textContent.startsWith('1 response found')")
    page.focus("#table")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#detail .text")
    assert "step 7, response 5 of 50" in page.inner_text("#detail")
    page.wait_for_selector("#detail .near li")
    page.keyboard.press("Enter")
    page.wait_for_selector("#arithmetic .line")
    assert f"row={name_of(7, 4)}" in page.url


def test_a_curve_tells_its_values_is_smoothed_and_looked_at_closer(seat):
    page = seat.look("/run/long", "#curves .curve")
    chart = page.locator("#curves svg").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 11, box["y"] + 60)
    assert "step 59" in page.inner_text("#curves .readout >> nth=0") and "5.9" in page.inner_text("#curves .readout >> nth=0")
    assert page.locator("#curves .readout:visible").count() > 1  # the others say theirs of the same step
    page.fill("#smooth", "0.9")
    assert page.locator("#curves .curve.faint").count() > 0
    page.mouse.move(box["x"] + 100, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.up()
    labels = page.locator("#curves svg").nth(1).locator("text").all_text_contents()
    assert "59" not in labels and "0" not in labels[-3:]
    chart = page.locator("#curves svg").first
    chart.focus()
    page.keyboard.press("Escape")
    assert page.locator("#curves svg").first.locator("text").all_text_contents()[-1] in ("50", "40")


def test_a_number_that_is_logged_now_and_then_has_a_line_and_one_that_is_no_number_a_gap(seat, root):
    run = made_run(root / "tested", steps=0)
    lines = [{"step": step, "reward": float("nan") if step == 5 else 0.1 * step} for step in range(10)]
    with (run / "metrics.jsonl").open("w") as stream:
        for line in lines:
            line |= {"eval_loss": 2.0 - 0.1 * line["step"]} if line["step"] % 3 == 0 else {}
            stream.write(json.dumps(line).replace("NaN", '"NaN"') + "\n")
    page = seat.look("/run/tested", "#curves .curve")
    now_and_then, rewards = (
        page.locator(f"{part} figure", has_text=name).locator(".curve").first.get_attribute("d")
        for part, name in (("#further", "eval_loss"), ("#curves", "Reward"))
    )
    assert (now_and_then.count("M"), now_and_then.count("L")) == (1, 3)
    assert (rewards.count("M"), rewards.count("L")) == (2, 7)


def test_a_run_that_goes_on_is_followed(seat, root):
    run = made_run(root / "live", steps=2, finished=False)
    holder = {"pid": os.getpid(), "started": process_start(os.getpid()), "host": socket.gethostname()}
    (run / "lock").write_text(json.dumps(holder))
    page = seat.look("/run/live", "#curves .curve")
    assert "running" in page.inner_text("#state")
    add_step(run, 2, 3)
    add_step(run, 3, 3)
    until(page, "document.querySelector('#curves svg').getAttribute('aria-label').endsWith('0.3')")
    (run / "lock").write_text("")
    (run / "summary.json").write_text("{}")
    until(page, "document.querySelector('#state').textContent === 'finished'")


def test_what_a_model_wrote_is_text_and_what_is_hidden_in_it_is_marked(seat):
    for path, ready in (
        ("/run/hostile", "#findings li"),
        ("/responses/hostile", ".line .response:not(:empty)"),
        (f"/prompt/hostile?row={name_of(2, 0)}", "#pair .answer"),
        (f"/microscope/hostile?row={name_of(2, 0)}", "#arithmetic .line"),
    ):
        page = seat.look(path, ready)
        page.wait_for_timeout(200)
        assert page.locator("main img, main script, main a[href^=javascript]").count() == 0
        assert page.title() not in ("1", "2")
        assert "U+202E" in page.inner_text("main"), path


def test_a_finding_that_became_worse_stands_once_in_the_list_and_twice_on_the_curve(seat):
    page = seat.look("/run/hostile", "#findings li")
    assert page.locator("#findings li").count() == 1
    assert page.locator("#findings li .badge").inner_text() == "sick"
    assert page.locator("#findings li .chip").all_inner_texts() == ["warning from step 1", "sick at step 2"]
    marks = page.locator("#curves figure").first.locator(".finding")
    assert marks.evaluate_all("all => all.map((one) => one.getAttribute('class'))") == ["finding warn", "finding bad"]


def test_items_are_found_by_filters_and_keys_and_lead_to_runs_and_back(seat, told):
    page = seat.look(f"/items?{SUPPORT}", ".line .prompt:not(:empty)")
    page.fill("#words", '"a film 0"')
    until(page, "document.querySelector('#count').textContent.startsWith('1 item of ')")
    page.focus("#table")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#detail .text")
    assert "Name a film 0" in page.inner_text("#detail")
    page.keyboard.press("Enter")
    page.wait_for_selector("#learnt a")
    assert told["film"] in page.url and "orders 2 of the 3 pairs" in page.inner_text("main")
    page.click("#learnt a >> nth=0")
    page.click("text=The items behind them")
    page.wait_for_selector(".line .prompt:not(:empty)")
    assert page.inner_text("#count").startswith("12 items of")
    page.click("#only button")
    until(page, "document.querySelector('#count').textContent.startsWith('42 items')")
    page.select_option("#person", "labeller-3")
    page.check("#skipped", force=True)
    until(page, "document.querySelector('#count').textContent.startsWith('1 item of')")
    assert page.inner_text("#row-0 .mark >> nth=0") == "flagged"


def test_labels_that_come_are_followed(seat, root, told):
    page = seat.look(f"/labels?{SUPPORT}", "#people tbody tr")
    count = "[...document.querySelectorAll('#people tbody tr')].map((row) => Number(row.children[1].textContent)).reduce((a, b) => a + b)"
    before = page.evaluate(count)
    other = seat.context.new_page()
    other.goto(seat.where + item(told["odd"]))
    other.wait_for_selector("#learnt[aria-busy=false]")
    with closing(Database.open(root / STORE)) as db:
        labels.submit(db, people.named(db, "labeller-1"), told["label"], labels.Submission(key="a-new-key", act="undo"))
    until(page, f"{count} === {before - 1}")
    until(other, "!document.querySelector('#newer').hidden")
    other.click("#newer a")
    other.wait_for_selector("text=has it now")
