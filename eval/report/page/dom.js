// Building blocks: elements, choices and tables.

// el("td", {class: "text"}, "a", child): attributes by name, listeners as "onclick".
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  // One by one: a prompt has more tokens than a call may have arguments.
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

let nextId = 0;
const uniqueId = (stem) => `${stem}-${++nextId}`;

// `options`: [value, label] pairs.
function select(label, options, value, onChange) {
  const box = el("select", {onchange: () => onChange(box.value)},
    options.map(([v, text]) =>
      el("option", {value: v, selected: String(v) === String(value)}, text)));
  return el("label", {class: "choice"}, el("span", {}, label), box);
}

function segments(label, options, value, onChange) {
  const name = uniqueId("segments");
  return el("fieldset", {class: "segments"},
    el("legend", {}, label),
    el("span", {class: "row"}, options.map(([v, text]) => el("label", {},
      el("input", {type: "radio", name, value: v, checked: String(v) === String(value),
        onchange: () => onChange(v)}), text))));
}

// `rows`: arrays of cells (text, a node, or a ready <td>/<th>); the first cell names its row.
function table(columns, rows, {caption = "", className = ""} = {}) {
  const isCell = (cell) => cell instanceof HTMLTableCellElement;
  const head = columns.map((column) => isCell(column) ? column : el("th", {scope: "col"}, column));
  const body = rows.map((cells) => el("tr", {class: cells.className || null}, cells.map((cell, i) =>
    isCell(cell) ? cell : el(i ? "td" : "th", i ? {} : {scope: "row"}, cell))));
  return el("table", {class: className || null}, caption && el("caption", {}, caption),
    el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
}

// A wide table scrolls by itself, also with the keyboard.
function scrolling(content, label) {
  return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, content);
}

function dataTable(columns, rows) {
  return el("details", {class: "data"}, el("summary", {}, "Numbers of this chart"),
    scrolling(table(columns, rows), "Numbers of this chart"));
}

function swatch(style) {
  return el("i", {class: style.baseline ? "swatch baseline" : "swatch", "--color": style.color});
}
