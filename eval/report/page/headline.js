// A section of the page is a function like headline(): it takes the view and returns {id, name,
// title, intro, draw(host)}, or null when the run has nothing for it. `view`: run, length ("all" or
// a number), shown (names of configurations), styles, redraw(id).

const summaryOf = (view) => view.run.summaries[view.length] ?? view.run.summaries.all;
const shownSummaries = (view) => summaryOf(view).configs.filter((c) => view.shown.has(c.config));
const lengthName = (view) => view.length === "all" ? "all lengths" : tokens(view.length);
const configOf = (run, name) => run.configs.find((config) => config.name === name);

function configHeader(view, name) {
  const config = configOf(view.run, name);
  return el("th", {scope: "row"}, swatch(view.styles.get(name)), name,
    el("small", {}, config.kind === "sparse" && config.family || config.note));
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
        [interval(subject.loss, points), brokenText(subject)].filter(Boolean).join(", ") ||
          "not measured"),
      tile("KL to dense", kl(meanOf(subject.kl)),
        subject.kl ? `same best token ${percent(meanOf(subject.top1))}` : "not measured"),
      tile("Attention work", percent(subject.work), "of the causal query-key pairs"),
      tile("Prefill", duration(subject.prefill_ms), subject.speedup
        ? `${times(subject.speedup)} as fast as ${summary.speed_reference}`
        : "no reference to compare")),
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
      : el("span", {class: "meter", "aria-hidden": "true"},
        el("i", {"--share": cssShare(c.work)})),
      c.block_density === null ? null
        : el("small", {}, `tiles ${percent(c.block_density)}`)),
    duration(c.prefill_ms), times(c.speedup),
  ];
}

function headline(view) {
  const summary = summaryOf(view);
  if (!summary.configs.length) return null;
  const columns = ["Configuration", "Score", "Loss against dense", "KL to dense", "Same best token",
    "Follow-up loss", "Attention work", "Prefill",
    summary.speed_reference ? `Speed-up over ${summary.speed_reference}` : "Speed-up"];
  return {
    id: "headline", name: "Headline", title: "Does it answer the same, and how much faster?",
    intro: `Scores and losses are points of 100, on what dense attention solves (a mean score of 50
      or more): ${summary.solved} of ${summary.solved + summary.unsolved.length} combinations of
      task and length. Below each stands its 95 % bootstrap interval. A loss compares the same cases
      with and without the method; lost are those that dense answers in full and the configuration
      does not. Follow-up questions are asked about the same document after it was read for the
      first question.`,
    draw(host) {
      const configs = shownSummaries(view);
      host.append(...view.run.warnings.map((text) => el("p", {class: "note"}, text)),
        ...tiles(view, summary),
        scrolling(table(columns, configs.map((c) => headlineRow(view, c)),
          {className: "headline", caption: `${view.run.model}, ${lengthName(view)}`}),
        "Headline table"));
      if (summary.unsolved.length) {
        host.append(el("p", {class: "note"},
          "Dense attention itself fails these, so they say nothing " +
          `about a loss and do not count: ${summary.unsolved.map(taskName).join(", ")}.`));
      }
    },
  };
}

function about(view) {
  const {header, file, results} = view.run;
  const machine = header.machine ?? {};
  const facts = [
    ["Model", [header.model?.name, header.model?.file].filter(Boolean).join(", ")],
    ["Machine", [machine.gpu, machine.cpu, machine.threads && `${machine.threads} threads`]
      .filter(Boolean).join(", ")],
    ["Command", header.command], ["Date", header.date], ["Program", header.tool],
    ["Seed", header.seed], ["Tasks", header.tasks?.map(taskName).join(", ")],
    ["Prompt tokens", header.lengths?.map(count).join(", ")],
    ["Cases per task and length", header.cases],
    ["Results", `${count(results)} in ${file}`],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
  return {
    id: "about", name: "Method", title: "How was this measured?",
    intro: "The cases follow from the seed: the same seed, tasks and lengths make them again.",
    draw: (host) => host.append(el("dl", {class: "facts"}, facts.flatMap(([name, value]) =>
      [el("dt", {}, name), el("dd", {class: name === "Command" ? "mono" : null}, String(value))]))),
  };
}
