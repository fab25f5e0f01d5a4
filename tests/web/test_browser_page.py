"""The playground's page itself: nothing foreign, no names before a vote, no mouse needed, no scrolling sideways."""

import re

import httpx
import pytest
from playwright.sync_api import expect

from factory.api.guard import POLICY
from tests.web.browser import answers, ask, choose, open_playground, open_tab, press_until_focused, status
from tests.web.conftest import EVIL, keep_screenshot
from tests.web.model_stub import ADAPTER, BASE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MARK = "element => (s => [s.backgroundImage, s.backgroundColor])(getComputedStyle(element))"
TABS = ("Compare", "Blind test", "Train", "Library")
URL = re.compile(r"https?://[^\s\"'<>\\)]+")
OLLAMA = "http://127.0.0.1:11434"  # a sentence names it; the server, and no page, speaks to it


class TestNothingForeign:
    def test_the_page_as_served_names_no_foreign_address(self, site):
        reply = httpx.get(f"{site.url}/ui/", headers={"accept-encoding": "gzip, br"})
        assert reply.status_code == 200
        foreign = {url for url in URL.findall(reply.text) if not url.startswith(site.url)}
        assert foreign <= {OLLAMA}
        styles = re.findall(r'href="(\./[^"]+\.css[^"]*)"', reply.text)
        for path in [*styles, "theme.css"]:
            style = httpx.get(f"{site.url}/ui/{path.removeprefix('./')}")
            assert style.status_code == 200
            assert not re.search(r"@import|url\([\"']?https?:|//fonts", style.text), path

    @pytest.mark.parametrize("path", ["/ui/", "/ui/theme.css", "/ui/config", "/ui/no-such-page"])
    def test_the_policy_goes_out_with_every_page(self, site, path):
        headers = httpx.get(f"{site.url}{path}").headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    def test_no_tab_asks_another_server_or_breaks_the_policy(self, page, watched):
        for name in (*TABS, "Compare"):
            open_tab(page, name)
            page.wait_for_timeout(300)
        assert any(url.endswith(".js") for url in watched.requests)
        assert watched.foreign == []
        assert watched.complaints == []

    def test_markup_in_an_answer_is_shown_as_text_and_fetches_nothing(self, page, watched):
        choose(page, 1, "markup")
        ask(page, "<img src=https://evil.example/mine.png> **bold**")
        expect(status(page, 1)).to_contain_text("Done in")
        assert answers(page, 1).inner_text().strip() == EVIL
        chat = page.locator("#panes")
        assert chat.locator("[data-testid] a, [data-testid] strong, [data-testid] script").count() == 0
        assert chat.locator("[data-testid=bot] img, [data-testid=user] img").count() == 0
        assert watched.foreign == []

    def test_markup_in_an_answer_is_text_in_the_blind_test_too(self, page, watched):
        open_tab(page, "Blind test")
        page.locator("#blind-one").get_by_label("markup", exact=True).check()
        box = page.locator("#blind-question").get_by_role("textbox")
        box.fill("What?")
        box.press("Enter")
        expect(page.locator("#blind-status p")).to_have_text("Both have answered: vote.")
        assert EVIL in [page.get_by_label(f"Answer {side}").input_value() for side in "AB"]
        assert watched.foreign == []


class TestBlind:
    def test_nothing_tells_who_answers_before_the_vote_and_a_vote_counts_once(self, page, site):
        open_tab(page, "Blind test")
        names = (BASE, ADAPTER, "Tolvane")
        before = {name: page.content().count(name) for name in names}
        box = page.locator("#blind-question").get_by_role("textbox")
        box.fill("What is a shed?")
        with page.expect_response("**/queue/join*") as joined:
            box.press("Enter")
        expect(page.locator("#blind-status p")).to_have_text("Both have answered: vote.")
        shown = [page.get_by_label(f"Answer {side}").input_value() for side in "AB"]
        assert all("What is a shed?" in text for text in shown)
        told = [event for event in site.told if joined.value.json()["event_id"] in event]
        assert any("What is a shed?" in event for event in told)
        assert not [(name, text) for name in names for text in (*told, *shown) if name in text]
        assert {name: page.content().count(name) for name in names} == before

        page.locator("#blind-vote").get_by_label("A is better").check()
        page.locator("#blind-cast").click()
        expect(page.locator("#blind-status p")).to_contain_text("Thank you.")
        line = page.locator("#blind-status p").inner_text()
        assert line in {f"Thank you. A was {a}, B was {b}." for a, b in ((BASE, ADAPTER), (ADAPTER, BASE))}
        expect(page.get_by_role("table")).to_contain_text("not enough votes (1 of 50 that decide)")
        (vote,) = site.history.votes()
        assert f"A was {vote.model_a}," in line
        assert vote.winner == "a"

        page.locator("#blind-cast").click()
        expect(page.get_by_test_id("toast-body")).to_contain_text("Ask both first")
        assert len(site.history.votes()) == 1


class TestKeyboard:
    def test_a_question_is_asked_stopped_and_asked_again_without_a_mouse(self, page):
        choose(page, 1, "slow-one")
        box = page.locator("#question").get_by_role("textbox")
        press_until_focused(page, box)
        page.keyboard.type("Only keys?")
        press_until_focused(page, page.locator("#ask-all"))
        page.keyboard.press("Enter")
        expect(answers(page, 1)).to_contain_text("word3")
        press_until_focused(page, page.get_by_role("button", name="Stop pane 1"), "Shift+Tab")
        page.keyboard.press("Enter")
        expect(status(page, 1)).to_have_text("Stopped.")
        press_until_focused(page, box)
        page.keyboard.type("And by Enter?")
        page.keyboard.press("Enter")
        expect(answers(page, 2).last).to_contain_text("And by Enter?")

    def test_every_tab_is_reached_without_a_mouse(self, page):
        for name in TABS[1:]:
            tab = page.get_by_role("tab", name=name, exact=True)
            press_until_focused(page, tab, "Shift+Tab" if name == TABS[1] else "Tab")
            page.keyboard.press("Enter")
            expect(tab).to_have_attribute("aria-selected", "true")

    def test_a_model_is_chosen_without_a_mouse(self, page):
        press_until_focused(page, page.locator("#pane-1").get_by_label(BASE, exact=True), "Shift+Tab")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#pane-1").get_by_label(ADAPTER, exact=True)).to_be_checked()

    def test_what_happens_is_said_in_status_lines(self, page):
        ask(page, "Said?")
        for pane in (1, 2):
            expect(page.locator(f"#pane-{pane}").get_by_role("status").last).to_contain_text("Done in")
        expect(page.locator("#notice").get_by_role("status")).to_contain_text("Asked")

    def test_every_button_says_what_it_does(self, page):
        ask(page, "Said?")
        expect(status(page, 1)).to_contain_text("Done in")
        for name in TABS:
            open_tab(page, name)
            page.wait_for_timeout(200)
            names = page.locator("button:visible").evaluate_all(
                "list => list.map(e => e.ariaLabel || e.title || e.innerText)"
            )
            assert len(names) > 4
            assert all(text.strip() for text in names)


class TestLook:
    @pytest.mark.parametrize("width", [360, 390])
    def test_a_narrow_window_scrolls_in_one_direction_only(self, page, width):
        page.set_viewport_size({"width": width, "height": 780})
        ask(page, "Does a long question fit, one with averyveryverylongwordthatnobodycanbreakintopieces?")
        expect(status(page, 1)).to_contain_text("Done in")
        for name in TABS:
            if page.get_by_role("tab", name=name, exact=True).count() == 0:
                page.get_by_label("More tabs").click()
                page.locator(".overflow-dropdown").get_by_role("button", name=name).click()
            else:
                open_tab(page, name)
            page.wait_for_timeout(200)
            scrolled, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert scrolled <= shown, name

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_a_checked_choice_keeps_its_mark_under_the_mouse(self, page, site, watched, theme):
        page = page.context.new_page()  # leaving a page that still loads would be a complaint
        watched.watch(page)
        open_playground(page, f"{site.url}/ui/?__theme={theme}")
        box = page.get_by_label("Send the earlier turns along")
        box.check()
        for mark in (page.locator("#pane-1").get_by_label(BASE, exact=True), box):
            page.mouse.move(0, 0)
            page.wait_for_timeout(300)
            expect(mark).to_be_checked()
            before = mark.evaluate(MARK)
            assert before[0].startswith("url(")
            mark.hover()
            page.wait_for_timeout(300)
            assert mark.evaluate("element => element.matches(':hover')")
            assert mark.evaluate(MARK) == before

    def test_text_is_readable_in_the_dark(self, page, site, watched, request):
        page = page.context.new_page()  # leaving a page that still loads would be a complaint
        watched.watch(page)
        open_playground(page, f"{site.url}/ui/?__theme=dark")
        back, front = page.evaluate(
            "[getComputedStyle(document.querySelector('gradio-app')).backgroundColor,"
            " getComputedStyle(document.querySelector('.status p')).color]"
        )
        assert max(channels(back)) < 60
        assert min(channels(front)) > 180
        for name in TABS[1:]:
            open_tab(page, name)
            page.wait_for_timeout(200)
            keep_screenshot(page, f"{request.node.name}-{name.split()[0].lower()}")


def channels(color):
    """The red, green and blue of a computed color."""
    return [float(number) for number in re.findall(r"[\d.]+", color)[:3]]
