// What each layer keeps and costs, and the drift profile.

const kLayerMeasures = {keep_ratio: ["Keep ratio", percent], work: ["Attention work", percent],
  attention_ms: ["Attention time", duration], block_density: ["Tiles visited", percent]};
const layerChoice = {measure: "keep_ratio"};

function drawLayers(view, host) {
  const layers = (view.run.layers[view.length] ?? []).filter((l) => view.shown.has(l.config));
  const {measure} = layerChoice;
  const [name, format] = kLayerMeasures[measure];
  const numbers = [...new Set(layers.flatMap((l) => l.layers.map((layer) => layer.layer)))]
    .sort((a, b) => a - b);
  const value = (own, number) =>
    own.layers.find((layer) => layer.layer === number)?.[measure] ?? null;
  drawChart(host, {
    title: `${name} by layer`, type: "line", labels: numbers,
    description: `One line per configuration over ${numbers.length} layers, ${lengthName(view)}.`,
    controls: [select("Show", Object.entries(kLayerMeasures).map(([key, [text]]) => [key, text]),
      measure, (chosen) => {
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
    rows: numbers.map((number) =>
      [String(number), ...layers.map((own) => format(value(own, number)))]),
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
    rows: drift.map((value, layer) =>
      [String(layer), percent(value), isSparse(layer) ? "sparse" : "dense"]),
  });
}

function layersSection(view) {
  const hasLayers = (view.run.layers[view.length] ?? []).length > 0;
  if (!hasLayers && !view.run.drift.length) return null;
  return {
    id: "layers", name: "Layers", title: "What does each layer keep?",
    intro: `Means over the cases. A layer at 100 % runs dense: it is not in the profile, or a prompt
      is too short. How much each head keeps of one prompt is in the inspector below.`,
    draw(host) {
      const grid = el("div", {class: "charts"});
      host.append(grid);
      if (hasLayers) drawLayers(view, grid);
      if (view.run.drift.length) drawDrift(view, grid);
    },
  };
}
