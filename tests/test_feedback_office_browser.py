"""The pages of those who run the projects, in a real browser: the whole path, how it looks, and whether everybody can use it.

Pictures go to the folder that HANDRAIL_PICTURES names, if it names one.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from desk_world import CHROMIUM, World, chromium, compare_items, serving
from handrail.feedback.kinds import Compared
from handrail.feedback.store import assignment, people, projects, review, snapshots
from handrail.feedback.store.labels import Submission, submit
from office_world import key, prefers, work, worked_in, write_lines

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

AXE = Path(__file__).parent / "assets" / "axe.min.js"
PICTURES = os.environ.get("HANDRAIL_PICTURES", "")
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as served:
        yield served


def signed_in(browser: Any, world: World, **options: Any) -> Any:
    """A page of the admin's; what goes wrong in it is kept in `page.problems`."""
    context = browser.new_context(**({"viewport": SIZES["wide"]} | options))
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda said: page.problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(world.link(world.admin))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{world.address}/admin")
    return page


def serious(page: Any) -> list[str]:
    """What axe finds that keeps somebody from using the page."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def too_wide(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_from_an_empty_app_to_an_export(browser: Any, world: World, tmp_path: Path) -> None:
    page = signed_in(browser, world)
    page.get_by_label("Name", exact=True).fill("support")
    page.get_by_label("Title").fill("Support answers")
    page.get_by_role("button", name="Make the project").click()
    page.get_by_role("link", name="New task").click()
    page.get_by_role("link", name="Compare two").click()

    page.get_by_label("Name", exact=True).fill("round-1")
    page.get_by_label("Title").fill("Which answer helps more?")
    page.get_by_label("What labellers are told").fill("# Be fair\n\n**Short** is not better.")
    page.get_by_role("button", name="Add an example").click()
    page.get_by_label("Example 1").fill("*For example* this.")
    page.get_by_role("button", name="Show as labellers see it").click()
    shown = page.get_by_label("Preview of the instructions")
    assert shown.locator("strong").inner_text() == "Short" and shown.locator("em").inner_text() == "For example"
    page.get_by_label("Labellers an item").fill("0")
    page.get_by_label("Labellers an item").evaluate("field => field.removeAttribute('min')")
    page.get_by_role("button", name="Make the task").click()
    assert "Labellers an item" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Title").input_value() == "Which answer helps more?", "what was typed stays"
    page.get_by_label("Labellers an item").fill("2")
    page.get_by_role("button", name="Make the task").click()
    page.get_by_role("heading", name="Which answer helps more?").wait_for()
    task = projects.find_task(world.db, "support", "round-1")
    assert task.settings.overlap == 2 and task.settings.examples == ("*For example* this.",)

    rows: list[dict] = [{"prompt": f"Question {i}", "text": f"answer {j}", "model": f"m{j}"} for i in range(6) for j in range(2)]
    rows = [{**row, "prompt": {"messages": [{"role": "user", "content": row["prompt"]}]}} for row in rows]
    file = write_lines(tmp_path / "responses.jsonl", [*rows, {"prompt": "alone", "text": "one answer"}, {"what": "is this"}])
    page.get_by_label("A file of JSON lines").set_input_files(file)
    page.get_by_role("button", name="Look at the file").click()
    told = page.locator("main").inner_text()
    assert "a prompt with one response" in told and "line 14" in told and "found what" in told
    assert not review.item_states(world.db, task), "nothing is taken in by looking"
    page.get_by_role("button", name="Take 6 items in").click()
    assert "6 items came in" in page.get_by_role("status").inner_text()
    assert len(review.item_states(world.db, task)) == 6

    secrets = []
    for number in (1, 2):
        page.goto(f"{world.address}/admin/people")
        page.get_by_label("Name", exact=True).fill(f"Person {number}")
        page.get_by_label("Pseudonym", exact=True).fill(f"labeller-{number}")
        page.get_by_label("support", exact=True).check()
        page.get_by_role("button", name="Invite").click()
        secrets.append(page.get_by_label("link", exact=True).input_value())
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == secrets[1]
    page.reload()
    assert page.get_by_label("link", exact=True).count() == 0, "a secret is told once"
    assert people.peek(world.db, secrets[0].rsplit("/", 1)[1]) is not None

    for number, name in enumerate(("labeller-1", "labeller-2")):
        work(world.db, task, people.named(world.db, name), prefers(number == 0), 4)
    answer_flag(world, task)
    page.goto(f"{world.address}/admin/p/support/disagreements")
    assert page.locator("main").inner_text().count("A is better") >= 1
    assert "the prompt names a person" in page.locator("main").inner_text()
    page.get_by_role("heading", name="Disagreements").locator("..").get_by_role("link").first.click()
    assert page.locator("main").inner_text().count("m0") == 0, "an adjudicator does not learn who wrote what"
    page.get_by_label("A", exact=True).check()
    page.get_by_label("Why").fill("it answers")
    page.get_by_role("button", name="Settle it").click()
    page.wait_for_url("**/disagreements")
    assert "1 item is settled" in page.locator("main").inner_text()
    page.goto(f"{world.address}/admin/p/support/exports")
    page.get_by_role("button", name="Take a snapshot").click()
    taken = snapshots.all_snapshots(world.db, "support")[0]
    assert taken.sha256 in page.locator("main").inner_text()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    names = zipfile.ZipFile(waiting.value.path()).namelist()
    assert {"rankings.jsonl", "rankings.jsonl.snapshot.json", "SHA256SUMS"} <= set(names)

    page.goto(f"{world.address}/admin/people")
    page.get_by_role("link", name="Delete Person 1").click()
    assert "labels, under the pseudonym" in page.locator("main").inner_text()
    page.get_by_role("button", name="Delete the person").click()
    assert "deleted" in page.locator("main").inner_text()
    assert people.peek(world.db, secrets[0].rsplit("/", 1)[1]) is None
    page.goto(f"{world.address}/admin/audit")
    told = page.locator("main").inner_text()
    assert all(done in told for done in ("delete person", "export", "adjudicate", "import", "invite", "make task", "make project"))
    assert [one for one in page.problems if "422" not in one] == [], "but for the form that was refused"
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{world.address}/admin")
    assert "You are not signed in" in page.locator("main").inner_text()


def answer_flag(world: World, task: projects.Task) -> None:
    """The second labeller flags an item."""
    person = people.named(world.db, "labeller-2")
    given = assignment.give_out(world.db, task, person, 1)
    submit(world.db, person, given[0].id, Submission(key=key(), act="flag", reason="the prompt names a person"))


def test_flags_skips_and_a_project_made_by_mistake_are_put_right(browser: Any, world: World) -> None:
    task = world.task("compare", compare_items(2), overlap=1)
    person = world.labeller()
    first, second = assignment.give_out(world.db, task, person, 2)
    submit(world.db, person, first.id, Submission(key=key(), act="skip", reason="too hard"))
    submit(world.db, person, second.id, Submission(key=key(), answer=Compared(better=0)))
    submit(world.db, person, second.id, Submission(key=key(), act="flag", reason="A is rude"))
    page = signed_in(browser, world, viewport={"width": 360, "height": 740})
    page.goto(f"{world.address}/admin/p/garden")
    assert "1 flag stands. 1 item was skipped, and nobody is left to answer." in page.locator("main").inner_text()
    page.get_by_role("link", name="Look at them").click()
    assert ("their A is B here" in page.locator("main").inner_text()) == (second.order == (1, 0))
    assert "too hard" in page.locator("main").inner_text() and too_wide(page) == 0
    page.get_by_role("button", name="Dismiss").click()
    page.wait_for_selector("text=No flag stands open")
    page.get_by_role("button", name="Offer it again").click()
    page.wait_for_selector("text=Offer it again", state="detached")
    assert [one.item for one in snapshots.labels(world.db, "garden")] == [second.item]
    assert [one.id for one in assignment.give_out(world.db, task, person, 5)] == [first.id]

    projects.make_project(world.db, "gardn")
    page.goto(f"{world.address}/admin/p/gardn")
    page.get_by_role("link", name="Delete the project").click()
    page.get_by_role("button", name="Delete the project").click()
    page.wait_for_url(f"{world.address}/admin")
    assert page.get_by_role("link", name="gardn", exact=True).count() == 0
    page.goto(f"{world.address}/admin/p/garden/delete")
    assert "people have answered" in page.locator("main").inner_text() and page.get_by_role("button", name="Delete").count() == 0
    assert page.problems == []


def test_a_scale_is_added_and_removed_without_javascript(browser: Any, world: World) -> None:
    page = signed_in(browser, world)
    plain = browser.new_context(java_script_enabled=False, storage_state=page.context.storage_state())
    plain.set_default_timeout(15_000)
    page = plain.new_page()
    page.goto(f"{world.address}/admin/p/garden/new?kind=rate")
    page.get_by_label("Name", exact=True).first.fill("scales")
    page.get_by_role("button", name="One more scale").click()
    second = page.get_by_role("group", name="Scale 2")
    second.get_by_label("Name").fill("truth")
    second.get_by_label("to", exact=True).fill("7")
    first = page.get_by_role("group", name="Scale 1")
    first.get_by_label("Name").fill("")
    page.get_by_role("button", name="Make the task").click()
    settings = projects.find_task(world.db, "garden", "scales").settings
    assert [(scale.name, scale.low, scale.high) for scale in settings.criteria] == [("truth", 1, 7)]
    page.get_by_role("link", name="Settings and instructions").click()
    page.get_by_label("What labellers are told").fill("New words.")
    page.get_by_role("button", name="Save").last.click()
    found = projects.find_task(world.db, "garden", "scales")
    assert found.revision == 2 and found.settings.instructions == "New words." and found.settings.criteria == settings.criteria


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_used_by_everybody(browser: Any, tmp_path: Path, size: str, scheme: str) -> None:
    with serving(tmp_path) as world:
        db, tasks = world.db, worked_in(world.db)
        snapshots.take(db, "support")
        item = review.item_states(db, tasks["pairs"], 1)[0].id
        rated = review.item_states(db, tasks["scales"], 1)[0].id
        page = signed_in(browser, world, viewport=SIZES[size], color_scheme=scheme)
        names = [
            *("", "/p/support", "/p/support/new", "/p/support/new?kind=rate", "/p/support/new?kind=chat", f"/tasks/{tasks['pairs'].id}"),
            *(
                f"/tasks/{tasks['ranking'].id}/edit",
                "/people",
                "/people/labeller-1/delete",
                "/p/support/quality",
                "/p/support/disagreements",
                "/p/support/delete",
                "/p/garden/delete",
            ),
            *(f"/tasks/{tasks['pairs'].id}/items/{item}", f"/tasks/{tasks['scales'].id}/items/{rated}", "/p/support/exports", "/audit"),
        ]
        wrong = []
        for number, name in enumerate(names):
            page.goto(f"{world.address}/admin{name}")
            wrong += [f"{name}: {one}" for one in serious(page)]
            if (over := too_wide(page)) > 0:
                wrong.append(f"{name}: {over} px too wide")
            if PICTURES:
                page.screenshot(path=f"{PICTURES}/{number:02d}-{size}-{scheme}.png", full_page=True)
        assert wrong == [] and page.problems == []
