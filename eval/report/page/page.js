// The page: its state, the controls at the top, and drawing the sections.

const kSections = [headline, frontier, tasks, needles, klSection, layersSection, tuneSection,
  inspector, about];
const kThemes = ["", "light", "dark"];
const data = JSON.parse(document.getElementById("data").textContent);
const page = {run: 0, length: "all", hidden: new Set()};

function machineOf(run) {
  const machine = run.header.machine ?? {};
  return machine.gpu || machine.cpu || "";
}

// Names of runs tell apart what differs between them.
function runNames() {
  const models = data.runs.map((run) => run.model);
  return data.runs.map((run, i) => {
    const same = models.filter((model) => model === models[i]).length > 1;
    const machine = same && machineOf(run) ? `${run.model}, ${machineOf(run)}` : run.model;
    const twins = data.runs.filter((other) => other.model === run.model &&
      machineOf(other) === machineOf(run)).length > 1;
    return twins ? `${run.model}, ${run.file.split("/").pop()}` : machine;
  });
}

function viewOf(run) {
  const known = run.summaries.all.configs.map((c) => c.config);
  return {run, length: page.length, styles: configStyles(run), redraw: drawSection,
    shown: new Set(known.filter((name) => !page.hidden.has(name)))};
}

// What to show --------------------------------------------------------------------------------

function configMenu(run, styles) {
  const names = run.summaries.all.configs.map((c) => c.config);
  const label = el("summary", {});
  const update = () => {
    const shown = names.filter((name) => !page.hidden.has(name)).length;
    label.textContent = `${shown} of ${names.length} configurations`;
  };
  const show = (shown) => {
    for (const name of names) page.hidden[shown.includes(name) ? "delete" : "add"](name);
    update();
    drawSections();
  };
  const preset = (text, wanted) => el("button", {type: "button", onclick() {
    for (const box of boxes) box.checked = wanted(box.value);
    show(names.filter(wanted));
  }}, text);
  update();
  const menu = el("details", {class: "shown", onkeydown(event) {
    if (event.key !== "Escape") return;
    this.open = false;
    label.focus();
  }}, label, el("div", {},
    preset("All", () => true), preset("Without baselines", (name) => !styles.get(name).baseline),
    names.map((name) => el("label", {}, el("input", {type: "checkbox", value: name,
      checked: !page.hidden.has(name), onchange: () => show(boxes.filter((box) => box.checked)
        .map((box) => box.value))}), swatch(styles.get(name)), name))));
  const boxes = [...menu.querySelectorAll("input")];
  return menu;
}

function drawControls() {
  const run = data.runs[page.run];
  const names = runNames();
  const redrawAll = () => {
    drawControls();
    drawSections();
  };
  document.getElementById("controls").replaceChildren(...[
    data.runs.length > 1 ? select("Run", names.map((name, i) => [i, name]), page.run, (value) => {
      page.run = Number(value);
      page.length = "all";
      redrawAll();
      document.querySelector("#controls select").focus();
    }) : null,
    run.lengths.length > 1 ? segments("Prompt tokens", [["all", "all"],
      ...run.lengths.map((length) => [length, count(length)])], page.length, (value) => {
      page.length = value;
      drawSections();
    }) : null,
    run.summaries.all.configs.length > 1 ? configMenu(run, configStyles(run)) : null,
  ].filter(Boolean));
}

// Sections ------------------------------------------------------------------------------------

// Every run on one table, so that several files can be compared at a glance.
function overview() {
  if (data.runs.length < 2) return [];
  const names = runNames();
  const rows = data.runs.flatMap((run, i) => run.summaries.all.configs
    .filter((c) => !page.hidden.has(c.config)).map((c, place) => [
      place ? el("td", {}) : el("th", {scope: "row"}, names[i], el("small", {}, machineOf(run))),
      el("td", {class: "text"}, swatch(configStyles(run).get(c.config)), c.config),
      c.config === run.dense ? "reference" : withInterval(c.loss, points), kl(meanOf(c.kl)),
      percent(c.work), duration(c.prefill_ms), times(c.speedup)]));
  return [el("section", {id: "runs"}, el("h2", {}, "All runs"),
    el("p", {class: "intro"},
      "All lengths of each run. The sections below show the run chosen above."),
    scrolling(table(["Run", el("th", {scope: "col", class: "text"}, "Configuration"),
      "Loss in points", "KL to dense", "Attention work", "Prefill", "Speed-up"], rows),
      "All runs"))];
}

function makeSection(section) {
  const host = el("div", {});
  const node = el("section", {id: section.id, "aria-labelledby": `${section.id}-title`},
    el("h2", {id: `${section.id}-title`}, section.title),
    el("p", {class: "intro"}, section.intro.replace(/\s+/g, " ")), host);
  node.host = host;
  return node;
}

function drawSections() {
  applyChartTheme();
  const main = document.getElementById("main");
  const view = viewOf(data.runs[page.run]);
  destroyCharts(main);
  const sections = kSections.map((make) => make(view)).filter(Boolean);
  const nodes = sections.map(makeSection);
  const runs = overview();
  const links = [
    ...(runs.length ? [["runs", "All runs"]] : []), ...sections.map((s) => [s.id, s.name])];
  main.replaceChildren(el("nav", {class: "contents", "aria-label": "Sections"},
    links.map(([id, title]) => el("a", {href: `#${id}`}, title))), ...runs, ...nodes);
  sections.forEach((section, i) => section.draw(nodes[i].host));
}

// One section again, after a choice of its own.
function drawSection(id) {
  const view = viewOf(data.runs[page.run]);
  const section = kSections.map((make) => make(view)).find((s) => s?.id === id);
  const {host} = document.getElementById(id);
  destroyCharts(host);
  host.replaceChildren();
  section.draw(host);
  host.querySelector("figcaption select")?.focus();
}

// Theme and print -----------------------------------------------------------------------------

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const names = {"": "system", light: "light", dark: "dark"};
  document.getElementById("theme").textContent = `Theme: ${names[theme]}`;
}

function startTheme() {
  let theme = "";
  // A page opened from a file may not store anything.
  try { theme = localStorage.getItem("tokensieve-theme") ?? ""; } catch { /* stays "" */ }
  setTheme(kThemes.includes(theme) ? theme : "");
  document.getElementById("theme").addEventListener("click", () => {
    const next = kThemes[(kThemes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3];
    setTheme(next);
    try { localStorage.setItem("tokensieve-theme", next); } catch { /* not kept */ }
    drawControls();
    drawSections();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSections);
}

function startPrint() {
  let theme = "";
  window.addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme ?? "";
    setTheme("light");
    printing = true;
    drawSections();
  });
  window.addEventListener("afterprint", () => {
    setTheme(theme);
    printing = false;
    drawSections();
  });
}

const lead = (runs) => {
  const results = runs.reduce((sum, run) => sum + run.results, 0);
  const models = [...new Set(runs.map((run) => run.model))].join(" and ");
  return `${count(results)} results of ${models}. Token sparse attention reads a long prompt ` +
    "with fewer tokens in each layer; this page shows what that does to the answers, beside what " +
    "it saves.";
};

document.getElementById("lead").textContent = lead(data.runs);
document.addEventListener("click", ({target}) => {
  const open = document.querySelector(".shown[open]");
  if (open && !open.contains(target)) open.open = false;
});
startTheme();
startPrint();
drawControls();
drawSections();
