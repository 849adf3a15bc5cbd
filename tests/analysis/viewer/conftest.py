"""A browser for the viewer's pages, where one is installed."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as run:
        running = run.chromium.launch(
            executable_path=executable,
            headless=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield running
        running.close()


@pytest.fixture
def page(browser, tmp_path):
    """``page(file)``: the open page; afterwards it must have asked for nothing and complained about
    nothing."""
    asked, complaints = [], []
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    files = []

    def open_file(file):
        files.append(file.as_uri())
        tab.goto(files[0])
        return tab

    yield open_file
    tab.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == files
