"""Tests of pages say why they are skipped, and fail where a browser is required."""

import sys

import pytest

from tests import browser


def test_without_a_browser_pages_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.delenv("ESPALIER_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium is not installed, as by `apt-get"):
        browser.chromium().__enter__()


def test_where_a_browser_is_required_its_absence_fails(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setenv("ESPALIER_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="no page can be tested: chromium is not"):
        browser.chromium().__enter__()


def test_without_its_library_pages_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    monkeypatch.delenv("ESPALIER_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="playwright is not installed, as by `pip"):
        browser.chromium().__enter__()
