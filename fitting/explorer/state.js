// What the page is given, what a person has chosen, and the link that keeps it.

const DATA = JSON.parse(document.getElementById("data").textContent);

function doubles({f64}) {
  return new Float64Array(Uint8Array.from(atob(f64), (c) => c.charCodeAt(0)).buffer);
}

DATA.laws.forEach((law, place) => {
  Object.assign(law, FUNCTIONS[place]);
  law.best = doubles(law.best);
  const flat = doubles(law.draws), count = law.best.length;
  law.draws = Array.from({length: flat.length / count}, (_, i) => flat.subarray(i * count, (i + 1) * count));
  law.noise = doubles(law.noise);
  law.normals = doubles(law.normals);
  if (law.misfit) law.misfit.place = FUNCTIONS[place].place;
});
for (const name in DATA.points.values) DATA.points.values[name] = doubles(DATA.points.values[name]);
DATA.points.target = doubles(DATA.points.target);

const VARIABLES = Object.fromEntries(DATA.variables.map((one) => [one.name, one]));
const BUDGET = DATA.budget && {name: "budget", unit: "FLOP", log: true, count: false, ...DATA.budget};
const kindOf = (one) => (one.name === "budget" || one.name.startsWith("flops") ? "flops" : one.count ? "count" : "");

const STATE = {
  law: DATA.laws.length ? DATA.laws[0].name : "",
  axis: "",
  budget: BUDGET ? BUDGET.start : NaN,
  at: Object.fromEntries(DATA.variables.map((one) => [one.name, one.start])),
  label: DATA.labels.length ? DATA.labels[0].name : "",
  hidden: new Set(),
  sizes: "",
};

const chosen = () => DATA.laws.find((law) => law.name === STATE.law);
const label = () => DATA.labels.find((one) => one.name === STATE.label);

function visible(place) {
  const by = label();
  return !by || !STATE.hidden.has(by.levels[by.codes[place]]);
}

// The axes that the first chart may have under the chosen law.
function axes() {
  const law = chosen(), names = DATA.variables.map((one) => one.name);
  const known = "compute" in DATA.points.values && (!law || law.allocation);
  return [...(known ? ["compute"] : []), ...(law ? names.filter((name) => law.predictors.includes(name)) : names)];
}

function remember() {
  const kept = new URLSearchParams();
  if (STATE.law) kept.set("law", STATE.law);
  kept.set("axis", STATE.axis);
  if (BUDGET) kept.set("budget", STATE.budget);
  for (const name in STATE.at) kept.set(`at.${name}`, STATE.at[name]);
  if (STATE.label) kept.set("label", STATE.label);
  for (const level of STATE.hidden) kept.append("hide", level);
  if (STATE.sizes) kept.set("sizes", STATE.sizes);
  return `#${kept}`;
}

// Takes a link's settings; what it does not name or names wrongly stays as it is.
function recall(hash) {
  const kept = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name, now) => {
    const value = kept.has(name) ? Number(kept.get(name)) : NaN;
    return Number.isFinite(value) && value >= 0 ? value : now;
  };
  if (DATA.laws.some((law) => law.name === kept.get("law"))) STATE.law = kept.get("law");
  if (BUDGET) STATE.budget = number("budget", STATE.budget) || STATE.budget;
  for (const name in STATE.at) {
    const value = number(`at.${name}`, STATE.at[name]);
    STATE.at[name] = VARIABLES[name].log && value <= 0 ? STATE.at[name] : value;
  }
  if (DATA.labels.some((one) => one.name === kept.get("label"))) STATE.label = kept.get("label");
  if (kept.has("label")) STATE.hidden = new Set(kept.getAll("hide"));
  STATE.sizes = kept.get("sizes") ?? STATE.sizes;
  const known = axes();
  STATE.axis = known.includes(kept.get("axis")) ? kept.get("axis") : known.includes(STATE.axis) ? STATE.axis : known[0] || "";
}
