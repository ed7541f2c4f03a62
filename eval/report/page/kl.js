// KL divergence by prompt length and by budget.

// `lines`: [name, [[x, estimate], ...]].
const intervalEnds = (lines) =>
  lines.flatMap(([, line]) => line.flatMap(([, e]) => [e.low, e.high]));

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
      format: (index) => names[index], ticks: {autoSkip: false, maxRotation: 60}}),
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
  const measured = lengths.filter((length) =>
    lines.some(([, line]) => line.some(([l]) => l === length)));
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
    rows: names.map((name) =>
      [name, ...measured.map((length) => withInterval(of(name, length), kl))]),
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
  const lines = lengths.map((length) => [
    length, configs.map((config) => [config, of(config, length)])
    .filter(([, e]) => e && e.mean > 0)]).filter(([, line]) => line.length);
  if (!lines.length) return;
  const colors = kColors[isDark() ? "dark" : "light"].sparse;
  const styles = new Map(lines.map(([length], i) => [length,
    {color: colors[i % colors.length], dash: [], point: "circle"}]));
  const values = configs.map((config) => config.budget.value);
  drawChart(host, {
    title: budget === "tau" ? "KL by tau" : "KL by keep ratio", type: "line",
    description: `${configs[0].family}. One line per prompt length, log scale.`,
    datasets: lines.map(([length, line]) => ({
      label: tokens(length), ...lineStyle(styles.get(length)),
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
