"""The page of the service in a real browser: people write, read, stop and come back."""

import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytest.importorskip("fastapi", reason="needs the extra serve")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
if CHROMIUM is None:
    pytest.skip(f"needs a browser in PATH: one of {', '.join(NAMES)}", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402

from tests.page_helpers import PageService  # noqa: E402

TOOL = Path(__file__).resolve().parents[2] / "tools" / "page_screenshot.py"
PHONE = {"width": 360, "height": 640}
INJECTION = "<img src=x onerror=\"document.title='hacked'\">"

# Chromium itself tells of answers like 429, and of what the policy forbids
EXPECTED = ("Failed to load resource", "This document requires 'TrustedHTML'")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        expect.set_options(timeout=15_000)  # a guard, as on a busy machine
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service():
    with PageService() as service:
        yield service


@pytest.fixture
def visit(browser, service):
    """Open the page as a new visitor; nothing may be asked of another address, or go wrong."""
    with visitor(browser, service) as page:
        yield page


@contextmanager
def visitor(browser, service, **options):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
    context.set_default_timeout(10_000)
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.goto(service.url)
    try:
        yield page
    finally:
        context.close()
    assert asked and {url for url in asked if not url.startswith((service.url, "data:"))} == set()
    assert [text for text in faults if not text.startswith(EXPECTED)] == []


def field(page):
    return page.get_by_role("textbox").and_(page.locator("#field"))


def choose(page, model):
    page.get_by_role("combobox", name="Model").select_option(model)


def button(page, name):
    return page.get_by_role("main").get_by_role("button", name=name, exact=True)


def ask(page, service, text, model="talk"):
    """Send a text; return the request that reaches the engine."""
    choose(page, model)
    field(page).fill(text)
    field(page).press("Enter")
    return service.engines[model].next()


def replies(page):
    return page.locator("#turns > li > .text")


def test_from_load_to_reply_by_keyboard_alone(visit, service):
    page, keyboard = visit, visit.keyboard
    expect(field(page)).to_be_focused()
    keyboard.press("Shift+Tab")  # the text as a whole
    keyboard.press("Shift+Tab")  # the settings
    keyboard.press("Shift+Tab")
    keyboard.type("talk")
    expect(page.get_by_role("heading", name="Say something").last).to_be_visible()
    for _ in range(3):
        keyboard.press("Tab")
    expect(field(page)).to_be_focused()
    keyboard.type("hello")
    keyboard.press("Shift+Enter")
    keyboard.type("there")
    composing = {"key": "Enter", "bubbles": True, "cancelable": True, "isComposing": True}
    field(page).dispatch_event("keydown", composing)  # chooses a word, and sends nothing
    expect(field(page)).to_have_value("hello\nthere")
    keyboard.press("Enter")
    ticket = service.engines["talk"].next()
    assert ticket.request.prompt == ("hello\nthere",)
    ticket.say("Good", " day.")
    expect(replies(page)).to_have_text("Good day.")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    ticket.say(" How are", " you")
    expect(replies(page)).to_have_text("Good day. How are you")
    ticket.end("?")
    expect(replies(page)).to_have_text("Good day. How are you?")
    expect(field(page)).to_be_focused()
    # a screen reader gets each sentence once
    expect(page.get_by_role("log").locator("p")).to_have_text(["Good day. ", "How are you?"])
    expect(page.get_by_role("status")).to_have_text("The text is complete.")
    keyboard.type("well")
    keyboard.press("Enter")
    ticket = service.engines["talk"].next()
    assert ticket.request.prompt == ("hello\nthere", "Good day. How are you?", "well")
    ticket.end(" Fine.")


def test_a_stopped_reply_frees_its_place(visit, service):
    ticket = ask(visit, service, "tell me")
    ticket.say("All of")
    expect(replies(visit)).to_have_text("All of")
    visit.keyboard.press("Escape")
    assert ticket.cancelled.wait(10)
    expect(visit.get_by_text("Stopped.").first).to_be_visible()
    expect(replies(visit)).to_have_text("All of")
    button(visit, "Try again").click()
    ticket = service.engines["talk"].next()
    button(visit, "Stop").click()  # before the first word
    assert ticket.cancelled.wait(10)
    expect(button(visit, "Send")).to_be_visible()
    expect(replies(visit)).to_be_empty()


def test_a_reload_in_mid_reply_loses_nothing(visit, service):
    ticket = ask(visit, service, "one")
    ticket.end("First.")
    ticket = ask(visit, service, "two")
    ticket.say("Sec")
    expect(replies(visit).last).to_have_text("Sec")
    field(visit).fill("a draft")
    visit.reload()
    assert ticket.cancelled.wait(10)
    expect(replies(visit)).to_have_text(["First.", "Sec"])
    expect(visit.get_by_text("Cut off when the page was closed.")).to_be_visible()
    expect(field(visit)).to_have_value("a draft")
    button(visit, "Try again").click()
    ticket = service.engines["talk"].next()
    assert ticket.request.prompt == ("one", "First.", "two")
    ticket.end("Second.")
    expect(replies(visit)).to_have_text(["First.", "Second."])
    button(visit, "Copy").last.click()
    expect(button(visit, "Copied")).to_be_visible()
    assert visit.evaluate("navigator.clipboard.readText()") == "Second."


@pytest.mark.slow
def test_the_history_keeps_several_and_deletes_one_or_all(visit, service):
    for text in ("first", "second"):
        ask(visit, service, text).end("Reply.")
        expect(button(visit, "Try again")).to_be_visible()
        visit.get_by_role("button", name="New", exact=True).click()
    history = visit.get_by_role("navigation", name="History")
    history.get_by_role("button", name="first Dialog").click()
    expect(visit.locator(".said .text")).to_have_text("first")
    history.get_by_role("listitem").first.hover()
    history.get_by_role("button", name="Delete second").click()
    visit.get_by_role("dialog").get_by_role("button", name="Keep").click()
    history.get_by_role("button", name="Delete second").click()
    visit.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(history.get_by_role("listitem")).to_have_count(1)
    history.get_by_role("button", name="Delete all").click()
    visit.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(history.get_by_role("listitem")).to_have_count(0)
    expect(visit.locator(".said")).to_have_count(0)
    assert visit.evaluate("Object.keys(localStorage).filter((k) => k.includes('.conv'))") == []


@pytest.mark.slow
def test_a_story_grows_in_place_and_is_edited(visit, service):
    ticket = ask(visit, service, "Once upon a time", "tales")
    ticket.say(" a", " cat")
    expect(field(visit)).to_have_value("Once upon a time a cat")
    expect(visit.locator(".fresh")).to_have_text(" a cat")
    ticket.end(reason="length")
    expect(visit.get_by_text("The limit of tokens was reached.").first).to_be_visible()
    button(visit, "Try again").click()
    ticket = service.engines["tales"].next()
    assert ticket.request.prompt == "Once upon a time"
    ticket.end(" a dog")
    button(visit, "Continue").wait_for()
    field(visit).fill("Once upon a time a small dog")
    field(visit).press("Enter")
    ticket = service.engines["tales"].next()
    assert ticket.request.prompt == "Once upon a time a small dog"
    ticket.end(" barked.")
    expect(field(visit)).to_have_value("Once upon a time a small dog barked.")
    button(visit, "Copy").click()
    expect(button(visit, "Copied")).to_be_visible()
    assert visit.evaluate("navigator.clipboard.readText()").endswith("dog barked.")


@pytest.mark.slow
def test_each_line_is_translated_by_itself(visit, service):
    first = ask(visit, service, "One.\n\nTwo.", "en-ru")
    second = service.engines["en-ru"].next()
    assert [first.request.prompt, second.request.prompt] == ["One.", "Two."]
    assert first.request.options.temperature == 0
    second.end("Два.")
    first.end("Раз.")
    target = visit.locator(".pair .text")
    expect(target).to_have_text("Раз.\n\nДва.", use_inner_text=True)
    ask(visit, service, "Three.", "en-ru").end("Три.")
    expect(target).to_have_text("Три.")
    expect(visit.get_by_role("list", name="Earlier translations")).to_contain_text("Раз.")


@pytest.mark.slow
def test_settings_are_sent_and_wrong_ones_are_not(visit, service):
    visit.get_by_role("button", name="Settings").click()
    visit.get_by_label("Temperature").fill("0.25")
    visit.get_by_label("Seed").fill("7")
    visit.get_by_label("Token limit").fill("0")
    field(visit).fill("Once")
    field(visit).press("Enter")
    expect(visit.get_by_label("Token limit")).to_be_focused()
    expect(visit.locator("#error-max_tokens")).not_to_be_empty()
    visit.get_by_label("Token limit").fill("20")
    field(visit).press("Enter")
    options = service.engines["tales"].next().request.options
    assert (options.temperature, options.seed, options.max_tokens) == (0.25, 7, 20)
    assert (options.top_p, options.top_k, options.repetition_penalty) == (0.95, -1, 1.0)
    visit.keyboard.press("Escape")


def test_on_a_phone_nothing_is_cut_off(browser, service):
    with visitor(browser, service, viewport=PHONE, reduced_motion="reduce") as page:
        for model in service.engines:
            ticket = ask(page, service, "w" * 300, model)
            ticket.say(" " + "x" * 500)
            expect(page.locator("main")).to_contain_text("xxx")
            moving = "e => getComputedStyle(e, '::after').animationName"
            assert page.locator(".writing").first.evaluate(moving) == "none"
            ticket.end()
            page.get_by_role("button", name="Settings").wait_for()
            for part in page.locator("html, main").all():
                assert part.evaluate("e => e.scrollWidth - e.clientWidth") == 0
            for box in page.locator("main :is(.text, textarea, button):visible").all():
                edge = box.bounding_box()
                assert edge["x"] >= 0 and edge["x"] + edge["width"] <= 360
        expect(button(page, "Translate")).to_be_in_viewport(ratio=1)
        choose(page, "talk")
        expect(field(page)).to_be_in_viewport(ratio=1)
        page.get_by_role("button", name="History").click()
        page.keyboard.press("Tab")  # stays in the panel
        expect(page.get_by_role("button", name="New", exact=True)).to_be_focused()
        assert page.locator("main").evaluate("e => e.inert")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="History")).to_be_focused()


def test_text_stays_text_in_its_own_direction(visit, service):
    ask(visit, service, INJECTION).end(f"ok {INJECTION}</div>")
    expect(replies(visit)).to_have_text(f"ok {INJECTION}</div>")
    ask(visit, service, "كيف حالك").end("أنا بخير")
    expect(replies(visit).last).to_have_text("أنا بخير")
    direction = "e => getComputedStyle(e).direction"
    assert [text.evaluate(direction) for text in replies(visit).all()] == ["ltr", "rtl"]
    field(visit).fill("مرحبا")
    assert field(visit).evaluate(direction) == "rtl"
    assert visit.locator("img").count() == 0
    visit.reload()
    expect(replies(visit).first).to_have_text(f"ok {INJECTION}</div>")
    assert "hacked" not in visit.title() or INJECTION in visit.title()
    # even a fault of the page could not make HTML of it
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        visit.evaluate("document.body.innerHTML = '<img>'")


def test_what_the_server_refuses_is_told(visit, service):
    engine = service.engines["talk"]
    engine.full = True
    choose(visit, "talk")
    field(visit).fill("hello")
    field(visit).press("Enter")
    error = visit.locator("#turns .error")
    expect(error).to_contain_text("64 requests wait already")
    expect(error).to_contain_text("asks to wait 3 s")
    engine.full = False
    button(visit, "Try again").click()
    ticket = engine.next()
    ticket.say("half")
    expect(replies(visit)).to_have_text("half")
    ticket.end(reason="error", error="the step failed")
    expect(error).to_contain_text("the step failed")
    expect(replies(visit)).to_have_text("half")
    visit.context.set_offline(True)
    button(visit, "Try again").click()
    expect(error).to_contain_text("cannot be reached")
    expect(visit.get_by_role("status")).to_contain_text("cannot be reached")


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_for_the_tab_only(browser):
    with PageService(api_key="sesame") as service:
        given = {"username": "anybody", "password": "sesame"}
        with visitor(browser, service, http_credentials=given) as page:
            choose(page, "talk")  # the browser has asked, and the page need not
        service.page_is_open = True
        with visitor(browser, service) as page:
            give_key(page, service)


def give_key(page, service):
    key = page.get_by_label("This server asks for its API key")
    expect(key).to_be_focused()
    key.fill("wrong")
    key.press("Enter")
    expect(page.locator("#key-error")).not_to_be_empty()
    key.fill("sesame")
    key.press("Enter")
    ask(page, service, "hello").end("Hello.")
    expect(replies(page)).to_have_text("Hello.")
    kept = "Object.values(localStorage).join() + Object.values(sessionStorage).join()"
    assert page.evaluate(kept).count("sesame") == 1
    assert page.evaluate("sessionStorage.getItem('fairtale.key')") == "sesame"


@pytest.mark.slow
def test_a_stream_may_be_cut_anywhere(visit):
    """Bytes come one by one; line ends are of every kind, and comments are skipped."""
    text = ': ping\r\ndata: {"a": "мир 🙂"}\r\n\r\ndata:1\rdata: 2\r\r'
    text += "event: x\n\ndata: 안녕\n\ndata: not whole"
    read = """async (bytes) => {
      const body = new ReadableStream({
        start(out) {
          for (const byte of bytes) out.enqueue(new Uint8Array([byte]));
          out.close();
        },
      });
      const found = [];
      for await (const data of readEvents(body)) found.push(data);
      return found;
    }"""
    found = visit.evaluate(read, list(text.encode()))
    assert found == ['{"a": "мир 🙂"}', "1\n2", "안녕"]


@pytest.mark.slow
def test_the_picture_of_the_page_is_taken_by_a_command(service, tmp_path):
    picture = tmp_path / "page.png"
    words = ["--say", "talk", "hello", "--set", "Seed", "7", "--width", "400", "--dark"]
    command = [sys.executable, TOOL, service.url, *words, "--output", picture]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        ticket = service.engines["talk"].next()
        assert ticket.request.options.seed == 7
        ticket.end("Hello.")
        assert process.wait(60) == 0, process.stderr.read()
    content = picture.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (400, 720)
