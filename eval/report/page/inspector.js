// One prompt, coloured by how many layers and sets (heads) keep each token.

const kLevels = 6;
const inspectorState = {prompt: 0, config: null, layer: null, set: null, onRedraw: null};

// Marks every token that a flat list of ranges (first, last, first, last, ...) covers.
function addRanges(counts, ranges) {
  for (let i = 0; i < ranges.length; i += 2) {
    for (let token = ranges[i]; token <= ranges[i + 1]; ++token) ++counts[token];
  }
}

const sizeOf = (ranges) => {
  let size = 0;
  for (let i = 0; i < ranges.length; i += 2) size += ranges[i + 1] - ranges[i] + 1;
  return size;
};

// The sets that the choice of layer and set names; null is all of them.
function chosenSets(kept, {layer, set}) {
  return kept.layers.filter((l) => layer === null || l.layer === layer)
    .flatMap((l) => set === null ? l.sets : l.sets[set] ? [l.sets[set]] : []);
}

// Tokens that spell one of the expected answers.
function answerTokens(prompt) {
  const starts = [];
  let text = "";
  for (const token of prompt.tokens) {
    starts.push(text.length);
    text += token;
  }
  const found = new Set();
  for (const expected of prompt.expected) {
    const next = (from) => (expected ? text.indexOf(expected, from) : -1);
    for (let at = next(0); at >= 0; at = next(at + 1)) {
      starts.forEach((start, token) => {
        const end = start + prompt.tokens[token].length;
        if (start < at + expected.length && end > at) found.add(token);
      });
    }
  }
  return found;
}

class Inspector {
  constructor(run, host) {
    this.run = run;
    this.host = host;
    this.state = inspectorState;
    if (this.state.prompt >= run.prompts.length) this.state.prompt = 0;
    this.build();
  }

  get prompt() { return this.run.prompts[this.state.prompt]; }
  get kept() {
    return this.prompt.kept.find((k) => k.config === this.state.config) ?? this.prompt.kept[0];
  }

  // Everything that depends on the prompt or the configuration.
  build() {
    const {prompt, state} = this;
    state.config = this.kept.config;
    if (!this.kept.layers.some((l) => l.layer === state.layer)) state.layer = state.set = null;
    this.answer = answerTokens(prompt);
    this.text = el("div", {class: "prompt", tabindex: "0", role: "document",
      "aria-label": "The prompt; kept tokens are coloured", onkeydown: (e) => this.onTextKey(e),
      onclick: (e) => this.describe(e.target.dataset.token),
      onmouseover: (e) => this.describe(e.target.dataset.token)},
      prompt.tokens.map((token, i) => el("span", {"data-token": i}, token)));
    this.status = el("p", {class: "status", role: "status"});
    this.map = el("div", {class: "layer-map", role: "grid",
      "aria-label": "Layers and sets; arrow keys choose, Escape shows all",
      onkeydown: (e) => this.onMapKey(e)});
    this.host.replaceChildren(this.controls(), this.map, this.scale(), this.status, this.text);
    this.at = null;
    this.update();
  }

  controls() {
    const {run, prompt, state} = this;
    const change = (key) => (value) => {
      state[key] = value;
      this.build();
      this.host.querySelector(`[data-control="${key}"] select`).focus();
    };
    const mark = (key, node) => {
      node.dataset.control = key;
      return node;
    };
    return el("div", {class: "inspector-controls"},
      mark("prompt", select("Prompt", run.prompts.map((p, i) =>
        [i, `${taskName(p.task)}, ${tokens(p.length)}, case ${p.case}`]), state.prompt,
        (value) => change("prompt")(Number(value)))),
      mark("config", select("Configuration", prompt.kept.map((k) => [k.config, k.config]),
        state.config,
        change("config"))),
      el("button", {type: "button", onclick: () => this.choose(null, null)}, "All layers"),
      this.answer.size ? el("button", {type: "button", onclick: () => this.showAnswer()},
        "Go to the answer") : null);
  }

  // What the choice of layer and set changes.
  update() {
    const sets = chosenSets(this.kept, this.state);
    this.counts = new Uint32Array(this.prompt.tokens.length);
    for (const ranges of sets) addRanges(this.counts, ranges);
    this.total = sets.length;
    const spans = this.text.children;
    for (let i = 0; i < spans.length; ++i) {
      const level = this.counts[i] ? Math.ceil(kLevels * this.counts[i] / this.total) : 0;
      spans[i].className = `k${level}${this.answer.has(i) ? " answer" : ""}`;
    }
    this.drawMap();
    this.describe();
  }

  describe(token) {
    const {state, kept, prompt} = this;
    if (token === undefined) {
      const where = state.layer === null ? `all ${kept.layers.length} sparse layers`
        : `layer ${state.layer}${state.set === null ? "" : `, set ${state.set}`}`;
      const all = this.total * prompt.tokens.length;
      const share = this.counts.reduce((sum, n) => sum + n, 0) / all;
      const found = [...this.answer].reduce((sum, i) => sum + this.counts[i], 0);
      this.status.textContent = `${kept.config}, ${where}: keeps ${percent(share)} of ` +
        `${tokens(prompt.tokens.length)}` +
        (this.answer.size ? `; the answer's tokens are kept in
          ${percent(found / (this.total * this.answer.size))} of the layers and sets` : "") +
        (kept.answer !== undefined ? `. Answer: “${kept.answer.trim()}”` : "") +
        (kept.score !== undefined ? `, score ${points(kept.score)}` : "");
      return;
    }
    const i = Number(token);
    this.status.textContent = `Token ${count(i)} ${JSON.stringify(prompt.tokens[i])}: kept by ` +
      `${this.counts[i]} of ${this.total} ${this.total === 1 ? "set" : "sets"}`;
  }

  scale() {
    return el("div", {class: "inspector-controls"},
      el("span", {class: "levels"}, "kept by none",
        el("span", {}, Array.from({length: kLevels}, (_, i) => el("i", {class: `k${i + 1}`}))),
        "by all of the chosen layers and sets"),
      this.answer.size ? el("span", {class: "levels"},
        el("b", {style: "color: var(--answer)"}, "underlined"), "the expected answer") : null,
      el("span", {class: "small soft keys"}, "In the map: ", el("kbd", {}, "arrows"), " choose, ",
        el("kbd", {}, "Esc"), " all. In the text: ", el("kbd", {}, "←"), " ",
        el("kbd", {}, "→"), " step through tokens"));
  }

  // The grid of layers (columns) and sets (rows): shade is how much each keeps.
  drawMap() {
    const {kept, state, prompt} = this;
    const hadFocus = this.map.contains(document.activeElement);
    const rows = Math.max(...kept.layers.map((l) => l.sets.length));
    const cell = (l, set) => {
      if (!l.sets[set]) return el("span", {class: "number", role: "gridcell"});
      const chosen = l.layer === state.layer && (state.set === null || state.set === set);
      const share = sizeOf(l.sets[set]) / prompt.tokens.length;
      const focusable = state.layer === null ? l === kept.layers[0] && set === 0
        : l.layer === state.layer && set === (state.set ?? 0);
      const name = `layer ${l.layer}, set ${set}: keeps ${percent(share)}`;
      return el("button", {
        type: "button", role: "gridcell", "--value": cssShare(share), title: name,
        "aria-label": name, "aria-selected": String(chosen), tabindex: focusable ? "0" : "-1",
        onclick: () => this.choose(l.layer, set)});
    };
    const header = el("div", {role: "row"},
      el("span", {class: "name", role: "columnheader"}, "layer"),
      kept.layers.map((l) => el("span", {class: "number", role: "columnheader"}, String(l.layer))));
    this.map.replaceChildren(header, ...Array.from({length: rows}, (_, set) =>
      el("div", {role: "row"}, el("span", {class: "name", role: "rowheader"},
        rows === 1 ? "all heads" : `set ${set}`), kept.layers.map((l) => cell(l, set)))));
    if (hadFocus) this.map.querySelector('[tabindex="0"]').focus();
  }

  choose(layer, set) {
    this.state.layer = layer;
    this.state.set = set;
    this.update();
  }

  onMapKey(event) {
    const {kept, state} = this;
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const step = steps[event.key];
    if (event.key === "Escape") {
      this.choose(null, null);
    } else if (step) {
      const at = kept.layers.findIndex((l) => l.layer === state.layer);
      const layer = kept.layers[Math.min(Math.max(at + step[0], 0), kept.layers.length - 1)];
      const set = Math.min(Math.max((state.set ?? 0) + step[1], 0), layer.sets.length - 1);
      this.choose(layer.layer, set);
    } else {
      return;
    }
    event.preventDefault();
  }

  onTextKey(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.moveTo(this.at === null ? 0 : this.at + step);
  }

  moveTo(token) {
    const spans = this.text.children;
    if (this.at !== null) spans[this.at].classList.remove("at");
    this.at = Math.min(Math.max(token, 0), spans.length - 1);
    const span = spans[this.at];
    span.classList.add("at");
    this.text.scrollTop = span.offsetTop - this.text.clientHeight / 2;
    this.describe(this.at);
  }

  showAnswer() {
    this.moveTo(Math.min(...this.answer));
    this.text.focus({preventScroll: true});
  }
}

function inspector(view) {
  if (!view.run.prompts.length) return null;
  return {
    id: "inspector", name: "Inspector", title: "Which tokens were kept?",
    intro: `Each square is a layer (and a set of heads, where heads keep their own); darker keeps
      more. Choose one to see its tokens, or all layers to see how many keep each token.`,
    draw: (host) => { host.inspector = new Inspector(view.run, host); },
  };
}
