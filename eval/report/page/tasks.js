// Scores by task, and of needles by depth.

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
    : el("span", {class: "tag"},
      reference ? "dense fails, does not count" : "no dense run, does not count");
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
    intro: `Mean score of every task, and the change against dense. Hatched rows are tasks that
      dense attention fails too: their scores are shown, and count for nothing above.`,
    draw: (host) => host.append(scrolling(table(["Task", ...names],
      rows.map((row) => taskRow(view, row, names)), {className: "tasks"}), "Scores by task")),
  };
}

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
