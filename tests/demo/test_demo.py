"""Pins: the page works in a real browser (a query typed, the right image seen first; an image classified and
moderated; mistakes said in a sentence), listens on 127.0.0.1 alone, and fetches nothing from elsewhere; the Space
that is written runs by itself, elsewhere, without what it was made of."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_customclip.cli import main
from hf_customclip.demo import write_space

pytest.importorskip("gradio", reason="the demo extra is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 90


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(command, log, **options):
    """Run a command that serves a page until the end of the block."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + PATIENCE
        while "Running on local URL" not in Path(log).read_text():
            assert process.poll() is None and time.monotonic() < deadline, Path(log).read_text()
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def page(shown, tmp_path_factory):
    """The address of the page that the real command serves."""
    port = free_port()
    code = "from hf_customclip.cli import main; main()"
    options = ["--index", shown.index, "--policy", shown.policy, "--port", str(port)]
    log = tmp_path_factory.mktemp("log") / "demo.log"
    with served([sys.executable, "-c", code, "demo", shown.model, *options], log):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1100"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def see(browser, page):
    """`see(css)`: the elements, as soon as there are any."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page)

    def see(css, text=""):
        def there(driver):
            found = [e for e in driver.find_elements(By.CSS_SELECTOR, css) if text in (e.text or "")]
            return found or None

        return WebDriverWait(browser, PATIENCE).until(there, f"{css} {text}")

    return see


def open_tab(see, name):
    next(tab for tab in see("button[role=tab]") if tab.text == name).click()


def write(box, text):
    box.clear()
    box.send_keys(text)


@pytest.mark.slow
@pytest.mark.parametrize("query", ["a large green triangle on white", "a large blue square on white"])
def test_a_typed_query_shows_the_right_image_first(see, shown, query):
    write(see("#search-words textarea, #search-words input")[0], query)
    see("#search-go")[0].click()
    name = query.replace(" ", "-")
    first = see("#search-found .thumbnail-item, #search-found .thumbnail-lg", name)[0]
    everything = see("#search-found .caption-label")
    assert name in everything[0].text and len(everything) == 12
    from selenium.webdriver.common.by import By

    source = first.find_element(By.CSS_SELECTOR, "img").get_attribute("src")
    with urllib.request.urlopen(source) as answer:
        seen = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"), dtype=float)
    drawn = np.asarray(Image.open(shown.images / "all" / f"{name}.png").convert("RGB"), dtype=float)
    assert seen.shape == drawn.shape and np.abs(seen - drawn).mean() < 6, (
        "the image itself, not only its name"
    )


@pytest.mark.slow
def test_a_search_by_image_finds_that_image(see, shown):
    name = "a-large-red-circle-on-white"
    see("#search-image input[type=file]")[0].send_keys(str(shown.images / "all" / f"{name}.png"))
    see("#search-image img")
    see("#search-go")[0].click()
    assert f"1.000  {name}".replace("  ", " ") in see("#search-found .caption-label", name)[0].text.replace(
        "  ", " "
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_search_fits_a_phone_and_a_desk(browser, see, width):
    """No result is cut off, captions stand below images, one opens large with what is known of it; by keyboard too."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        see("#search-count label", "24")[0].click()
        see("#search-words textarea, #search-words input")[0].send_keys("a large red circle on white\n")
        see("#search-message", "24 of 32 images")
        tiles = see("#search-found .thumbnail-item")
        assert len(tiles) == 24 and browser.execute_script(
            "return document.documentElement.scrollWidth <= window.innerWidth"
        )
        for tile in tiles:
            assert tile.rect["x"] >= 0 and tile.rect["x"] + tile.rect["width"] <= width
        image, caption = see("#search-found .thumbnail-item img")[0], see("#search-found .caption-label")[0]
        assert caption.rect["y"] >= image.rect["y"] + image.rect["height"] - 1
        tiles[0].send_keys("\n")
        see("#search-details", "a-large-red-circle-on-white")
        large, details = see("#search-found .preview img")[0], see("#search-details")[0]
        assert large.rect["width"] >= min(width, 400) / 2
        assert 0 <= large.rect["y"] - details.rect["y"] - details.rect["height"] < 450, "near each other"
        see("#search-found .preview button[aria-label=Close]")[0].click()
        assert len(see("#search-found .thumbnail-item", "red")) >= 1
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_image_is_classified_among_ones_own_labels(see, shown):
    open_tab(see, "Classify")
    see("#classify-image input[type=file]")[0].send_keys(
        str(shown.images / "all" / "a-large-pink-cross-on-white.png")
    )
    see("#classify-image img")
    labels = "large blue circle on white, large pink cross on white, large red square on white"
    write(see("#classify-labels textarea, #classify-labels input")[0], labels)
    see("#classify-go")[0].click()
    result = see("#classify-result", "%")[0].text
    assert result.splitlines()[0] == "large pink cross on white"


@pytest.mark.slow
def test_a_image_and_a_text_are_moderated(see, shown, browser, page):
    open_tab(see, "Moderate")
    image = shown.policy.parent / "examples" / "cross.png"
    see("#moderate-image input[type=file]")[0].send_keys(str(image))
    see("#moderate-image img")
    see("#moderate-go")[0].click()
    assert see("#moderate-action", "block")
    why = see("#moderate-why", "crosses")[0].text
    assert "a large red cross on white" in why and "image" in why and "yes" in why
    browser.get(page)
    open_tab(see, "Moderate")
    write(see("#moderate-text textarea")[0], "a large blue square on white")
    see("#moderate-go")[0].click()
    assert see("#moderate-action", "allow")


@pytest.mark.slow
def test_a_mistake_is_said_in_a_sentence(see):
    see("#search-go")[0].click()
    assert see("#search-message", "Say what to look for: words, an image, or both.")


@pytest.mark.slow
def test_nothing_comes_from_elsewhere_and_nobody_else_can_reach_it(see, browser, page):
    see("#search-words")
    names = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert names and all(name.startswith((page, "data:", "blob:")) for name in names)
    if os.path.exists("/proc/net/tcp"):
        port = f"{int(page.rsplit(':', 1)[1]):04X}"
        lines = [
            line.split()
            for file in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(file).read_text().splitlines()
        ]
        listening = {line[1] for line in lines if line[1].endswith(f":{port}") and line[3] == "0A"}
        assert listening == {f"0100007F:{port}"}


@pytest.mark.slow
def test_the_space_runs_without_what_it_was_made_of(shown, tmp_path):
    from gradio_client import Client, handle_file

    made = tmp_path / "made"
    made.mkdir()
    for name, source in {"model": shown.model, "index": shown.index, "images": shown.images}.items():
        shutil.copytree(source, made / name)
    write_space(tmp_path / "space", str(shown.model), index=shown.index, policy=shown.policy)
    shutil.move(tmp_path / "space", tmp_path / "elsewhere")
    space = tmp_path / "elsewhere"
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py") and front["sdk_version"].count(".") == 2
    assert (space / "requirements.txt").read_text().startswith("hf-customclip[demo,search]==")
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    with served([sys.executable, "app.py"], tmp_path / "log", cwd=space, env=environment):
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        found = client.predict("a large green circle on white", None, api_name="/search")[0]
        assert found[0]["caption"].endswith("a-large-green-circle-on-white")
        with Image.open(found[0]["image"]) as image:
            assert image.convert("RGB").getpixel((20, 16))[1] > 100, "shown from the Space's own copy"
        cross = handle_file(str(space / "policy" / "examples" / "cross.png"))
        assert client.predict(cross, "", api_name="/moderate")[0] == "## block"


def test_a_space_is_refused_in_a_sentence(shown, saved_model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="is not empty: name a new folder"):
        write_space(tmp_path / "full", str(shown.model))
    with pytest.raises(ValueError, match=r"made by .*, not by"):
        write_space(tmp_path / "others", saved_model, index=shown.index)
    outside = tmp_path / "policy.yaml"
    shutil.copy(shown.policy, outside)
    outside.write_text(
        outside.read_text().replace("examples/cross.png", str(shown.policy.parent / "examples/cross.png"))
    )
    with pytest.raises(ValueError, match="must lie beside the policy"):
        write_space(tmp_path / "new", str(shown.model), policy=outside)


def test_what_cannot_be_shown_is_said_before_a_model_is_loaded(tmp_path, capsys):
    for option, said in (("--index", "There is no index in"), ("--policy", "There is no policy file")):
        with pytest.raises(SystemExit) as stopped:
            main(["demo", "no/model", option, str(tmp_path / "none")])
        assert stopped.value.code == 1 and said in capsys.readouterr().err
