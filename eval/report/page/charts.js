// Charts: colours of the theme, error bars, names beside points, keyboard, and a table behind each.

// Sparse configurations are cool colours and discs; baselines warm, dashed and diamonds.
const kColors = {
  light: {reference: ["#1b1f23", "#8a949e"],
    sparse: ["#1f55c8", "#0a8f8f", "#7a45d6", "#2f9e44", "#1287c9", "#5c6b0a"],
    baseline: ["#d9480f", "#c2255c", "#b08900", "#9c36b5", "#8a4b2a", "#e0607e"]},
  dark: {reference: ["#e8ebee", "#8a949e"],
    sparse: ["#86aaff", "#4fd1c5", "#bb9bff", "#7be08f", "#6cc7f7", "#c7d64f"],
    baseline: ["#ff9f6b", "#ff7aa8", "#f2c14e", "#e599f7", "#d9a07a", "#ffb3c1"]},
};

// On paper charts have a fixed size in CSS pixels: the browser lays out again after they are drawn.
let printing = false;
const kPaper = {wide: [680, 330], narrow: [330, 230]};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// The value of a custom property as a colour that a canvas understands.
function themeColor(name) {
  const probe = el("i", {style: `color: var(${name})`});
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

const groupOf = (kind) => kind === "dense" || kind === "stock" ? "reference"
  : kind === "sparse" ? "sparse" : "baseline";

// Name of each configuration of a run -> how it is drawn.
function configStyles(run) {
  const used = {reference: 0, sparse: 0, baseline: 0};
  const colors = kColors[isDark() ? "dark" : "light"];
  const styles = new Map();
  for (const config of run.configs) {
    const group = groupOf(config.kind);
    const place = group === "reference" ? Number(config.kind === "stock") : used[group]++;
    styles.set(config.name, {
      color: colors[group][place % colors[group].length],
      baseline: group === "baseline",
      dash: group === "baseline" ? [5, 4] : place >= colors[group].length ? [2, 2] : [],
      point: group === "baseline" ? "rectRot" : group === "reference" ? "rect" : "circle",
    });
  }
  return styles;
}

// Whiskers of points that have `low` and `high`.
const errorBars = {
  id: "errorBars",
  beforeDatasetDraw(chart, {index, meta}) {
    const {ctx, chartArea, scales} = chart;
    const dataset = chart.data.datasets[index];
    if (meta.hidden || !dataset.data.some((point) => point?.high !== undefined)) return;
    ctx.save();
    ctx.beginPath();
    ctx.rect(chartArea.left, chartArea.top, chartArea.width, chartArea.height);
    ctx.clip();
    ctx.strokeStyle = dataset.borderColor;
    ctx.globalAlpha = 0.55;
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    dataset.data.forEach((point, i) => {
      if (point?.high === undefined || point.low === point.high) return;
      const x = meta.data[i].x;
      const [low, high] = [point.low, point.high].map((y) => scales.y.getPixelForValue(y));
      ctx.moveTo(x, low);
      ctx.lineTo(x, high);
      for (const y of [low, high]) {
        ctx.moveTo(x - 4, y);
        ctx.lineTo(x + 4, y);
      }
    });
    ctx.stroke();
    ctx.restore();
  },
};

// Names beside points of datasets with `named: true`, moved down where they would overlap.
const pointNames = {
  id: "pointNames",
  afterDatasetsDraw(chart) {
    const {ctx, chartArea} = chart;
    const taken = chart.data.datasets.flatMap((dataset, index) => dataset.named
      ? chart.getDatasetMeta(index).data.map(({x, y}) => ({y, left: x - 6, right: x + 6})) : []);
    ctx.save();
    ctx.font = `${Chart.defaults.font.size}px ${Chart.defaults.font.family}`;
    ctx.textBaseline = "middle";
    ctx.strokeStyle = themeColor("--page");
    ctx.lineWidth = 4;
    ctx.lineJoin = "round";
    chart.data.datasets.forEach((dataset, index) => {
      if (!dataset.named || !chart.isDatasetVisible(index)) return;
      chart.getDatasetMeta(index).data.forEach((point, i) => {
        const text = dataset.data[i].name ?? dataset.label;
        const width = ctx.measureText(text).width;
        const left = point.x + 9 + width > chartArea.right;
        const x = left ? point.x - 9 - width : point.x + 9;
        const overlaps = (y) => taken.some((box) => Math.abs(box.y - y) < 13 && x < box.right &&
          x + width > box.left);
        const y = [0, -13, 13, -26, 26, -39, 39].map((shift) => point.y + shift)
          .find((place) => !overlaps(place) && place > chartArea.top && place < chartArea.bottom);
        if (y === undefined) return;  // still in the tooltip and the table
        taken.push({y, left: x, right: x + width});
        ctx.strokeText(text, x, y);  // keeps lines behind the name apart from it
        ctx.fillStyle = dataset.borderColor;
        ctx.fillText(text, x, y);
      });
    });
    ctx.restore();
  },
};
Chart.register(errorBars, pointNames);

function applyChartTheme() {
  Chart.defaults.color = themeColor("--ink-soft");
  Chart.defaults.borderColor = themeColor("--line");
  Chart.defaults.font.family = getComputedStyle(document.documentElement).fontFamily;
  Chart.defaults.font.size = printing ? 9 : 12;
  Chart.defaults.animation = false;  // nothing to learn from moving bars, and prints at once
  Chart.defaults.maintainAspectRatio = false;
  Chart.defaults.devicePixelRatio = printing ? 4 : Math.max(2, window.devicePixelRatio);
  Chart.defaults.plugins.legend.display = false;  // HTML instead: see legend()
  Object.assign(Chart.defaults.plugins.tooltip, {
    backgroundColor: themeColor("--ink"), titleColor: themeColor("--page"),
    bodyColor: themeColor("--page"), displayColors: false, padding: 10, cornerRadius: 6});
}

function axis(title, {format = (value) => value, ...options} = {}) {
  return {title: {display: true, text: title}, border: {color: themeColor("--line-strong")},
    grid: {tickLength: 4}, ...options,
    ticks: {
      maxRotation: 0, autoSkipPadding: 12, callback: (value) => format(value), ...options.ticks}};
}

// A log axis with room around `values`, and ticks at 1, 2 and 5.
function logAxis(title, values) {
  const positive = values.filter((value) => value > 0);
  const isRound = (value) => [1, 2, 5].some((digit) => {
    const decade = Math.log10(value / digit);
    return Math.abs(decade - Math.round(decade)) < 1e-9;
  });
  return axis(title, {type: "logarithmic", format: plain,
    min: Math.min(...positive) / 1.25, max: Math.max(...positive) * 1.25,
    afterBuildTicks: (scale) => {
      scale.ticks = scale.ticks.filter(({value}) => isRound(value));
    }});
}

function legend(entries) {
  return el("ul", {class: "legend"}, entries.map(([name, style]) =>
    el("li", {}, swatch(style), name)));
}

const flatPoints = (chart) => chart.data.datasets.flatMap((dataset, datasetIndex) =>
  dataset.passive ? [] : dataset.data.map((_, index) => ({datasetIndex, index})));

// Left and right walk over the points, as the pointer would; Escape leaves them.
function addKeyboard(canvas, chart) {
  let place = -1;
  const show = (points) => {
    chart.setActiveElements(points);
    chart.tooltip.setActiveElements(points, {x: 0, y: 0});
    chart.update("none");
  };
  canvas.addEventListener("keydown", (event) => {
    const points = flatPoints(chart);
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step && points.length) {
      place = (Math.max(place, step > 0 ? -1 : 0) + step + points.length) % points.length;
      show([points[place]]);
    } else if (event.key === "Escape") {
      place = -1;
      show([]);
    } else {
      return;
    }
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => show([]));
}

// A chart's figure. `spec`: title, description (what a listener needs), type, datasets, labels,
// scales, tooltip(point) -> lines, legend entries, controls, wide, columns and rows of its table.
// A canvas needs its place in the document to know its size, so `host` gets the figure first.
function drawChart(host, spec) {
  const [width, height] = printing ? kPaper[spec.wide ? "wide" : "narrow"] : [];
  const canvas = el("canvas", {width, height, role: "img", tabindex: "0", "aria-label":
    `${spec.title}. ${spec.description} Arrow keys step through the points; a table follows.`});
  const figure = el("figure", {},
    el("figcaption", {}, el("h3", {}, spec.title), spec.controls ?? []),
    el("div", {class: spec.wide ? "canvas wide" : "canvas"}, canvas),
    spec.legend ? legend(spec.legend) : [], dataTable(spec.columns, spec.rows));
  host.append(figure);
  const chart = new Chart(canvas, {
    type: spec.type,
    data: {labels: spec.labels, datasets: spec.datasets},
    options: {
      responsive: !printing,
      scales: spec.scales,
      interaction: {mode: "nearest", intersect: false},
      layout: {padding: {right: 8, top: 8}},
      plugins: {tooltip: {filter: (item) => !item.dataset.passive,
        callbacks: {title: () => "", label: (item) => spec.tooltip(item)}}},
    },
  });
  addKeyboard(canvas, chart);
  return figure;
}

function lineStyle(style) {
  return {borderColor: style.color, backgroundColor: style.color, borderDash: style.dash,
    borderWidth: 2, pointStyle: style.point, pointRadius: 4, pointHoverRadius: 6, tension: 0};
}

function destroyCharts(host) {
  for (const canvas of host.querySelectorAll("canvas")) Chart.getChart(canvas)?.destroy();
}
