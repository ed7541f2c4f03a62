// The sections of the page. Each takes the view and returns {id, name, title, intro, draw(host)},
// or null when the run has nothing for it. `view`: run, length ("all" or a number), shown (names), styles.

const summaryOf = (view) => view.run.summaries[view.length] ?? view.run.summaries.all;
const shownSummaries = (view) => summaryOf(view).configs.filter((c) => view.shown.has(c.config));
const lengthName = (view) => view.length === "all" ? "all lengths" : tokens(view.length);
const configOf = (run, name) => run.configs.find((config) => config.name === name);

function configHeader(view, name, details = true) {
  const config = configOf(view.run, name);
  return el("th", {scope: "row"}, swatch(view.styles.get(name)), name,
    details ? el("small", {}, config.kind === "sparse" && config.family || config.note) : null);
}

function estimateCell(estimate, format, more = null) {
  if (!estimate) return kNone;
  return el("td", {}, format(estimate.mean), el("small", {}, interval(estimate, format)),
    more && el("small", {}, more));
}

// How many of dense's full answers are gone, and how many more there are.
function brokenText(c) {
  if (!c.broken) return "";
  const gained = c.repaired_cases ? `, ${count(c.repaired_cases)} gained` : "";
  return `${count(c.broken_cases)} of ${count(c.broken.count)} lost${gained}`;
}

function tiles(view, summary) {
  const subject = summary.configs.find((c) => configOf(view.run, c.config).kind === "sparse");
  if (!subject) return [];
  const tile = (name, figure, note) => el("div", {}, el("dt", {}, name),
    el("dd", {class: "figure"}, figure), el("dd", {class: "small soft"}, note));
  return [
    el("h3", {}, swatch(view.styles.get(subject.config)), `${subject.config}, ${lengthName(view)}`),
    el("dl", {class: "tiles"},
      tile("Loss in points", points(meanOf(subject.loss)),
        subject.loss ? `${interval(subject.loss, points)}, ${brokenText(subject)}` : "not measured"),
      tile("KL to dense", kl(meanOf(subject.kl)),
        subject.kl ? `same best token ${percent(meanOf(subject.top1))}` : "not measured"),
      tile("Attention work", percent(subject.work), "of the causal query-key pairs"),
      tile("Prefill", duration(subject.prefill_ms), subject.speedup
        ? `${times(subject.speedup)} as fast as ${summary.speed_reference}` : "no reference to compare")),
  ];
}

function headlineRow(view, c) {
  const isDense = c.config === view.run.dense;
  return [
    configHeader(view, c.config), estimateCell(c.score, points),
    isDense ? el("td", {class: "soft"}, "reference") : estimateCell(c.loss, points, brokenText(c)),
    estimateCell(c.kl, kl), estimateCell(c.top1, percent),
    isDense ? el("td", {class: "soft"}, "reference") : estimateCell(c.follow_up_loss, points),
    el("td", {}, percent(c.work), c.work === null ? null
      : el("span", {class: "meter", "aria-hidden": "true"}, el("i", {"--share": cssShare(c.work)}))),
    duration(c.prefill_ms), times(c.speedup),
  ];
}

function headline(view) {
  const summary = summaryOf(view);
  const columns = ["Configuration", "Score", "Loss against dense", "KL to dense", "Same best token",
    "Follow-up loss", "Attention work", "Prefill",
    summary.speed_reference ? `Speed-up over ${summary.speed_reference}` : "Speed-up"];
  return {
    id: "headline", name: "Headline", title: "Does it answer the same, and how much faster?",
    intro: `Scores and losses are points of 100, on what dense attention solves (a mean score of 50 or
      more): ${summary.solved} of ${summary.solved + summary.unsolved.length} combinations of task and
      length. Below each stands its 95 % bootstrap interval. A loss compares the same cases with and without the method; lost are
      those that dense answers in full and the configuration does not. Follow-up questions are asked about the same document after it was read for the first question.`,
    draw(host) {
      const configs = shownSummaries(view);
      host.append(...tiles(view, summary),
        scrolling(table(columns, configs.map((c) => headlineRow(view, c)),
          {className: "headline", caption: `${view.run.model}, ${lengthName(view)}`}), "Headline table"));
      if (summary.unsolved.length) {
        host.append(el("p", {class: "note"}, "Dense attention itself fails these, so they say nothing " +
          `about a loss and do not count: ${summary.unsolved.map(taskName).join(", ")}.`));
      }
    },
  };
}

// Accuracy against cost ------------------------------------------------------------------------

const kCosts = {
  prefill_ms: ["Prefill time per prompt", duration],
  work: ["Attention work (share of the causal pairs)", percent],
  attention_ms: ["Attention time per prompt", duration],
};
const kDamages = {
  loss: ["Loss in points", points],
  kl: ["KL to dense", kl],
  follow_up_loss: ["Follow-up loss in points", points],
};
const frontierChoice = {cost: null, damage: null};

// Points that no other beats on both axes, cheapest first.
function paretoFront(candidates) {
  const sorted = [...candidates].sort((a, b) => a.x - b.x || a.y - b.y);
  let best = Infinity;
  return sorted.filter((point) => point.y < best && ((best = point.y), true));
}

function frontierPoints(view) {
  const {cost, damage} = frontierChoice;
  return shownSummaries(view).map((c) => {
    const isDense = c.config === view.run.dense;
    const value = c[damage] ?? (isDense ? {mean: 0, low: 0, high: 0, count: 0} : null);
    const drawable = value && (damage !== "kl" || value.mean > 0);  // a log axis has no zero
    return drawable && c[cost] !== null ? {...value, x: c[cost], y: value.mean, name: c.config} : null;
  }).filter(Boolean);
}

function drawFrontier(view, host) {
  const {cost, damage} = frontierChoice;
  const [costName, costFormat] = kCosts[cost];
  const [damageName, damageFormat] = kDamages[damage];
  const all = frontierPoints(view);
  const front = paretoFront(all);
  const redraw = (key) => (value) => {
    frontierChoice[key] = value;
    destroyCharts(host);
    host.replaceChildren();
    drawFrontier(view, host);
  };
  const available = (choices) => Object.entries(choices)
    .filter(([key]) => summaryOf(view).configs.some((c) => c[key] !== null))
    .map(([key, [name]]) => [key, name]);
  drawChart(host, {
    title: "Accuracy against cost", wide: true, type: "scatter",
    description: `${damageName} over ${costName.toLowerCase()}, one point per configuration, best at
      the bottom left. On the frontier: ${front.map((p) => p.name).join(", ")}.`,
    controls: [select("Across", available(kCosts), cost, redraw("cost")),
      select("Up", available(kDamages), damage, redraw("damage"))],
    datasets: [
      ...all.map((p) => ({label: p.name, data: [p], named: true,
        ...lineStyle(view.styles.get(p.name)), pointRadius: 6, pointHoverRadius: 8})),
      {label: "frontier", data: front, showLine: true, stepped: "before", pointRadius: 0, passive: true,
        borderColor: themeColor("--line-strong"), borderWidth: 1.5, borderDash: [3, 3]},
    ].map((d) => d.passive ? {...d, data: d.data.map(({x, y}) => ({x, y}))} : d),
    scales: {x: axis(costName, {grace: "12%", format: costFormat}),
      y: damage === "kl" ? logAxis(damageName, all.flatMap((p) => [p.low, p.high]))
        : axis(damageName, {format: count,
          suggestedMin: Math.min(...all.map((p) => p.low)), suggestedMax: Math.max(...all.map((p) => p.high))})},
    tooltip: ({raw}) => [raw.name, `${costName}: ${costFormat(raw.x)}`,
      `${damageName}: ${damageFormat(raw.y)} (${interval(raw, damageFormat)})`],
    columns: ["Configuration", costName, damageName, "95 % interval", "On the frontier"],
    rows: all.map((p) => [p.name, costFormat(p.x), damageFormat(p.y),
      interval(p, damageFormat), front.includes(p) ? "yes" : "no"]),
  });
}

function frontier(view) {
  const configs = summaryOf(view).configs;
  const first = (choices) => Object.keys(choices).find((key) => configs.some((c) => c[key] !== null));
  const has = (choices, key) => key && configs.some((c) => c[key] !== null);
  if (!has(kCosts, frontierChoice.cost)) frontierChoice.cost = first(kCosts);
  if (!has(kDamages, frontierChoice.damage)) frontierChoice.damage = first(kDamages);
  if (!frontierChoice.cost || !frontierChoice.damage) return null;
  return {
    id: "frontier", name: "Frontier", title: "What does the speed cost?",
    intro: `Cheaper is further left, closer to dense is further down. The dotted steps join the
      configurations that no other beats on both.`,
    draw: (host) => drawFrontier(view, host),
  };
}

// Tasks ----------------------------------------------------------------------------------------

function taskRow(view, row, names) {
  const reference = row.scores[view.run.dense];
  const cells = names.map((name) => {
    const own = row.scores[name];
    if (!own) return el("td", {}, kNone);
    const change = reference && name !== view.run.dense ? own.score - reference.score : null;
    return el("td", {class: "heat", "--value": `${own.score}%`}, points(own.score),
      el("small", {}, change === null ? cases(own.count)
        : Math.abs(change) < 0.05 ? "same" : (change > 0 ? "+" : "") + points(change)));
  });
  const tag = row.counts ? null
    : el("span", {class: "tag"}, reference ? "dense fails, does not count" : "no dense run, does not count");
  const cellsOfRow = [el("th", {scope: "row"}, taskName(row.task), tag,
    el("small", {}, tokens(row.length))), ...cells];
  cellsOfRow.className = row.counts ? "" : "muted";
  return cellsOfRow;
}

function tasks(view) {
  const rows = view.run.tasks.filter((row) => view.length === "all" || row.length === view.length);
  if (!rows.length) return null;
  const names = view.run.configs.map((c) => c.name)
    .filter((name) => view.shown.has(name) && rows.some((row) => row.scores[name]));
  return {
    id: "tasks", name: "Tasks", title: "Which tasks suffer?",
    intro: `Mean score of every task, and the change against dense. Hatched rows are tasks that dense
      attention fails too: their scores are shown, and count for nothing above.`,
    draw: (host) => host.append(scrolling(table(["Task", ...names],
      rows.map((row) => taskRow(view, row, names)), {className: "tasks"}), "Scores by task")),
  };
}

// Needles --------------------------------------------------------------------------------------

const needleChoice = {task: ""};

function needleMap(view, name, cells, lengths) {
  const rows = view.run.needles.rows.map((label, row) => [label, ...lengths.map((length) => {
    const cell = cells.find((c) => c.row === row && c.length === length);
    if (!cell) return el("td", {class: "soft"}, kNone);
    return el("td", {class: "heat", "--value": `${cell.score}%`,
      title: `${name}: ${points(cell.score)} over ${cases(cell.count)}`}, count(cell.score));
  })]);
  return table(["depth", ...lengths.map(count)], rows, {caption: name});
}

function drawNeedles(view, host) {
  const cells = view.run.needles.cells.filter((c) => c.task === needleChoice.task);
  const lengths = view.run.lengths.filter((length) =>
    (view.length === "all" || length === view.length) && cells.some((c) => c.length === length));
  const names = [...new Set(view.run.needles.cells.map((c) => c.task))];
  const maps = view.run.configs.map((c) => c.name).filter((name) => view.shown.has(name))
    .map((name) => [name, cells.filter((c) => c.config === name)]).filter(([, own]) => own.length);
  host.replaceChildren(
    el("div", {class: "inspector-controls"},
      select("Task", names.map((name) => [name, name ? taskName(name) : "all with a needle"]),
        needleChoice.task, (task) => {
          needleChoice.task = task;
          drawNeedles(view, host);
        }),
      el("span", {class: "scale"}, "score 0", el("i"), "100")),
    el("div", {class: "maps"}, maps.map(([name, own]) => needleMap(view, name, own, lengths))));
}

function needles(view) {
  if (!view.run.needles.cells.length) return null;
  if (!view.run.needles.cells.some((c) => c.task === needleChoice.task)) needleChoice.task = "";
  return {
    id: "needles", name: "Needles", title: "Are needles found at every depth?",
    intro: `Mean score by prompt length (columns, in tokens) and by where in the document the needle
      stands (rows; 0 % is the beginning).`,
    draw: (host) => drawNeedles(view, host),
  };
}

// KL -------------------------------------------------------------------------------------------

// `lines`: [name, [[x, estimate], ...]].
const intervalEnds = (lines) => lines.flatMap(([, line]) => line.flatMap(([, e]) => [e.low, e.high]));

// Of a run with one length only.
function drawKlBars(view, host, lines, length) {
  const values = lines.map(([, line]) => line[0][1]);
  const names = lines.map(([name]) => name);
  drawChart(host, {
    title: `KL at ${tokens(length)}`, type: "bar", labels: names,
    description: `One bar per configuration, log scale: ${names.map((name, i) =>
      `${name} ${kl(values[i].mean)}`).join(", ")}.`,
    datasets: [{label: "KL", borderColor: themeColor("--ink"),
      backgroundColor: names.map((name) => view.styles.get(name).color),
      data: values.map((e, x) => ({...e, x, y: e.mean}))}],
    scales: {x: axis("", {type: "category", labels: names, grid: {display: false},
      format: (index) => names[index]}),
      y: logAxis("KL(dense || configuration), nats", values.flatMap((e) => [e.low, e.high]))},
    tooltip: ({label, dataIndex}) => [label, `KL ${withInterval(values[dataIndex], kl)}`],
    columns: ["Configuration", "KL"],
    rows: names.map((name, i) => [name, withInterval(values[i], kl)]),
  });
}

// One line per configuration over the lengths of the run.
function drawKlByLength(view, host) {
  const {lengths, summaries} = view.run;
  const names = shownSummaries({...view, length: "all"}).map((c) => c.config);
  const of = (name, length) => summaries[length].configs.find((c) => c.config === name)?.kl ?? null;
  const lines = names.map((name) => [name, lengths.map((length) => [length, of(name, length)])
    .filter(([, e]) => e && e.mean > 0)]).filter(([, line]) => line.length);
  if (!lines.length) return;
  const measured = lengths.filter((length) => lines.some(([, line]) => line.some(([l]) => l === length)));
  if (measured.length === 1) return drawKlBars(view, host, lines, measured[0]);
  drawChart(host, {
    title: "KL by prompt length", type: "line",
    description: `One line per configuration, log scale: ${lines.map(([name, line]) => `${name} from
      ${kl(line[0][1].mean)} to ${kl(line.at(-1)[1].mean)}`).join(", ")}.`,
    datasets: lines.map(([name, line]) => ({label: name, ...lineStyle(view.styles.get(name)),
      data: line.map(([x, e]) => ({...e, x, y: e.mean}))})),
    scales: {x: axis("Prompt tokens", {type: "logarithmic", format: count,
      min: measured[0] / 1.15, max: measured.at(-1) * 1.15,
      afterBuildTicks: (scale) => { scale.ticks = measured.map((value) => ({value})); }}),
      y: logAxis("KL(dense || configuration), nats", intervalEnds(lines))},
    tooltip: ({dataset, raw}) => [dataset.label, `${tokens(raw.x)}: KL ${withInterval(raw, kl)}`],
    legend: lines.map(([name]) => [name, view.styles.get(name)]),
    columns: ["Configuration", ...measured.map(tokens)],
    rows: names.map((name) => [name, ...measured.map((length) => withInterval(of(name, length), kl))]),
  });
}

const kBudgetNames = {tau: "tau: share of score mass that may be dropped",
  keep_ratio: "Keep ratio: share of the prefix that is kept", keep_count: "Kept prefix tokens"};

// Sweeps: configurations that differ in nothing but the budget, at least two of them.
function sweepsOf(view) {
  const sweeps = new Map();
  for (const config of view.run.configs) {
    if (!config.budget || config.kind !== "sparse") continue;
    const key = `${config.budget.name}|${config.family}`;
    if (!sweeps.has(key)) sweeps.set(key, []);
    sweeps.get(key).push(config);
  }
  const values = (configs) => new Set(configs.map((config) => config.budget.value));
  return [...sweeps.values()].filter((configs) => values(configs).size > 1)
    .map((configs) => configs.sort((a, b) => a.budget.value - b.budget.value));
}

function drawKlByBudget(view, host, configs) {
  const {lengths, summaries} = view.run;
  const budget = configs[0].budget.name;
  const of = (config, length) =>
    summaries[length].configs.find((c) => c.config === config.name)?.kl ?? null;
  const lines = lengths.map((length) => [length, configs.map((config) => [config, of(config, length)])
    .filter(([, e]) => e && e.mean > 0)]).filter(([, line]) => line.length);
  if (!lines.length) return;
  const colors = kColors[isDark() ? "dark" : "light"].sparse;
  const styles = new Map(lines.map(([length], i) => [length,
    {color: colors[i % colors.length], dash: [], point: "circle"}]));
  const values = configs.map((config) => config.budget.value);
  drawChart(host, {
    title: budget === "tau" ? "KL by tau" : "KL by keep ratio", type: "line",
    description: `${configs[0].family}. One line per prompt length, log scale.`,
    datasets: lines.map(([length, line]) => ({label: tokens(length), ...lineStyle(styles.get(length)),
      data: line.map(([config, e]) => ({...e, x: config.budget.value, y: e.mean,
        name: config.name}))})),
    scales: {x: axis(kBudgetNames[budget], {type: "logarithmic", min: values[0] / 1.2,
      max: values.at(-1) * 1.2,
      afterBuildTicks: (scale) => { scale.ticks = values.map((value) => ({value})); }}),
      y: logAxis("KL(dense || configuration), nats", intervalEnds(lines))},
    tooltip: ({dataset, raw}) => [raw.name, `${dataset.label}: KL ${withInterval(raw, kl)}`],
    legend: lines.map(([length]) => [tokens(length), styles.get(length)]),
    columns: ["Configuration", ...lengths.map(tokens)],
    rows: configs.map((config) => [config.name,
      ...lengths.map((length) => withInterval(of(config, length), kl))]),
  });
}

function klSection(view) {
  const hasKl = view.run.summaries.all.configs.some((c) => c.kl && c.kl.mean > 0);
  if (!hasKl) return null;
  return {
    id: "kl", name: "KL", title: "How far do the predictions move?",
    intro: `Kullback-Leibler divergence of the next-token distributions on real text, dense against
      each configuration. It shows damage long before a needle is missed; 0 is identical.`,
    draw(host) {
      const grid = el("div", {class: "charts"});
      host.append(grid);
      drawKlByLength(view, grid);
      for (const configs of sweepsOf(view)) drawKlByBudget(view, grid, configs);
    },
  };
}

// Layers ---------------------------------------------------------------------------------------

const kLayerMeasures = {keep_ratio: ["Keep ratio", percent], work: ["Attention work", percent],
  attention_ms: ["Attention time", duration]};
const layerChoice = {measure: "keep_ratio"};

function drawLayers(view, host) {
  const layers = (view.run.layers[view.length] ?? []).filter((l) => view.shown.has(l.config));
  const {measure} = layerChoice;
  const [name, format] = kLayerMeasures[measure];
  const numbers = [...new Set(layers.flatMap((l) => l.layers.map((layer) => layer.layer)))]
    .sort((a, b) => a - b);
  const value = (own, number) => own.layers.find((layer) => layer.layer === number)?.[measure] ?? null;
  drawChart(host, {
    title: `${name} by layer`, type: "line", labels: numbers,
    description: `One line per configuration over ${numbers.length} layers, ${lengthName(view)}.`,
    controls: [select("Show", Object.entries(kLayerMeasures).map(([key, [text]]) => [key, text]), measure,
      (chosen) => {
        layerChoice.measure = chosen;
        view.redraw("layers");
      })],
    datasets: layers.map((own) => ({label: own.config, ...lineStyle(view.styles.get(own.config)),
      pointRadius: 2.5, data: numbers.map((number) => value(own, number))})),
    scales: {x: axis("Layer", {format: (index) => numbers[index]}),
      y: axis(name, {beginAtZero: true, format})},
    tooltip: ({dataset, label, parsed}) => {
      const reason = layers.find((own) => own.config === dataset.label).layers
        .find((layer) => String(layer.layer) === String(label))?.reason;
      return [dataset.label, `layer ${label}: ${format(parsed.y)}`, ...(reason ? [reason] : [])];
    },
    legend: layers.map((own) => [own.config, view.styles.get(own.config)]),
    columns: ["Layer", ...layers.map((own) => own.config)],
    rows: numbers.map((number) => [String(number), ...layers.map((own) => format(value(own, number)))]),
  });
}

function drawDrift(view, host) {
  const sparse = view.run.configs.find((c) => c.kind === "sparse" && c.sparse_layers.length);
  const isSparse = (layer) => sparse?.sparse_layers.includes(layer);
  const [on, off] = [themeColor("--accent"), themeColor("--line-strong")];
  const {drift} = view.run;
  const highest = drift.indexOf(Math.max(...drift));
  drawChart(host, {
    title: "Drift by layer", type: "bar", labels: drift.map((_, layer) => layer),
    description: `How much each layer changes the hidden state, as a share of the sum; most in layer
      ${highest}.`,
    datasets: [{label: "drift", data: drift,
      backgroundColor: drift.map((_, layer) => isSparse(layer) ? on : off)}],
    scales: {x: axis("Layer", {grid: {display: false}, format: (layer) => layer}),
      y: axis("Share of the drift", {format: percent, beginAtZero: true})},
    tooltip: ({label, parsed}) => `layer ${label}: ${percent(parsed.y)}${
      isSparse(label) ? `, sparse in ${sparse.name}` : ""}`,
    legend: sparse ? [[`sparse in ${sparse.name}`, {color: on}], ["dense", {color: off}]] : null,
    columns: ["Layer", "Drift", "Runs"],
    rows: drift.map((value, layer) => [String(layer), percent(value), isSparse(layer) ? "sparse" : "dense"]),
  });
}

function layersSection(view) {
  const hasLayers = (view.run.layers[view.length] ?? []).length > 0;
  if (!hasLayers && !view.run.drift.length) return null;
  return {
    id: "layers", name: "Layers", title: "What does each layer keep?",
    intro: `Means over the cases. A layer at 100 % runs dense: it is not in the profile, or a prompt is
      too short. How much each head keeps of one prompt is in the inspector below.`,
    draw(host) {
      const grid = el("div", {class: "charts"});
      host.append(grid);
      if (hasLayers) drawLayers(view, grid);
      if (view.run.drift.length) drawDrift(view, grid);
    },
  };
}

// Tune -----------------------------------------------------------------------------------------

function tuneSection(view) {
  const {tune} = view.run;
  if (!tune.length) return null;
  const front = paretoFront(tune.map((step, i) => ({x: step.work, y: step.kl, i})));
  const [on, off] = [themeColor("--accent"), themeColor("--line-strong")];
  const describe = (step) => `${step.layers.length} sparse layers, ${Object.entries(step.select ?? {})
    .map(([key, value]) => `${key} ${value}`).join(", ")}`;
  return {
    id: "tune", name: "Search", title: "What did the search try?",
    intro: "Every layer set and budget that tokensieve tune measured, and the one that it chose.",
    draw: (host) => drawChart(host, {
      title: "Candidates of tune", wide: true, type: "scatter",
      description: `KL over attention work of ${tune.length} candidates.`,
      datasets: [
        {label: "chosen", data: tune.filter((s) => s.chosen).map((s) => ({x: s.work, y: s.kl, step: s,
          name: "chosen"})), named: true, borderColor: on, backgroundColor: on, pointRadius: 8},
        {label: "candidates", data: tune.filter((s) => !s.chosen).map((s) => ({x: s.work, y: s.kl,
          step: s})), borderColor: off, backgroundColor: off, pointRadius: 4},
        {label: "frontier", passive: true, showLine: true, stepped: "before", pointRadius: 0,
          borderColor: off, borderWidth: 1.5, borderDash: [3, 3], data: front.map(({x, y}) => ({x, y}))},
      ],
      scales: {x: axis("Attention work", {format: percent}), y: axis("KL to dense", {format: kl,
        beginAtZero: true})},
      tooltip: ({raw}) => [describe(raw.step), `work ${percent(raw.x)}, KL ${kl(raw.y)}, loss
        ${points(100 * raw.step.loss)} points`],
      columns: ["Sparse layers", "Settings", "Work", "Loss in points", "KL", "Chosen"],
      rows: tune.map((s) => [s.layers.join(", "), describe(s), percent(s.work), points(100 * s.loss),
        kl(s.kl), s.chosen ? "yes" : ""]),
    }),
  };
}

// About ----------------------------------------------------------------------------------------

function about(view) {
  const {header, file, results, warning} = view.run;
  const machine = header.machine ?? {};
  const facts = [
    ["Model", [header.model?.name, header.model?.file].filter(Boolean).join(", ")],
    ["Machine", [machine.gpu, machine.cpu, machine.threads && `${machine.threads} threads`]
      .filter(Boolean).join(", ")],
    ["Command", header.command], ["Date", header.date], ["Program", header.tool],
    ["Seed", header.seed], ["Tasks", header.tasks?.map(taskName).join(", ")],
    ["Prompt tokens", header.lengths?.map(count).join(", ")],
    ["Cases per task and length", header.cases],
    ["Results", `${count(results)} in ${file}`], ["Note", warning],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
  return {
    id: "about", name: "Method", title: "How was this measured?",
    intro: "The cases follow from the seed: the same seed, tasks and lengths make them again.",
    draw: (host) => host.append(el("dl", {class: "facts"}, facts.flatMap(([name, value]) =>
      [el("dt", {}, name), el("dd", {class: name === "Command" ? "mono" : null}, String(value))]))),
  };
}
