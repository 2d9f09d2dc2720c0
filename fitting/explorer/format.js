// Numbers as a person reads and types them, and the marks by which labels are told apart.

const SUFFIXES = [[1e15, "Q"], [1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
// Okabe and Ito 2008: eight colours that the colour-blind tell apart; shapes tell them in grey.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5a5a5a", "#000000"];
const SHAPES = ["circle", "square", "triangle", "diamond", "cross"];

const style = (level) => ({colour: COLOURS[level % 8], shape: SHAPES[(level + (level >> 3)) % 5]});

function decimals(value, digits) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "none" : "never";
  return Number(value.toPrecision(digits)).toString();
}

function power(value, digits = 3) {
  if (!Number.isFinite(value) || value <= 0) return decimals(value, digits);
  let [front, exponent] = value.toExponential(digits - 1).split("e").map(Number);
  const raised = [...String(Math.abs(exponent))].map((digit) => RAISED[digit]).join("");
  return `${front === 1 ? "" : `${front} × `}10${exponent < 0 ? "⁻" : ""}${raised}`;
}

// 7.2B tokens, 3 × 10²¹ FLOP, 2.31 nats.
function shown(value, kind, digits = 3, whole = false) {
  if (kind === "flops") return power(value, digits);
  if (kind === "count" && Number.isFinite(value)) {
    const rounded = Number(value.toPrecision(digits));
    if (rounded >= 1e18) return power(value, digits);
    const suffix = SUFFIXES.find(([size]) => rounded >= size);
    if (suffix) return `${Number((rounded / suffix[0]).toPrecision(digits))}${suffix[1]}`;
  }
  if (Number.isFinite(value) && value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    return value.toExponential(digits - 1);
  }
  // Answers keep their last zeros: 2.00 says more than 2.
  return whole && Number.isFinite(value) ? value.toPrecision(digits) : decimals(value, digits);
}

// "7e9", "7B", "1.4T", "7,000,000"; NaN for what is no number.
function typed(text) {
  const found = /^\s*(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?\s*([kKMBGTQ])?\s*$/i.exec(text);
  if (!found) return NaN;
  const unit = (found[3] || "").toUpperCase().replace("G", "B").replace("K", "k");
  const factor = unit ? SUFFIXES.find(([, name]) => name === unit)[0] : 1;
  return Number(found[1].replace(/,/g, "") + (found[2] || "")) * factor;
}

// As many digits as the interval says are known, three to six.
function digitsFor({value, low, high}) {
  const wide = Math.abs(high - low);
  if (!(wide > 0) || !Number.isFinite(wide) || !Number.isFinite(value)) return 4;
  return Math.min(6, Math.max(3, Math.ceil(Math.log10(Math.abs(value) / wide)) + 2));
}

// Places of at most `most` ticks on an axis from low to high.
function ticks(low, high, log, most) {
  if (log && high / low > 30) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const step = Math.max(1, Math.ceil((last - first + 1) / most)), found = [];
    for (let power = first; power <= last; power += step) found.push(10 ** power);
    return found;
  }
  const candidates = [];
  for (let size = Math.floor(Math.log10(high - low)) - 1; candidates.length < 9; size++) {
    for (const front of [1, 2, 5]) candidates.push(front * 10 ** size);
  }
  for (const step of candidates) {
    const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
    if (last - first + 1 > most) continue;
    return Array.from({length: last - first + 1}, (_, i) => (first + i) * step);
  }
  return [];
}
