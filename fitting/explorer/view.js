// The controls, the answers beside the charts, and the order in which a change is worked through.

const element = (id) => document.getElementById(id);

function made(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const name in settings) {
    if (name in node) node[name] = settings[name];
    else node.setAttribute(name, settings[name]);
  }
  node.append(...children);
  return node;
}

// A number with its interval; the exact values stand in its attributes.
function answer(title, found, kind, id) {
  const digits = kind === "" ? digitsFor(found) : 3;
  const value = made("b", {textContent: shown(found.value, kind, digits, true)});
  const told = Number.isNaN(found.low) ? "no interval" : `${shown(found.low, kind, digits, true)} to ${shown(found.high, kind, digits, true)}`;
  const node = made("dd", {}, value, made("span", {textContent: found.told || told}));
  if (id) node.id = id;
  for (const name of ["value", "low", "high"]) node.setAttribute(`data-${name}`, String(found[name]));
  return made("div", {}, made("dt", {textContent: title}), node);
}

function answersOf(law, ids) {
  const id = (name) => (ids ? `answer-${name}` : "");
  const known = law.predictors.every((name) => name in STATE.at);
  const level = `${Math.round(law.level * 100)} %`;
  const found = known ? [answer(`${DATA.target} of your run, ${level}`, predict(law, STATE.at), "", id("prediction"))] : [];
  if (!law.allocation || !BUDGET) return found;
  const size = law.predictors[law.allocation.size], best = allocate(law, STATE.budget, STATE.at);
  found.push(answer(`best ${size} for the budget`, best.params, "count", id("params")));
  found.push(answer("best tokens for the budget", best.tokens, "count", id("tokens")));
  found.push(answer("tokens per parameter there", best.ratio, "count", id("ratio")));
  found.push(answer(`${DATA.target} there`, best.target, "", id("target")));
  return found;
}

function warn(law) {
  const said = [], misfit = law && law.misfit;
  for (const one of law ? DATA.variables.filter((v) => law.predictors.includes(v.name)) : []) {
    const at = STATE.at[one.name];
    if (one.log && at > one.high * 1.001) said.push(`${one.name} ${shown(at / one.high, "", 2)} times beyond the runs`);
    else if (at < one.low * 0.999) said.push(`${one.name} below all runs`);
  }
  const far = misfit ? distance(law, STATE.at) : 0;
  if (misfit && far > misfit.tested + 1e-6) {
    said.push(`${misfit.direction} ${shown(Math.exp(far), "", 2)} times the largest fitted run's, tested up to ${shown(Math.exp(misfit.tested), "", 2)} times`);
  } else if (law && !misfit && said.length) said.push("nothing was tested beyond them");
  element("warning").textContent = said.length ? `Extrapolated: ${said.join("; ")}.` : "";
}

function cost6(law) {
  const flops = cost(law, STATE.at);
  return Number.isFinite(flops) ? [answer("compute of your run", {value: flops, low: NaN, high: NaN, told: "6 × params × tokens, FLOP"}, "flops", "answer-compute")] : [];
}

function showNumbers() {
  const law = chosen();
  element("answers").replaceChildren(...(law ? [...answersOf(law, true), ...cost6(law)] : []));
  warn(law);
  element("link").value = location.href.replace(/#.*/, "") + remember();
}

function showCards() {
  element("compared").hidden = DATA.laws.length < 2;
  if (DATA.laws.length < 2) return;
  element("cards").replaceChildren(...DATA.laws.map((law) => {
    const card = made("div", {className: law.name === STATE.law ? "card chosen" : "card"}, made("h3", {textContent: law.name}));
    card.append(made("dl", {}, ...answersOf(law, false)));
    return card;
  }));
}

// Every line is a size: as many numbers as the chosen law has predictors, in their order.
function showSizes() {
  const law = chosen();
  element("asked").hidden = !law;
  if (!law) return;
  element("sizes-label").textContent = `One size a line: ${law.predictors.join(", ")}`;
  const rows = STATE.sizes.split("\n").filter((line) => line.trim()).map((line) => line.trim().split(/[\s;]+|,(?!\d{3}(?!\d))\s*/).filter(Boolean).map(typed));
  const good = rows.filter((found) => found.length === law.predictors.length && found.every((v) => v > 0));
  element("sizes").setAttribute("aria-invalid", String(good.length < rows.length));
  const titles = [...law.predictors, DATA.target, `${Math.round(law.level * 100)} % interval`];
  const head = made("tr", {}, ...titles.map((text) => made("th", {textContent: text, scope: "col"})));
  const body = good.map((found) => {
    const at = {...STATE.at, ...Object.fromEntries(law.predictors.map((name, i) => [name, found[i]]))};
    const told = predict(law, at), digits = digitsFor(told);
    const interval = Number.isNaN(told.low) ? "none" : `${shown(told.low, "", digits, true)} to ${shown(told.high, "", digits, true)}`;
    const cells = [...law.predictors.map((name) => shown(at[name], kindOf(VARIABLES[name]), 4)), shown(told.value, "", digits, true), interval];
    const line = made("tr", {}, ...cells.map((text) => made("td", {textContent: text})));
    for (const name of ["value", "low", "high"]) line.setAttribute(`data-${name}`, String(told[name]));
    return line;
  });
  if (good.length < rows.length) {
    const text = `${rows.length - good.length} of ${rows.length} lines are not ${law.predictors.length} positive numbers`;
    body.push(made("tr", {}, made("td", {textContent: text, colSpan: titles.length})));
  }
  element("predictions").replaceChildren(head, ...body);
}

function showCharts() {
  const law = chosen(), view = STATE.axis ? lossView() : null, plane = planeView();
  const target = `${DATA.target} (${DATA.targetUnit || "1"})`;
  const across = STATE.axis === "compute" ? "compute (FLOP)" : view ? titled(VARIABLES[STATE.axis]) : "";
  draw("loss", view, [across, target]);
  draw("plane", plane, plane ? [titled(plane.one), titled(plane.two)] : []);
  const how = !law ? "Runs." : STATE.axis === "compute"
    ? `Line: ${law.name} with params and tokens best for the compute; dashed beyond the runs; band: interval of a new run.`
    : `Line: ${law.name} at the other settings of your run; dashed beyond the runs; band: interval of a new run.`;
  element("loss").querySelector("figcaption").textContent = how;
  element("plane").querySelector("figcaption").textContent = plane ? `Blue: equal ${DATA.target}. Grey, dashed: equal compute, 6 × params × tokens. Black: best for every compute.` : "";
  document.documentElement.dataset.drawn ||= String(performance.now());
}

let waiting = false;
function changed() {
  showNumbers();
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    showCharts();
    showCards();
    showSizes();
    history.replaceState(null, "", remember());
  });
}

function slider(one, get, set) {
  const scale = (value) => (one.log ? Math.log10(value) : value), raw = (value) => (one.log ? 10 ** value : value);
  const id = `slider-${one.name}`, kind = kindOf(one);
  const bar = made("input", {type: "range", id, min: scale(one.min), max: scale(one.max), step: "any"});
  const box = made("input", {type: "text", id: `box-${one.name}`, "aria-label": `${one.name}, typed`, inputMode: "text"});
  const show = (typing) => {
    bar.value = String(scale(get()));
    bar.setAttribute("aria-valuetext", `${shown(get(), kind, 4)} ${one.unit}`);
    if (!typing) box.value = shown(get(), kind === "flops" ? "" : kind, 4);
  };
  bar.addEventListener("input", () => {
    set(raw(Number(bar.value)));
    box.removeAttribute("aria-invalid");
    box.value = shown(get(), kind === "flops" ? "" : kind, 4);
    changed();
  });
  box.addEventListener("input", () => {
    const value = typed(box.value), good = value > 0 || (value === 0 && !one.log);
    box.setAttribute("aria-invalid", String(!good));
    if (!good) return;
    set(value);
    show(true);
    changed();
  });
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  const text = `${one.name === "budget" ? "compute budget" : one.name}${one.unit ? ` (${one.unit})` : ""}`;
  const node = made("div", {className: "slider"}, made("label", {htmlFor: id, textContent: text}), bar, box);
  node.show = show;
  node.only = one.name;
  return node;
}

function buildLaws() {
  element("laws").hidden = !DATA.laws.length;
  for (const law of DATA.laws) {
    const choice = made("input", {type: "radio", name: "law", value: law.name, checked: law.name === STATE.law});
    choice.addEventListener("change", () => { STATE.law = law.name; lawChanged(); changed(); });
    element("laws").append(made("label", {}, choice, ` ${law.name}`));
  }
}

function buildSliders() {
  const nodes = DATA.variables.map((one) => slider(one, () => STATE.at[one.name], (value) => { STATE.at[one.name] = value; }));
  if (BUDGET) nodes.push(slider(BUDGET, () => STATE.budget, (value) => { STATE.budget = value; }));
  element("sliders").append(...nodes);
}

function lawChanged() {
  const law = chosen(), known = axes();
  element("sliders").hidden = !law;
  for (const node of element("sliders").querySelectorAll(".slider")) {
    node.hidden = !law || (node.only === "budget" ? !law.allocation : !law.predictors.includes(node.only));
    node.show();
  }
  if (!known.includes(STATE.axis)) STATE.axis = known[0] || "";
  const select = element("axis");
  select.replaceChildren(...known.map((name) => made("option", {value: name, textContent: name, selected: name === STATE.axis})));
}

function swatch(level) {
  const {colour, shape} = style(level), space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path"), parts = [];
  const pen = {moveTo: (x, y) => parts.push(`M${x} ${y}`), lineTo: (x, y) => parts.push(`L${x} ${y}`), closePath: () => parts.push("Z"),
    arc: (x, y, r) => parts.push(`A${r} ${r} 0 1 1 ${x - r} ${y}A${r} ${r} 0 1 1 ${x + r} ${y}Z`)};
  drawShape(pen, shape, 7, 7, 5);
  path.setAttribute("d", parts.join(""));
  path.setAttribute("fill", colour);
  svg.setAttribute("width", "14");
  svg.setAttribute("height", "14");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return svg;
}

function showLevels() {
  const by = label();
  element("levels").replaceChildren(...(by ? by.levels : []).map((level, place) => {
    const box = made("input", {type: "checkbox", value: level, checked: !STATE.hidden.has(level)});
    box.addEventListener("change", () => { STATE.hidden[box.checked ? "delete" : "add"](level); changed(); });
    return made("label", {}, box, swatch(place), level);
  }));
}

function buildLabels() {
  const axis = made("select", {id: "axis"}), by = made("select", {id: "label"});
  axis.addEventListener("change", () => { STATE.axis = axis.value; changed(); });
  element("labels").append(made("label", {}, "along ", axis));
  if (DATA.labels.length) {
    by.append(...DATA.labels.map((one) => made("option", {value: one.name, textContent: one.name, selected: one.name === STATE.label})));
    by.addEventListener("change", () => { STATE.label = by.value; STATE.hidden.clear(); showLevels(); changed(); });
    element("labels").append(made("div", {}, made("label", {}, "coloured by ", by)));
  }
  element("labels").append(made("div", {id: "levels"}));
  showLevels();
}

function buildCharts() {
  for (const id of ["loss", "plane"]) {
    const figure = element(id);
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `Chart, ${id === "loss" ? DATA.target : "sizes and tokens"}; left and right go from run to run`);
    figure.append(made("div", {className: "tip", role: "status"}));
    figure.addEventListener("keydown", (event) => {
      const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (by) step(id, by);
      else if (event.key === "Escape") tell(id, -1);
      else return;
      event.preventDefault();
    });
  }
  addEventListener("resize", () => changed());
}

function buildNotes() {
  for (const law of DATA.laws) {
    const items = law.parameters.map((one) => {
      const digits = one.low === null ? 4 : digitsFor(one);
      const ends = one.low === null ? "" : ` (${shown(one.low, "", digits)} to ${shown(one.high, "", digits)})`;
      return `${one.name} = ${shown(one.value, "", digits)}${ends}${one.verdict ? `, ${one.verdict}` : ""}`;
    });
    element("notes").append(
      made("p", {}, made("b", {textContent: law.name}), ` ${law.formula}`),
      made("p", {className: "quiet", textContent: `${items.join("; ")}. Intervals: ${law.how}${law.misfit ? `; ${law.misfit.caption}` : ""}. Source: ${law.source}.`}),
    );
  }
}

function build() {
  const runs = DATA.points.run.length, laws = DATA.laws.length;
  element("about").textContent = `${runs.toLocaleString("en")} runs, ${laws} ${laws === 1 ? "law" : "laws"}. Everything is computed in this page.`;
  recall(location.hash);
  buildLaws();
  buildSliders();
  buildLabels();
  buildCharts();
  buildNotes();
  lawChanged();
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("sizes").value = STATE.sizes;
  element("sizes").addEventListener("input", () => { STATE.sizes = element("sizes").value; changed(); });
  element("copy").addEventListener("click", () => {
    element("link").select();
    element("copied").textContent = document.execCommand("copy") ? "copied" : "select and copy it";
  });
  addEventListener("hashchange", () => location.reload());
  changed();
}

build();
