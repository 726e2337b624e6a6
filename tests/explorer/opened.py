"""A page of the explorer in a browser, compared with torch."""

import numpy as np
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.models.weights import load_weights
from tests.explorer.browser import complaints, requests


def decoded(model, code):
    """The intensities that torch decodes at a code, in the page's order: channels last."""
    with torch.no_grad():
        images = model.decode_images(torch.tensor(np.array(code), dtype=torch.float32))
    return images.movedim(-3, -1).flatten().numpy()


class Open:
    """A page in the browser; every point it shows is checked against torch."""

    def __init__(self, driver, path, address=""):
        self.driver, self.folder = driver, path.parent
        requests(driver), complaints(driver)
        driver.get(address or path.as_uri())
        if address:  # of a page that shows it in a frame
            driver.switch_to.frame(WebDriverWait(driver, 60).until(lambda d: d.find_element(By.TAG_NAME, "iframe")))
        painted = "document.body.dataset.ready && performance.getEntriesByType('paint').length"  # before it, input may be dropped
        WebDriverWait(driver, 60).until(lambda d: d.execute_script(f"return {painted}"))
        driver.execute_script("addEventListener('pointermove', (event) => (window.pointer = event), true)")
        self.planes = driver.find_elements(By.CSS_SELECTOR, ".plane")

    def __call__(self, expression, *args):
        """Return the value of an expression, once the page has drawn what it was asked for."""
        self.frame()
        return self.driver.execute_script(f"return {expression}", *args)

    def frame(self):
        """Wait until the page has had its input, which comes with a frame, and has drawn what it asks for."""
        drawn = "() => (scheduled ? requestAnimationFrame(look) : arguments[0]())"
        self.driver.execute_async_script(f"const look = {drawn}; requestAnimationFrame(() => requestAnimationFrame(look))")

    def wait(self, condition):
        """Wait until an expression is true in the page."""
        WebDriverWait(self.driver, 20).until(lambda driver: driver.execute_script(f"return Boolean({condition})"))

    def point(self, card):
        return np.array(self(f"Array.from(cards[{card}].z)"))

    def check(self, weights=("models/ae", "models/vae"), tolerance=1e-4, half=False):
        """Compare what is drawn, and what it is drawn from, with what torch decodes there."""
        self.frame()
        for card, path in enumerate(weights):
            decoder = load_weights(self.folder / f"{path}.safetensors").model
            with torch.no_grad():
                for matrix in decoder.parameters():
                    matrix.copy_(matrix.half() if half and matrix.ndim == 2 else matrix)
            expected = decoded(decoder, self.point(card))
            assert np.ptp(expected) > 0.5, "an image without contrast would prove nothing"
            np.testing.assert_allclose(self(f"Array.from(cards[{card}].pixels)"), expected, rtol=0, atol=tolerance)
            height, width, channels = self("page.shape")
            drawn = self(f"Array.from(cards[{card}].digit.getContext('2d').getImageData(0, 0, {width}, {height}).data)")
            colors = np.reshape(drawn, (-1, 4))[:, :channels].ravel()
            shown = expected if channels == 3 else 1 - expected
            np.testing.assert_allclose(colors, 255 * shown, atol=0.51 + 255 * tolerance)

    def hover(self, card, x, y):
        """Move the pointer until the page has seen it there: a busy browser may drop a move, or make one of its own."""
        box = "const box = arguments[0].getBoundingClientRect(), {clientX, clientY} = window.pointer ?? {};"
        away = "Math.hypot(clientX - box.x - box.width / 2 - arguments[1], clientY - box.y - box.height / 2 - arguments[2])"

        def arrived(driver):
            for beside in (3, 0):  # a move to where the pointer is already is none
                ActionChains(driver, 0).move_to_element_with_offset(self.planes[card], x + beside, y).perform()
            return driver.execute_script(f"{box} return {away} < 2", self.planes[card], x, y)

        WebDriverWait(self.driver, 20).until(arrived)
        self.frame()

    def slide(self, element, value):
        change = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.driver.execute_script(change, element, value)
