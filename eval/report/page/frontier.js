// Accuracy against cost: of configurations, and of what `tune` tried.

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
    if (!drawable || c[cost] === null) return null;
    return {...value, x: c[cost], y: value.mean, name: c.config};
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
      {label: "frontier", data: front, showLine: true, stepped: "before", pointRadius: 0,
        passive: true,
        borderColor: themeColor("--line-strong"), borderWidth: 1.5, borderDash: [3, 3]},
    ].map((d) => d.passive ? {...d, data: d.data.map(({x, y}) => ({x, y}))} : d),
    scales: {x: axis(costName, {grace: "12%", format: costFormat}),
      y: damage === "kl" ? logAxis(damageName, all.flatMap((p) => [p.low, p.high]))
        : axis(damageName, {format: plain,
          suggestedMin: Math.min(0, ...all.map((p) => p.low)),
          suggestedMax: Math.max(1, ...all.map((p) => p.high))})},
    tooltip: ({raw}) => [raw.name, `${costName}: ${costFormat(raw.x)}`,
      `${damageName}: ${damageFormat(raw.y)} (${interval(raw, damageFormat)})`],
    columns: ["Configuration", costName, damageName, "95 % interval", "On the frontier"],
    rows: all.map((p) => [p.name, costFormat(p.x), damageFormat(p.y),
      interval(p, damageFormat), front.includes(p) ? "yes" : "no"]),
  });
}

function frontier(view) {
  const configs = summaryOf(view).configs;
  const first = (choices) =>
    Object.keys(choices).find((key) => configs.some((c) => c[key] !== null));
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

function tuneSection(view) {
  const {tune} = view.run;
  if (!tune.length) return null;
  const front = paretoFront(tune.map((step, i) => ({x: step.work, y: step.kl, i})));
  const [on, off] = [themeColor("--accent"), themeColor("--line-strong")];
  const settings = (select, besides = {}) => Object.entries(select ?? {})
    .filter(([key, value]) => besides[key] !== value)
    .map(([key, value]) => `${key} ${value}`).join(", ");
  const describe = ({layers, select, thin}) =>
    `${layers.length} sparse layers, ${settings(select)}${
    thin ? `; of these ${thin.layers.join(", ")}: ${settings(thin.select, select)}` : ""}`;
  return {
    id: "tune", name: "Search", title: "What did the search try?",
    intro: "Every layer set and budget that tokensieve tune measured, and the one that it chose.",
    draw: (host) => drawChart(host, {
      title: "Candidates of tune", wide: true, type: "scatter",
      description: `KL over attention work of ${tune.length} candidates.`,
      datasets: [
        {label: "chosen", data: tune.filter((s) => s.chosen).map((s) => ({
          x: s.work, y: s.kl, step: s,
          name: "chosen"})), named: true, borderColor: on, backgroundColor: on, pointRadius: 8},
        {label: "candidates", data: tune.filter((s) => !s.chosen).map((s) => ({x: s.work, y: s.kl,
          step: s})), borderColor: off, backgroundColor: off, pointRadius: 4},
        {label: "frontier", passive: true, showLine: true, stepped: "before", pointRadius: 0,
          borderColor: off, borderWidth: 1.5, borderDash: [3, 3],
          data: front.map(({x, y}) => ({x, y}))},
      ],
      scales: {x: axis("Attention work", {format: percent}), y: axis("KL to dense", {format: kl,
        beginAtZero: true})},
      tooltip: ({raw}) => [describe(raw.step), `work ${percent(raw.x)}, KL ${kl(raw.y)}, loss
        ${points(100 * raw.step.loss)} points`],
      columns: ["Sparse layers", "Settings", "Work", "Loss in points", "KL", "Chosen"],
      rows: tune.map((s) => [
        s.layers.join(", "), describe(s), percent(s.work), points(100 * s.loss),
        kl(s.kl), s.chosen ? "yes" : ""]),
    }),
  };
}
