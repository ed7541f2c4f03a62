"""`tokensieve report` as a user runs it, and its page in a real browser.

report_test.py PROGRAM ProgramTest|PageTest. PageTest exits with 77 where no Chromium is installed,
except in CI: setup/packages.sh installs it.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import browser

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


def example_run(path, gpu=""):
    subprocess.run(
        [PROGRAM, "report", "--example", path], check=True, stdout=subprocess.DEVNULL
    )
    header, rest = path.read_text().split("\n", 1)
    if gpu:
        header = json.loads(header)
        header["machine"]["gpu"] = gpu
        path.write_text(json.dumps(header) + "\n" + rest)
    return path


class ProgramTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.run_file = example_run(self.folder / "run.jsonl")
        self.page = self.folder / "report.html"

    def expect(self, code, *arguments, says=()):
        result = subprocess.run(
            [PROGRAM, "report", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, code, output)
        for text in says:
            self.assertIn(text, output)
        return result

    def test_writes_the_page_and_prints_its_headline(self):
        result = self.expect(
            0,
            self.run_file,
            "-o",
            self.page,
            "--title",
            "A <b> title",
            says=["keep-0.2", "loss in points", "wrote"],
        )
        self.assertEqual(result.stderr, "")
        self.assertTrue("<title>A &lt;b&gt; title</title>" in self.page.read_text())
        self.expect(0, self.run_file)  # report.html is the default

    def test_reads_standard_input(self):
        result = subprocess.run(
            [PROGRAM, "report", "-", "-o", self.page],
            timeout=300,
            input=self.run_file.read_bytes(),
            capture_output=True,
        )
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_help_teaches(self):
        self.expect(0, "--help", says=["Examples:", "--title", "needs no network"])

    def test_seeds_are_pooled(self):
        one = self.expect(0, "--pool", self.run_file, says=["follow-ups lost", "2,048", "all"])
        again = self.folder / "again.jsonl"
        again.write_text(self.run_file.read_text().replace('"seed":1', '"seed":2', 1))
        two = self.expect(0, "--pool", self.run_file, again)

        def row(result):
            line = next(x for x in result.stdout.splitlines() if x.startswith("all     keep-0.1"))
            loss, rest = line.split(maxsplit=2)[2].split(" (", 1)
            return loss, int(rest.split(";")[1].split(")")[0])

        (loss, cases), (same, twice) = row(one), row(two)
        self.assertEqual((same, twice), (loss, 2 * cases))
        other = self.folder / "other.jsonl"
        other.write_text(self.run_file.read_text().replace('"name":"invented"', '"name":"b"', 1))
        self.expect(1, "--pool", self.run_file, other, says=["--pool takes runs of one model"])

    def test_usage_errors(self):
        self.expect(2, says=["RUN"])
        self.expect(2, self.run_file, "--colour", "red")

    def test_bad_input_names_file_and_line(self):
        bad = self.folder / "bad.jsonl"
        self.expect(1, self.folder / "none.jsonl", says=["none.jsonl", "No such file"])
        self.expect(1, self.folder, says=["is a folder"])
        bad.write_text("")
        self.expect(1, bad, says=["bad.jsonl is empty"])
        lines = self.run_file.read_text().splitlines(keepends=True)
        bad.write_text("".join([*lines[:4], "{oops\n", *lines[4:]]))
        self.expect(1, bad, says=["bad.jsonl:5 is not valid JSON"])
        bad.write_text(lines[0])
        self.expect(1, bad, says=["bad.jsonl holds a header but no finished case"])
        bad.write_text(lines[0].replace('"format":1', '"format":9'))
        self.expect(1, self.run_file, bad, "-o", self.page, says=["bad.jsonl:1: format 9"])
        self.assertFalse(self.page.exists())

    def test_an_interrupted_run_is_shown_with_a_warning(self):
        torn = self.folder / "torn.jsonl"
        torn.write_bytes(self.run_file.read_bytes()[:-40])
        self.expect(0, torn, "-o", self.page, says=["is incomplete", "wrote"])

    def test_an_old_page_survives_a_failure(self):
        self.page.write_text("old")
        self.expect(1, self.run_file, self.folder / "none.jsonl", "-o", self.page)
        self.assertEqual(self.page.read_text(), "old")
        self.expect(
            1,
            self.run_file,
            "-o",
            self.folder / "no" / "report.html",
            says=["cannot write", "nothing was changed"],
        )


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        runs = [
            example_run(cls.folder / "cpu.jsonl"),
            example_run(cls.folder / "gpu.jsonl", gpu="a GPU"),
        ]
        cls.page = cls.folder / "report.html"
        subprocess.run(
            [PROGRAM, "report", *runs, "-o", cls.page], check=True, stdout=subprocess.DEVNULL
        )
        cls.browser = cls.enterClassContext(browser.Browser(browser.find_chromium()))
        cls.evaluate = cls.browser.evaluate

    def setUp(self):
        self.browser.resize(1280, 900)
        self.browser.emulate("light")
        self.browser.open(self.page)

    def tearDown(self):
        self.assertEqual(self.browser.problems, [])
        self.assertEqual(set(self.browser.requests), {self.page.resolve().as_uri()})

    def text(self, selector):
        return self.evaluate(f"document.querySelector({selector!r}).textContent")

    def choose(self, selector, value):
        self.evaluate(f"""(() => {{ const box = document.querySelector({selector!r});
            box.value = {value!r}; box.dispatchEvent(new Event('change')); }})()""")

    def sections(self):
        return self.evaluate("[...document.querySelectorAll('main > section')].map((s) => s.id)")

    def make_page(self, run, page):
        done = subprocess.run(
            [PROGRAM, "report", run, "-o", page], check=True, capture_output=True, text=True
        )
        self.browser.open(page)
        return done.stdout

    def background(self):
        return self.evaluate("getComputedStyle(document.body).backgroundColor")

    def test_has_every_section(self):
        sections = self.sections()
        self.assertEqual(
            " ".join(sections),
            "runs headline frontier tasks needles kl layers tune inspector about",
        )
        links = self.evaluate("""[...document.querySelectorAll('nav a')]
            .map((a) => document.querySelector(a.getAttribute('href')) !== null)""")
        self.assertEqual(links, [True] * len(sections))

    def test_charts_have_marks_words_and_a_table(self):
        # A mark is drawn if the pixel in its middle has its colour; marks may hide one another.
        charts = self.evaluate("""[...document.querySelectorAll('canvas')].map((canvas) => {
            const chart = Chart.getChart(canvas);
            const pixels = canvas.getContext('2d')
                .getImageData(0, 0, canvas.width, canvas.height).data;
            const probe = document.createElement('canvas').getContext('2d');
            const marks = chart.data.datasets.flatMap((d, i) =>
                d.passive ? [] : chart.getDatasetMeta(i).data);
            const drawn = marks.filter((mark) => {
                const {x, y} = mark.getCenterPoint();
                const ratio = chart.currentDevicePixelRatio;
                const [column, row] = [x, y].map((v) => Math.floor(v * ratio));
                const [r, g, b] = pixels.slice(4 * (row * canvas.width + column));
                probe.fillStyle = mark.options.backgroundColor;
                return probe.fillStyle ===
                    '#' + (1 << 24 | r << 16 | g << 8 | b).toString(16).slice(1);
            });
            return {name: canvas.getAttribute('aria-label'),
                marks: marks.length, drawn: drawn.length,
                rows: canvas.closest('figure').querySelectorAll('details tbody tr').length};
        })""")
        self.assertEqual(
            [chart["name"].split(".")[0] for chart in charts],
            [
                "Accuracy against cost",
                "KL by prompt length",
                "KL by keep ratio",
                "KL by tau",
                "Keep ratio by layer",
                "Drift by layer",
                "Candidates of tune",
            ],
        )
        for chart in charts:
            self.assertGreater(chart["marks"], 3, chart)
            self.assertGreaterEqual(chart["drawn"], 0.5 * chart["marks"], chart)
            self.assertGreater(chart["rows"], 1, chart)

    def test_numbers_are_those_of_the_program(self):
        printed = subprocess.run(
            [PROGRAM, "report", self.folder / "cpu.jsonl", "-o", self.folder / "x"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        row = next(line for line in printed.splitlines() if line.startswith("keep-0.1"))
        loss = row.split()[2]
        shown = self.evaluate(
            """[...document.querySelectorAll('#headline tbody tr')]
            .find((tr) => tr.cells[0].textContent.startsWith('keep-0.1'))
            .cells[2].firstChild.textContent"""
        )
        self.assertEqual(shown.replace("\N{MINUS SIGN}", "-"), loss)

    def test_tasks_that_dense_fails_are_marked(self):
        self.assertIn("do not count: common words at 1024", self.text("#headline .note"))
        self.assertIn("dense fails", self.text("#tasks tr.muted"))

    def test_length_run_and_configurations_can_be_chosen(self):
        self.evaluate("document.querySelector('.segments input[value=\"2048\"]').click()")
        self.assertIn("2,048 tokens", self.text("#headline caption"))
        self.evaluate("document.querySelector('.shown input[value=\"evict\"]').click()")
        self.assertNotIn("evict", self.text("#headline table"))
        self.choose("#controls select", "1")
        self.assertIn("a GPU", self.text("#about"))
        self.assertNotIn("evict", self.text("#needles"))

    def test_axes_of_the_frontier_can_be_chosen(self):
        self.choose("#frontier select", "work")
        self.assertIn(
            "Attention work",
            self.evaluate(
                "Chart.getChart(document.querySelector('#frontier canvas'))"
                ".options.scales.x.title.text"
            ),
        )

    def test_a_chart_is_read_with_the_keyboard(self):
        self.evaluate("document.querySelector('#frontier canvas').focus()")
        shown = "Chart.getChart(document.querySelector('#frontier canvas')).tooltip"
        self.browser.press("ArrowRight")
        first = self.evaluate(f"{shown}.body[0].lines[0]")
        self.browser.press("ArrowRight")
        self.assertNotEqual(self.evaluate(f"{shown}.body[0].lines[0]"), first)
        self.browser.press("Escape")
        self.assertEqual(self.evaluate(f"{shown}.opacity"), 0)

    kept_levels = "[...document.querySelectorAll('.prompt span')].map((s) => s.className)"

    def test_inspector_reacts_to_a_choice(self):
        before = self.evaluate(self.kept_levels)
        self.assertEqual(len(before), 1024)
        self.assertGreater(len(set(before)), 3)
        self.evaluate("document.querySelectorAll('.layer-map button')[4].click()")
        one = self.evaluate(self.kept_levels)
        self.assertNotEqual(one, before)
        self.assertLessEqual(
            {level.split()[0] for level in one}, {"k0", "k6"}
        )  # one set: kept or not
        self.assertIn("layer 6, set 0: keeps", self.text(".status"))
        self.choose("#inspector [data-control=config] select", "tau-0.005")
        self.assertEqual(
            self.evaluate("document.querySelectorAll('.layer-map button').length"), 15 * 9
        )
        self.choose("#inspector [data-control=prompt] select", "1")
        self.assertEqual(len(self.evaluate(self.kept_levels)), 2048)

    def test_inspector_works_with_the_keyboard(self):
        everything = self.evaluate(self.kept_levels)
        self.evaluate("document.querySelector('.layer-map button[tabindex=\"0\"]').focus()")
        self.browser.press("ArrowRight", "ArrowRight", "ArrowRight")
        self.assertIn("layer 4, set 0", self.text(".status"))
        self.assertEqual(
            self.evaluate("document.activeElement.getAttribute('aria-selected')"), "true"
        )
        self.browser.press("ArrowLeft")
        self.assertIn("layer 3, set 0", self.text(".status"))
        self.browser.press("Escape")
        self.assertEqual(self.evaluate(self.kept_levels), everything)
        self.evaluate("document.querySelector('.prompt').focus()")
        self.browser.press("ArrowRight", "ArrowRight")
        self.assertIn("Token 1 ", self.text(".status"))

    def test_inspector_finds_the_answer(self):
        marked = self.evaluate(
            "[...document.querySelectorAll('.prompt .answer')].map((s) => s.textContent).join('')"
        )
        self.assertEqual(marked.strip(), "48213")
        self.evaluate("""[...document.querySelectorAll('#inspector button')]
            .find((b) => b.textContent === 'Go to the answer').click()""")
        self.assertGreater(self.evaluate("document.querySelector('.prompt').scrollTop"), 0)

    def test_dark_by_system_and_by_choice(self):
        light = self.background()
        grid = "Chart.defaults.borderColor"
        light_grid = self.evaluate(grid)
        self.browser.emulate("dark")
        dark = self.background()
        self.assertNotEqual(dark, light)
        self.browser.wait_for(f"{grid} !== {light_grid!r}")
        self.evaluate("document.getElementById('theme').click()")
        self.assertEqual(self.background(), light)
        self.evaluate("document.getElementById('theme').click()")
        self.assertEqual(self.background(), dark)
        self.evaluate("document.getElementById('theme').click()")  # what it stores must not stay

    def test_a_narrow_window_scrolls_only_its_tables(self):
        self.browser.resize(360, 800)
        self.browser.wait_for("document.documentElement.scrollWidth <= 360")

    def test_what_eval_wrote_has_its_page(self):
        page = self.folder / "eval.html"
        self.make_page(DATA / "eval_run.jsonl", page)
        self.assertEqual(
            " ".join(self.sections()),
            "headline frontier tasks needles kl layers inspector about",
        )
        self.assertIn("all 28 sparse layers", self.text(".status"))
        self.browser.requests.remove(page.resolve().as_uri())

    def test_a_search_alone_has_its_page(self):
        lines = (self.folder / "cpu.jsonl").read_text().splitlines(keepends=True)
        tune = self.folder / "tune.jsonl"
        tune.write_text("".join([lines[0], *(line for line in lines if '"type":"tune"' in line)]))
        page = self.folder / "tune.html"
        said = self.make_page(tune, page)
        self.assertIn("candidates of tune", said)
        self.assertIn("chosen: layers", said)
        self.assertEqual(self.sections(), ["tune", "about"])
        self.browser.requests.remove(page.resolve().as_uri())

    def test_prints_in_light(self):
        self.browser.emulate("dark")
        self.browser.pdf(self.folder / "report.pdf")
        self.assertGreater((self.folder / "report.pdf").stat().st_size, 20_000)
        self.browser.wait_for("!printing")


def main():
    if "PageTest" in sys.argv and browser.find_chromium() is None:
        sys.stderr.write("no chromium: install it (setup/packages.sh does) to test the page\n")
        return 1 if os.environ.get("CI") else 77
    return 0 if unittest.main(argv=sys.argv[1:], exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
