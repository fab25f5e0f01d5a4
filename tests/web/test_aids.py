"""The page for those who see it not or have no mouse: groups with names, arrow keys, one status line that stays."""

import pytest
from playwright.sync_api import expect

from tests.web.browser import ask, choose, open_tab, press_until_focused, status, unfold
from tests.web.model_stub import ADAPTER, BASE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TABS = ("Compare", "Blind test", "Train", "Library")
FIELDS = "fieldset, textarea, input:not([type=file])"
WORDS = "list => list.map(e => e.ariaLabel || [...(e.labels || [])].map(l => l.innerText).join(' ').trim())"


def move(page, key, target):
    """Press an arrow key, which must take focus and choice to a radio."""
    page.keyboard.press(key)
    expect(target).to_be_checked()
    expect(target).to_be_focused()


class TestArrowKeys:
    def test_a_vote_is_chosen_with_them_back_and_forth(self, page):
        open_tab(page, "Blind test")
        votes = page.locator("#blind-vote").get_by_role("radio")
        press_until_focused(page, votes.first)
        page.keyboard.press("Space")
        expect(votes.first).to_be_checked()
        for key, number in (
            ("ArrowDown", 1),
            ("ArrowRight", 2),
            ("ArrowDown", 3),
            ("ArrowUp", 2),
            ("ArrowLeft", 1),
        ):
            move(page, key, votes.nth(number))
            assert page.locator("#blind-vote").locator("input:checked").count() == 1

    def test_the_number_of_panes_is_chosen_with_them(self, page):
        counts = page.locator("#pane-count").get_by_role("radio")
        press_until_focused(page, counts.first, "Shift+Tab")
        for number in (1, 2):
            move(page, "ArrowRight", counts.nth(number))
            expect(page.locator(f"#pane-{number + 2}")).to_be_visible()
        move(page, "ArrowLeft", counts.nth(1))
        expect(page.locator("#pane-4")).to_be_hidden()

    def test_the_kind_of_an_export_is_chosen_with_them(self, page):
        unfold(page, "History")
        kinds = page.get_by_role("group", name="Export as").get_by_role("radio")
        press_until_focused(page, kinds.first)
        for number in (1, 2):
            move(page, "ArrowDown", kinds.nth(number))

    def test_a_choice_is_one_stop_of_the_tab_key(self, page):
        models = page.locator("#pane-1").get_by_role("radio")
        press_until_focused(page, models.first, "Shift+Tab")
        page.keyboard.press("Tab")
        expect(page.locator("#pane-1").locator("input:focus")).to_have_count(0)

    def test_what_is_chosen_is_what_is_asked_also_after_the_server_chose(self, page, stub):
        choose(page, 1, ADAPTER)
        models = page.locator("#pane-1").get_by_role("radio")
        move(page, "ArrowUp", page.locator("#pane-1").get_by_label(BASE, exact=True))
        ask(page, "Whom did the keys choose?")
        expect(status(page, 1)).to_contain_text("Done in")
        assert stub.last(BASE).question == "Whom did the keys choose?"
        assert models.evaluate_all("list => new Set(list.map(e => e.name)).size") == 1


class TestNames:
    def test_every_group_and_field_has_one(self, page):
        for name in TABS:
            open_tab(page, name)
            page.wait_for_timeout(200)
            names = page.locator(f":is({FIELDS}):visible").evaluate_all(WORDS)
            assert len(names) > 2
            assert all(names), (name, names)

    def test_groups_are_named_by_their_heading(self, page):
        expect(page.get_by_role("group", name="Models side by side", exact=True)).to_be_visible()
        expect(page.get_by_role("group", name="Model of pane 1", exact=True)).to_be_visible()
        open_tab(page, "Blind test")
        expect(page.get_by_role("group", name="Your vote", exact=True)).to_be_visible()

    def test_the_command_of_a_run_is_found_by_its_label(self, page):
        open_tab(page, "Train")
        expect(page.get_by_role("textbox", name="The command that does the same", exact=True)).to_be_visible()


def test_a_status_line_stays_the_same_element_while_its_text_changes(page):
    page.evaluate("window.kept = [...document.querySelectorAll('[role=status]')]")
    for question in ("Said once?", "Said twice?"):
        ask(page, question)
        for pane in (1, 2):
            expect(status(page, pane)).to_contain_text("Done in")
        page.get_by_role("button", name="New conversation").click()
        expect(page.locator("#notice p")).to_have_text("A new conversation.")
    assert page.evaluate("kept.every(line => line.isConnected)")
    lines = page.evaluate(
        "[...document.querySelectorAll('[role=status]')].filter(line => !kept.includes(line)).length"
    )
    assert lines == 0
