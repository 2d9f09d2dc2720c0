// Two charts: the target along one axis with the law's curve, and the plane of sizes and tokens.

const CHARTS = {}, POINTS = 121, TEXT = "13px system-ui, sans-serif";
const LAW_COLOUR = "#0b5394", COST_COLOUR = "#666", OWN_COLOUR = "#b00020", BEST_COLOUR = "#000";

const grid = (low, high, log, count = POINTS) => Array.from({length: count}, (_, i) => {
  const share = i / (count - 1);
  return log ? low * (high / low) ** share : low + (high - low) * share;
});
const finite = (values) => values.filter(Number.isFinite);

function range(values, log, pad) {
  const known = finite(values).filter((v) => !log || v > 0);
  let low = Math.min(...known), high = Math.max(...known);
  if (!known.length) [low, high] = [1, 10];
  if (log) {
    const wide = Math.max((high / low) ** pad, 1.02);
    return [low / wide, high * wide];
  }
  const wide = Math.max((high - low) * pad, 1e-9 * Math.abs(high), 1e-12);
  return [low - wide, high + wide];
}

// Without spreading a large array into arguments.
function ends(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  return low <= high ? [low, high] : [];
}

function cost(law, at) {
  if (!law || !law.allocation) return NaN;
  return 6 * at[law.predictors[law.allocation.size]] * at[law.predictors[law.allocation.tokens]];
}

// The columns of the least target at a budget, other settings as the sliders have them.
function bestColumns(law, flops) {
  const [params, tokens] = optimum(law, law.best, flops, row(law, STATE.at)), at = {...STATE.at};
  at[law.predictors[law.allocation.size]] = params;
  at[law.predictors[law.allocation.tokens]] = tokens;
  if (law.flops >= 0) at[law.predictors[law.flops]] = flops;
  return at;
}

function lossView() {
  const law = chosen(), name = STATE.axis, compute = name === "compute";
  const one = compute ? {name: "flops", log: true, unit: "FLOP"} : VARIABLES[name];
  const xs = DATA.points.values[name] || [], own = compute ? cost(law, STATE.at) : STATE.at[name];
  const reach = ends(xs), budget = compute && BUDGET ? [STATE.budget] : [];
  const [low, high] = range([...reach, own, ...budget], one.log, 0.04);
  const curve = {x: grid(low, high, one.log), inside: [], outside: [], low: [], high: []};
  for (const x of law ? curve.x : []) {
    const at = compute ? bestColumns(law, x) : {...STATE.at, [name]: x};
    const {value, low: bottom, high: top} = predict(law, at);
    const within = reach.length && x >= reach[0] && x <= reach[1], known = Number.isFinite(value);
    curve.inside.push(within && known ? value : null);
    curve.outside.push(!within && known ? value : null);
    curve.low.push(Number.isFinite(bottom) ? bottom : null);
    curve.high.push(Number.isFinite(top) ? top : null);
  }
  const marks = [];
  if (law) {
    marks.push({x: own, ...predict(law, STATE.at), colour: OWN_COLOUR, shape: "diamond", text: "your run"});
    if (compute) {
      const found = predict(law, bestColumns(law, STATE.budget));
      marks.push({x: STATE.budget, ...found, colour: BEST_COLOUR, shape: "cross", text: "best"});
    }
  }
  const heights = [...ends(DATA.points.target), ...ends([...curve.inside, ...curve.outside].filter((v) => v !== null))];
  const y = range([...heights, ...marks.flatMap((m) => [m.value, m.low, m.high])], heights.every((v) => v > 0), 0.06);
  return {one, xs, ys: DATA.points.target, x: [low, high], y, yLog: heights.every((v) => v > 0), curve, marks, reach, lines: []};
}

// Where the law falls to a level along tokens at one size; null beyond the chart.
function levelAt(law, size, level, [low, high]) {
  const at = {...STATE.at}, tokens = law.predictors[law.allocation.tokens];
  at[law.predictors[law.allocation.size]] = size;
  const value = (count) => {
    at[tokens] = count;
    if (law.flops >= 0) at[law.predictors[law.flops]] = 6 * size * count;
    return mean(law, at);
  };
  if (!(value(low) >= level && value(high) <= level)) return null;
  for (let i = 0; i < 40; i++) {
    const middle = Math.sqrt(low * high);
    if (value(middle) > level) low = middle;
    else high = middle;
  }
  return high;
}

function planeView() {
  const law = chosen();
  if (!law || !law.allocation) return null;
  const names = [law.allocation.size, law.allocation.tokens].map((i) => law.predictors[i]);
  const [xs, ys] = names.map((name) => DATA.points.values[name] || []);
  const best = bestColumns(law, STATE.budget), place = names.map((name) => best[name]);
  const own = names.map((name) => STATE.at[name]);
  const [x, y] = [xs, ys].map((all, i) => range([...ends(all), place[i], own[i]], true, 0.06));
  const sizes = grid(...x, true, 81), lines = [], path = [];
  const least = Math.log10((6 * x[0] * y[0]) / STATE.budget), most = Math.log10((6 * x[1] * y[1]) / STATE.budget);
  const decades = Math.max(1, Math.ceil((most - least) / 6));
  for (let away = Math.ceil(least / decades); away <= most / decades; away++) {
    const flops = STATE.budget * 10 ** (away * decades), level = mean(law, bestColumns(law, flops));
    const within = (value) => (value >= y[0] && value <= y[1] ? value : null);
    lines.push({values: sizes.map((n) => within(flops / 6 / n)), text: `${power(flops, 2)} FLOP`, colour: COST_COLOUR, dash: [5, 4]});
    if (Number.isFinite(level)) {
      const values = sizes.map((n) => levelAt(law, n, level, y));
      lines.push({values, text: shown(level, "", 3), colour: LAW_COLOUR, dash: []});
    }
  }
  const flops = ends(xs).length ? 6 * ends(xs)[0] * ends(ys)[0] : STATE.budget / 1e4;
  for (const budget of grid(flops, Math.max(STATE.budget * 100, flops * 10), true, 41)) {
    const at = bestColumns(law, budget);
    path.push(names.map((name) => at[name]));
  }
  const marks = [
    {x: own[0], value: own[1], colour: OWN_COLOUR, shape: "diamond", text: "your run"},
    {x: place[0], value: place[1], colour: BEST_COLOUR, shape: "cross", text: "best"},
  ];
  return {one: VARIABLES[names[0]], two: VARIABLES[names[1]], xs, ys, x, y, yLog: true, lines, sizes, path, marks, reach: []};
}

// The band is as dense as the runs are near: it fades with the log distance beyond them.
function fading(u, view) {
  const {left, width} = u.bbox, fill = u.ctx.createLinearGradient(left, 0, left + width, 0);
  for (let i = 0; i <= 20; i++) {
    const x = grid(...view.x, view.one.log, 21)[i], [low, high] = view.reach.length ? view.reach : view.x;
    const beyond = view.one.log ? Math.max(Math.log(low / x), Math.log(x / high), 0) : Math.max(low - x, x - high, 0) / (high - low || 1);
    fill.addColorStop(i / 20, `rgba(11, 83, 148, ${(0.05 + 0.27 * Math.exp(-beyond / 2)).toFixed(3)})`);
  }
  return fill;
}

function drawShape(ctx, shape, x, y, size) {
  if (shape === "circle") {
    ctx.moveTo(x + size, y);
    ctx.arc(x, y, size, 0, 7);
    return;
  }
  const corners = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]], triangle: [[0, -1.25], [1.15, 0.85], [-1.15, 0.85]],
    diamond: [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
    cross: [[-1.2, -0.5], [-0.5, -0.5], [-0.5, -1.2], [0.5, -1.2], [0.5, -0.5], [1.2, -0.5], [1.2, 0.5], [0.5, 0.5],
      [0.5, 1.2], [-0.5, 1.2], [-0.5, 0.5], [-1.2, 0.5]],
  }[shape];
  corners.forEach(([dx, dy], i) => ctx[i ? "lineTo" : "moveTo"](x + dx * size, y + dy * size));
  ctx.closePath();
}

function drawRuns(u, view) {
  const by = label(), scale = devicePixelRatio, {ctx} = u;
  const size = (view.xs.length > 1000 ? 2.2 : view.xs.length > 200 ? 3 : 4) * scale;
  for (let level = 0; level < (by ? by.levels.length : 1); level++) {
    if (by && STATE.hidden.has(by.levels[level])) continue;
    const {colour, shape} = style(level);
    ctx.beginPath();
    for (let i = 0; i < view.xs.length; i++) {
      if (by && by.codes[i] !== level) continue;
      const [x, y] = [u.valToPos(view.xs[i], "x", true), u.valToPos(view.ys[i], "y", true)];
      if (Number.isFinite(x + y)) drawShape(ctx, shape, x, y, size);
    }
    ctx.globalAlpha = 0.75;
    ctx.fillStyle = colour;
    ctx.fill();
    ctx.globalAlpha = 1;
  }
}

function drawMarks(u, view, texts) {
  const {ctx} = u, scale = devicePixelRatio;
  if (view.path) {
    ctx.beginPath();
    view.path.forEach(([x, y], i) => ctx[i ? "lineTo" : "moveTo"](u.valToPos(x, "x", true), u.valToPos(y, "y", true)));
    ctx.strokeStyle = BEST_COLOUR;
    ctx.lineWidth = 1.5 * scale;
    ctx.stroke();
  }
  for (const mark of view.marks) {
    const x = u.valToPos(mark.x, "x", true), y = u.valToPos(mark.value, "y", true);
    if (!Number.isFinite(x + y)) continue;
    ctx.beginPath();
    if (Number.isFinite(mark.low)) {
      ctx.moveTo(x, u.valToPos(mark.low, "y", true));
      ctx.lineTo(x, u.valToPos(mark.high, "y", true));
      ctx.strokeStyle = mark.colour;
      ctx.lineWidth = 2 * scale;
      ctx.stroke();
    }
    ctx.beginPath();
    drawShape(ctx, mark.shape, x, y, 6 * scale);
    ctx.fillStyle = mark.colour;
    ctx.strokeStyle = "#fff";
    ctx.lineWidth = 1.5 * scale;
    ctx.fill();
    ctx.stroke();
    texts.push({text: mark.text, colour: mark.colour, places: around(x, y, 11 * scale), always: true});
  }
}

const around = (x, y, gap) => [[x + gap, y, "left"], [x - gap, y, "right"], [x, y - 1.6 * gap, "center"], [x, y + 1.6 * gap, "center"]];

// Texts where they hit neither each other nor the frame; what finds no place is left out.
function drawTexts(u, texts) {
  const {ctx, bbox} = u, scale = devicePixelRatio, taken = [], height = 15 * scale;
  ctx.font = `${12.5 * scale}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  for (const {text, colour, places} of texts) {
    const width = ctx.measureText(text).width + 6 * scale;
    for (const [x, y, align] of places) {
      const left = align === "left" ? x : align === "right" ? x - width : x - width / 2;
      const box = [left, y - height / 2, left + width, y + height / 2];
      const inside = box[0] >= bbox.left && box[2] <= bbox.left + bbox.width && box[1] >= bbox.top && box[3] <= bbox.top + bbox.height;
      if (!inside || taken.some((b) => box[0] < b[2] && b[0] < box[2] && box[1] < b[3] && b[1] < box[3])) continue;
      taken.push(box);
      ctx.textAlign = "left";
      ctx.lineWidth = 4 * scale;
      ctx.strokeStyle = "#ffffffdd";
      ctx.lineJoin = "round";
      ctx.strokeText(text, left + 3 * scale, y);
      ctx.fillStyle = colour;
      ctx.fillText(text, left + 3 * scale, y);
      break;
    }
  }
}

function drawOver(u) {
  const {view} = CHARTS[u.root.parentNode.id], {ctx, bbox} = u, texts = [];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  drawRuns(u, view);
  drawMarks(u, view, texts);
  for (const line of view.lines) {
    const places = [0.93, 0.8, 0.65, 0.5, 0.35, 0.2, 0.07].map((share) => {
      const known = view.sizes.flatMap((n, i) => (line.values[i] === null ? [] : [[n, line.values[i]]]));
      if (!known.length) return [NaN, NaN, "center"];
      const [x, y] = known[Math.floor(share * (known.length - 1))];
      return [u.valToPos(x, "x", true), u.valToPos(y, "y", true), "center"];
    });
    texts.push({text: line.text, colour: line.colour, places});
  }
  drawTexts(u, texts);
  ctx.restore();
}

// As many ticks as have room beside each other, the outermost ones within the chart.
function roomy(u, low, high, log, kind, across) {
  const length = (across ? u.bbox.width : u.bbox.height) / devicePixelRatio || (across ? u.width : u.height) - 80;
  u.ctx.save();
  u.ctx.font = TEXT;
  const place = (value) => length * (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
  const half = (value) => (across ? u.ctx.measureText(shown(value, kind, 4)).width / 2 + 5 : 10);
  let found = [];
  for (let most = Math.floor(length / (across ? 55 : 40)); most > 0; most--) {
    found = ticks(low, high, log, most).filter((v) => !across || place(v) + half(v) < length + 22);
    const crowded = found.some((v, i) => i && place(v) - half(v) < place(found[i - 1]) + half(found[i - 1]));
    if (found.length && !crowded) break;
  }
  u.ctx.restore();
  return found;
}

function axisSettings(one, text, log, across) {
  const kind = one ? kindOf(one) : "";
  return {
    label: text, labelSize: 24, labelGap: 2, size: across ? 34 : 58, gap: 4, font: TEXT, labelFont: TEXT, stroke: "#333",
    grid: {stroke: "#ececec", width: 1}, ticks: {stroke: "#bbb", width: 1, size: 5},
    splits: (u, _, low, high) => roomy(u, low, high, log, kind, across),
    values: (u, found) => found.map((value) => shown(value, kind, 4)),
    filter: (u, found) => found,
  };
}

// A unit that is a sentence stands beside the slider.
const titled = (one) => (one.unit.length > 14 ? one.name : `${one.name} (${one.unit || "1"})`);

function draw(id, view, titles) {
  const figure = document.getElementById(id), old = CHARTS[id];
  figure.hidden = !view;
  if (!view) return;
  const data = view.curve
    ? [view.curve.x, ...(chosen() ? [view.curve.inside, view.curve.outside, view.curve.high, view.curve.low] : [view.curve.x.map(() => null)])]
    : [view.sizes, ...view.lines.map((line) => line.values)];
  const key = JSON.stringify([titles, view.one.log, view.yLog, data.length, view.lines.map((line) => line.dash)]);
  CHARTS[id] = {...(old || {}), view, key};
  if (old && old.key === key) {
    old.chart.setSize({width: figure.clientWidth, height: heightOf(figure)});
    old.chart.setData(data);
    return;
  }
  if (old) old.chart.destroy();
  const drawn = (settings) => ({width: 1.6, points: {show: false}, ...settings});
  const curves = [{stroke: LAW_COLOUR}, {stroke: LAW_COLOUR, dash: [6, 5]}, {stroke: "transparent"}, {stroke: "transparent"}];
  const lines = view.lines.map((line) => ({stroke: line.colour, dash: line.dash, width: 1.1}));
  const settings = {
    width: figure.clientWidth, height: heightOf(figure), padding: [14, 22, 0, 0], legend: {show: false},
    cursor: {drag: {x: false, y: false, setScale: false}, points: {show: false}},
    scales: {
      x: {time: false, distr: view.one.log ? 3 : 1, range: () => CHARTS[id].view.x},
      y: {distr: view.yLog ? 3 : 1, range: () => CHARTS[id].view.y},
    },
    axes: [axisSettings(view.one, titles[0], view.one.log, true), axisSettings(view.two, titles[1], view.yLog, false)],
    series: [{}, ...(view.curve ? curves.slice(0, data.length - 1) : lines).map(drawn)],
    bands: data.length === 5 && view.curve ? [{series: [3, 4], fill: (u) => fading(u, CHARTS[id].view)}] : [],
    hooks: {draw: [drawOver], setCursor: [(u) => hover(id, u.cursor.left, u.cursor.top)]},
  };
  CHARTS[id].chart = new uPlot(settings, data, figure);
}

const heightOf = (figure) => Math.round(Math.min(460, Math.max(300, figure.clientWidth * 0.6)));

// The nearest run to a place in the chart, in pixels; -1 where none is within reach.
function nearest(id, left, top) {
  const {chart, view} = CHARTS[id];
  let best = -1, least = 18 ** 2;
  for (let i = 0; i < view.xs.length; i++) {
    if (!visible(i)) continue;
    const away = (chart.valToPos(view.xs[i], "x") - left) ** 2 + (chart.valToPos(view.ys[i], "y") - top) ** 2;
    if (away < least) [best, least] = [i, away];
  }
  return best;
}

function hover(id, left, top) {
  if (!CHARTS[id].chart) return;
  tell(id, left >= 0 ? nearest(id, left, top) : -1);
}

// Says what a run is, beside it; its words are text, whatever they are.
function tell(id, place) {
  const figure = document.getElementById(id), {chart, view} = CHARTS[id];
  const tip = figure.querySelector(".tip");
  CHARTS[id].place = place;
  if (place < 0) {
    tip.textContent = "";
    return;
  }
  const rows = [DATA.points.run[place], `${DATA.target} ${decimals(DATA.points.target[place], 5)}`];
  for (const one of DATA.variables) {
    const value = (DATA.points.values[one.name] || [])[place];
    if (value !== undefined) rows.push(`${one.name} ${shown(value, kindOf(one), 4)}`);
  }
  const by = label();
  if (by) rows.push(`${by.name} ${by.levels[by.codes[place]]}`);
  tip.textContent = rows.join("\n");
  const x = chart.valToPos(view.xs[place], "x") + chart.bbox.left / devicePixelRatio;
  const y = chart.valToPos(view.ys[place], "y") + chart.bbox.top / devicePixelRatio;
  const room = figure.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(0, Math.min(x + 12, room))}px`;
  tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
}

// Left and right go from run to run along the axis.
function step(id, by) {
  const {view, place = -1} = CHARTS[id];
  const order = [...view.xs.keys()].filter((i) => visible(i) && Number.isFinite(view.xs[i] + view.ys[i]));
  order.sort((a, b) => view.xs[a] - view.xs[b] || view.ys[a] - view.ys[b]);
  if (!order.length) return;
  const at = order.indexOf(place), next = at < 0 ? (by > 0 ? 0 : order.length - 1) : at + by;
  tell(id, order[Math.max(0, Math.min(order.length - 1, next))]);
}
